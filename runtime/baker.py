"""One bake: a child process that makes an engine for one model, and what the node hears from it.

    python -P -m glowplug.runtime.worker.bake --progress-fd N

Standard input is the job as JSON: ``{"load": {fields of wire.Load}, "model", "engine", "staging", "snapshots", "uid",
"gid"}``. The child imports the author's module, bakes into ``staging`` and writes JSON lines to descriptor N:

    {"event": "progress", "phase": "import|export|compile|measure|check", "fraction": 0…1}
    {"event": "done", "key": …, "reused": bool, "verdict": "aot_inductor"|"eager", "reason": …}
    {"event": "failed", "error_type": …, "message": …}

Baking competes with serving, so the child is nice, alone (the queue in ``snapshots`` runs one at a time) and limited in
time and memory. It is a session of its own and dies as a group, compilers included. Everything it writes is below a
directory of its own, compiler caches too: a cache shared between functions would let one plant code for another.
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
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .process import wire
from .process.sweep import Records

NICE = 10
"""Added to the niceness of a bake: it gets about a tenth of a core that a busy worker wants as well."""

_LOG_TAIL_BYTES = 2048
_PASSED_ON = ("PATH", "PYTHONPATH", "CXX")

OnProgress = Callable[["BakeProgress"], None]


class BakeFailed(Exception):
    """No snapshot was made. ``error_type`` is the class name that the child reported, or ``Killed`` or ``TimedOut``."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class BakeProgress:
    """How far a bake is: ``phase`` and the part of it that is done, 0 to 1."""

    phase: str
    fraction: float


@dataclass(frozen=True, slots=True)
class BakeJob:
    """What to bake. ``uid`` and ``gid`` of -1 leave the user as it is."""

    load: wire.Load
    model: str
    engine: str
    uid: int = -1
    gid: int = -1


@dataclass(frozen=True, slots=True)
class BakeVerdict:
    """What a bake found out: the snapshot's ``key``, whether it was there before (``reused``; nothing is staged then),
    the engine to use (``engine``, which may be ``eager``) and why."""

    key: str
    reused: bool
    engine: str
    reason: str


@dataclass(frozen=True, slots=True)
class BakeLimits:
    """How long a bake may take, in seconds, and how much memory each of its processes may have, in bytes."""

    time_s: float = 1800.0
    memory_bytes: int = 0  # 0: no limit


