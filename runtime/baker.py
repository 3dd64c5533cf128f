"""One bake: a child process that makes an engine for one model.

    python -P -m glowplug.runtime.worker.bake --events-fd N

Standard input is the job as JSON: ``{"load": {fields of wire.Load}, "model", "wanted", "staging", "snapshots",
"again"}``. The child imports the author's module, bakes into ``staging`` and writes JSON lines to descriptor N, which
``bakereport`` reads.

Baking competes with serving, so the child is nice, alone (the queue in ``snapshots`` runs one at a time) and limited in
time and memory. It is a session of its own and dies as a group, compilers included. Everything it writes is below a
directory of its own, compiler caches too: a cache shared between functions would let one plant code for another.

Where functions have users of their own, so has the bake: ``process.enter`` confines it before the author's code runs.
Such a user cannot write below the state directory, so its directory is a temporary one, which the node removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from glowplug.cache.digest import bytes_digest
from glowplug.snapshot.candidates import AUTO
from glowplug.snapshot.choice import Wanted
from glowplug.snapshot.onnx.session import obstacle as onnx_obstacle

from .bakereport import BakeFailed, BakeVerdict, OnProgress, listen, verdict_of
from .process import wire
from .process.enter import format_environment
from .process.execute import base_environment, python
from .process.sweep import Records

COMMAND = tuple(python("glowplug.runtime.worker.bake", []))

NICE = 10
"""Added to the niceness of a bake: it gets about a tenth of a core that a busy worker wants as well."""

_LOG_TAIL_BYTES = 2048


@dataclass(frozen=True, slots=True)
class BakeJob:
    """What to bake, and as whom: a ``uid`` (and gid) of -1 leaves the user as it is.

    ``again`` is the key of a snapshot that has been verified and whose engines are to be measured again; ``anew``
    asks not to use any that is there, because an engine of it was given up.
    """

    load: wire.Load
    model: str
    wanted: Wanted
    uid: int = -1
    again: str = ""
    anew: bool = False


@dataclass(frozen=True, slots=True)
class BakeLimits:
    """How long a bake may take, in seconds, and how much memory each of its processes may have, in bytes."""

    time_s: float = 1800.0
    memory_bytes: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


class Baker:
    """Runs bakes as child processes. ``directory`` holds one subdirectory per job, ``snapshots`` the published ones.

    ``expose`` are directories that a bake with a user of its own may read: code and blobs.
    """

    def __init__(
        self,
        directory: Path,
        snapshots: Path,
        *,
        environ: Mapping[str, str],
        expose: Sequence[Path] = (),
        records: Records | None = None,
        limits: BakeLimits | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._directory = directory
        self._prefix = f"glowplug-bake-{bytes_digest(str(directory).encode())[:12]}-"  # other nodes use /tmp as well
        self._snapshots = snapshots
        self._environment = base_environment(environ)
        if environ.get("CXX"):
            self._environment["CXX"] = environ["CXX"]
        self._expose = [word for path in (*expose, snapshots) for word in ("--expose", str(path))]
        self._records = records
        self._limits = limits or BakeLimits()
        self._command = tuple(command)
        self._jobs = 0

    def __repr__(self) -> str:
        return f"Baker({str(self._directory)!r}, jobs={self._jobs})"

    def obstacle(self, engine: str = AUTO) -> str:
        """Return why nothing better than eager can be made here for who asks for ``engine``; empty when it can."""
        compiler = self._environment.get("CXX", "g++")
        missing = {
            "aot_inductor": f"no C++ compiler ({compiler} is not in PATH); install g++ and bake again"
            if shutil.which(compiler, path=self._environment["PATH"]) is None
            else "",
            "onnxruntime": onnx_obstacle("onnx"),
        }
        asked = [reason for name, reason in missing.items() if engine in (AUTO, name)]
        return "; ".join(asked) if asked and all(asked) else ""

    def sweep(self) -> None:
        """Remove what the bakes of a killed node left behind. Call once, at start, when none of them lives any more."""
        for parent in (self._directory, Path(tempfile.gettempdir())):
            for home in parent.glob(f"{self._prefix}*"):
                shutil.rmtree(home)

    @contextlib.asynccontextmanager
    async def bake(self, job: BakeJob, on_progress: OnProgress) -> AsyncIterator[tuple[BakeVerdict, Path]]:
        """Run ``job``; give its verdict and the staging directory, which is gone when the block ends.

        Raises ``BakeFailed``. Cancelling kills the child with its group.
        """
        self._jobs += 1
        parent = self._directory if job.uid < 0 else Path(tempfile.gettempdir())
        home = await asyncio.to_thread(_prepare, parent, self._prefix, job.uid)
        try:
            verdict = await self._run(home, job, on_progress)
            yield verdict, home / "staging"
        finally:
            # shielded: a cancelled bake must not leave its gigabytes of compiler cache behind
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, home, True))

    async def _run(self, home: Path, job: BakeJob, on_progress: OnProgress) -> BakeVerdict:
        reader_fd, writer_fd = os.pipe()
        with os.fdopen(reader_fd, "rb", buffering=0) as pipe, tempfile.TemporaryFile() as log:
            try:
                process = await self._spawn(home, job.uid, writer_fd, log)
            finally:
                os.close(writer_fd)
            try:
                async with asyncio.timeout(self._limits.time_s):
                    self._confine(process.pid, job.uid)
                    await _send(process.stdin, self._job_text(job, home))
                    final = await listen(pipe, on_progress)
                    status = await process.wait()
            except TimeoutError:
                raise BakeFailed("TimedOut", f"took longer than {self._limits.time_s:g} s") from None
            finally:
                await self._end(process)
            return verdict_of(final, otherwise=f"the bake ended with {_ending(status)}: {_tail(log)}")

    async def _spawn(self, home: Path, uid: int, writer_fd: int, log: IO[bytes]) -> asyncio.subprocess.Process:
        environment = bake_environment(self._environment, home)
        command = [*self._command, "--events-fd", str(writer_fd)]
        with tempfile.TemporaryFile() as file:  # a stage of its own confines; what it execs gets its environment so
            if uid >= 0:
                file.write(format_environment(environment))
                file.seek(0)
                users = ["--uid", str(uid), "--gid", str(uid), "--environment-fd", str(file.fileno()), *self._expose]
                limits = ["--nice", str(NICE), "--data-bytes", str(self._limits.memory_bytes)]
                command = python("glowplug.runtime.process.enter", [*users, *limits, "--", *command])
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=home,
                pass_fds=(writer_fd, file.fileno()) if uid >= 0 else (writer_fd,),
                start_new_session=True,
            )

    def _confine(self, pid: int, uid: int) -> None:
        """Set what can be set from outside. The child has done nothing yet: it waits for its job on standard input.

        One that becomes another user may have done so by now; it has limited itself before (``process.enter``).
        """
        if uid < 0:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, NICE)
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._limits.memory_bytes, self._limits.memory_bytes))
        with contextlib.suppress(OSError):  # a kernel without autogroups, where niceness counts by itself
            Path(f"/proc/{pid}/autogroup").write_text(str(NICE))  # between sessions only the group's niceness counts
        if self._records is not None:
            self._records.add(pid, "bake")

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or a group that is only zombies
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
        if self._records is not None:
            self._records.remove(process.pid)

    def _job_text(self, job: BakeJob, home: Path) -> bytes:
        fields = {
            "load": dataclasses.asdict(job.load),
            "model": job.model,
            "wanted": job.wanted.to_json(),
            "staging": str(home / "staging"),
            "snapshots": str(home / "none" if job.anew else self._snapshots),
            "again": job.again,
        }
        return json.dumps(fields).encode()


def bake_environment(base: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment of a bake: ``base``, and every cache and scratch place below ``home``."""
    return {
        **base,
        "PYTHONUTF8": "1",  # compilers quote in UTF-8, whatever LANG the function asks for
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }


def _prepare(parent: Path, prefix: str, uid: int) -> Path:
    """Make a job's directories below ``parent``, owned by ``uid``."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    for directory in (home / "staging", home / "tmp"):
        directory.mkdir(mode=0o700)
        os.chown(directory, uid, uid)
    os.chown(home, uid, uid)
    return home


async def _send(stdin: asyncio.StreamWriter | None, data: bytes) -> None:
    assert stdin is not None  # noqa: S101  (asked for with PIPE)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; its status and log say why
        stdin.write(data)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


def _ending(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
    return log.read().decode(errors="replace").strip() or "it printed nothing"