class Baker:
    """Runs bakes as child processes. ``directory`` holds one subdirectory per job, ``snapshots`` the published ones."""

    def __init__(
        self,
        directory: Path,
        snapshots: Path,
        *,
        environ: Mapping[str, str],
        records: Records | None = None,
        limits: BakeLimits | None = None,
        executable: str = sys.executable,
        module: str = "glowplug.runtime.worker.bake",
    ) -> None:
        self._directory = directory
        self._snapshots = snapshots
        self._environ = {name: environ[name] for name in _PASSED_ON if name in environ}
        self._records = records
        self._limits = limits or BakeLimits()
        self._command = (executable, "-P", "-m", module)
        self._jobs = 0

    def __repr__(self) -> str:
        return f"Baker({str(self._directory)!r}, jobs={self._jobs})"

    def obstacle(self) -> str:
        """Return why engines that need a compiler cannot be made here; empty when they can."""
        compiler = self._environ.get("CXX") or "g++"
        if shutil.which(compiler, path=self._environ.get("PATH", os.defpath)) is None:
            return f"no C++ compiler ({compiler} is not in PATH); install g++ and bake again"
        return ""

    @contextlib.asynccontextmanager
    async def bake(self, job: BakeJob, on_progress: OnProgress) -> AsyncIterator[tuple[BakeVerdict, Path]]:
        """Run ``job``; give its verdict and the staging directory, which is gone when the block ends.

        Raises ``BakeFailed``. Cancelling kills the child with its group.
        """
        self._jobs += 1
        home = self._directory / f"{os.getpid()}-{self._jobs}"
        try:
            staging = await asyncio.to_thread(_prepare, home, job.uid, job.gid)
            verdict = await self._run(home, staging, job, on_progress)
            yield verdict, staging
        finally:
            # shielded: a cancelled bake must not leave its gigabytes of compiler cache behind
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, home, True))

    async def _run(self, home: Path, staging: Path, job: BakeJob, on_progress: OnProgress) -> BakeVerdict:
        reader_fd, writer_fd = os.pipe()
        with os.fdopen(reader_fd, "rb", buffering=0) as pipe:
            try:
                with (home / "log").open("wb") as log:
                    process = await self._spawn(home, writer_fd, log)
            finally:
                os.close(writer_fd)
            try:
                async with asyncio.timeout(self._limits.time_s):
                    self._confine(process.pid)
                    await _send(process.stdin, self._job_text(job, staging))
                    final = await _listen(pipe, on_progress)
                    status = await process.wait()
            except TimeoutError:
                raise BakeFailed("TimedOut", f"took longer than {self._limits.time_s:g} s") from None
            finally:
                await self._end(process)
        if final.get("event") == "done":
            return BakeVerdict(final["key"], final["reused"], final["verdict"], final["reason"])
        if final.get("event") == "failed":
            raise BakeFailed(final["error_type"], final["message"])
        raise BakeFailed("Killed", f"the bake ended with {_ending(status)}: {_tail(home / 'log')}")

    async def _spawn(self, home: Path, writer_fd: int, log: IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--progress-fd",
            str(writer_fd),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=bake_environment(self._environ, home),
            cwd=home,
            pass_fds=(writer_fd,),
            start_new_session=True,
        )

    def _confine(self, pid: int) -> None:
        """Set what can be set from outside. The child has done nothing yet: it waits for its job on standard input."""
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, NICE)
            if self._limits.memory_bytes:
                limit = (self._limits.memory_bytes, self._limits.memory_bytes)
                resource.prlimit(pid, resource.RLIMIT_DATA, limit)
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

    def _job_text(self, job: BakeJob, staging: Path) -> bytes:
        fields = {
            "load": dataclasses.asdict(job.load),
            "model": job.model,
            "engine": job.engine,
            "staging": str(staging),
            "snapshots": str(self._snapshots),
            "uid": job.uid,
            "gid": job.gid,
        }
        return json.dumps(fields).encode()


def bake_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment of a bake: the compiler's search path, and every cache and scratch place below ``home``."""
    return {
        "PATH": os.defpath,
        **environ,
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }


def _prepare(home: Path, uid: int, gid: int) -> Path:
    home.mkdir(mode=0o700, parents=True)
    staging = home / "staging"
    for directory in (staging, home / "tmp"):
        directory.mkdir(mode=0o700)
    for directory in (home, staging, home / "tmp"):
        os.chown(directory, uid, gid)
    return staging


async def _send(stdin: asyncio.StreamWriter | None, data: bytes) -> None:
    assert stdin is not None  # noqa: S101  (asked for with PIPE)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; its status and log say why
        stdin.write(data)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _listen(pipe: IO[bytes], on_progress: OnProgress) -> dict[str, Any]:
    """Read the child's lines until it closes its end; return the last that is a verdict, or nothing."""
    reader = asyncio.StreamReader(limit=1024 * 1024)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    final: dict[str, Any] = {}
    try:
        async for line in reader:
            event = _event(line)
            if event.get("event") == "progress":
                on_progress(BakeProgress(str(event["phase"]), float(event["fraction"])))
            elif event:
                final = event
    finally:
        transport.close()
    return final


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "progress": {"phase": str, "fraction": (int, float)},
    "done": {"key": str, "reused": bool, "verdict": str, "reason": str},
    "failed": {"error_type": str, "message": str},
}


def _event(line: bytes) -> dict[str, Any]:
    """Return a line as an event; nothing for what is none. The child runs an author's code and is not trusted."""
    try:
        event = json.loads(line)
        fields = _FIELDS[event["event"]]
        well_formed = all(isinstance(event[name], kind) for name, kind in fields.items())
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(event) if well_formed else {}


def _ending(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip() or "it printed nothing"
