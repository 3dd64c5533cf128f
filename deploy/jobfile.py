"""What is kept of a batch job beside its output, so that the same command goes on with it.

``OUTPUT.job`` says what the job is, and in a second line, once it is done, what came of it. ``OUTPUT.part`` has the
results so far, one line each, in the order of the inputs: the number of its lines is how far the job is, and a line
that was cut off is not one. For an output in S3 both are in the state directory. Whoever holds the lock on the job file
runs the job.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import JobError
from .jobinputs import Input, s3, split

_SYNC_LINES = 256


class JobFile:
    """A job on disk while it is entered. ``done`` is the number of lines that have results, ``errors`` of how many of
    them those are errors."""

    def __init__(self, output: str, home: Path) -> None:
        self.output = output
        base = Path(output).absolute()
        if output.startswith("s3://"):
            split(output)
            base = home / "jobs" / hashlib.sha256(output.encode()).hexdigest()[:16]
            base.parent.mkdir(parents=True, exist_ok=True)
        self._job, self._part = base.with_name(f"{base.name}.job"), base.with_name(f"{base.name}.part")
        self._lock: IO[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._unsynced = 0
        self.id = ""
        self.done = 0
        self.errors = 0
        self.continued = False

    def open(self, function: str, inputs: list[Input], *, restart: bool) -> bool:
        """Begin the job, or go on with it; return whether there is anything to do.

        Raises ``JobError`` where somebody else runs it, the output is there already or an input, or the job is another
        one.
        """
        if not self._job.parent.is_dir():
            raise JobError(f"{self.output}: there is no directory {self._job.parent}")
        name = self.output if self.output.startswith("s3://") else str(Path(self.output).absolute())
        if name in {one.name for one in inputs}:
            raise JobError(f"{self.output} is an input too; the output would take its place")
        self._lock = os.fdopen(os.open(self._job, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(f"{self.output}: another `glowplug map` is working on it") from None
        about = {"function": function, "inputs": [[one.name, one.size, one.version] for one in inputs]}
        known, ended = _read(self._lock)
        if known is None or restart:
            if not self.output.startswith("s3://") and Path(self.output).exists() and not restart:
                self._job.unlink()
                raise JobError(f"{self.output} is there already; take it away, or begin anew with --restart")
            self._begin(about)
        elif {name: known.get(name) for name in about} != about:
            raise JobError(
                f"{self._job}: the job that was begun there has another function or other inputs, or they have changed "
                "since; begin anew with --restart"
            )
        elif not self._part.exists():  # it was finished, and killed before it said so
            self._job.unlink()
            self.done, self.errors = int(ended.get("lines", 0)), int(ended.get("errors", 0))
            return False
        else:
            self.id, self.continued = str(known["id"]), True
            self._resume()
        return True

    def _begin(self, about: Mapping[str, Any]) -> None:
        assert self._lock is not None  # noqa: S101
        self.id = uuid.uuid4().hex
        self._part.write_bytes(b"")
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(json.dumps({"id": self.id, **about}).encode())
        self._lock.flush()
        os.fsync(self._lock.fileno())
        self._file = self._part.open("ab")

    def _resume(self) -> None:
        end = 0
        with self._part.open("rb") as part:
            for line in part:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                self.done += 1
                self.errors += "error" in json.loads(line)
        os.truncate(self._part, end)
        self._file = self._part.open("ab")

    def write(self, result: Mapping[str, Any]) -> None:
        """Add the result of the next line."""
        assert self._file is not None  # noqa: S101 - open comes first
        self._file.write(
            json.dumps(result, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
        )
        self._file.write(b"\n")
        self._file.flush()
        self.done += 1
        self.errors += "error" in result
        self._unsynced += 1
        if self._unsynced >= _SYNC_LINES:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def finish(self) -> None:
        """Put the output where it belongs, whole; the job is over."""
        assert self._file is not None  # noqa: S101
        assert self._lock is not None  # noqa: S101
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.seek(0, os.SEEK_END)
        self._lock.write(b"\n" + json.dumps({"lines": self.done, "errors": self.errors}).encode())
        self._lock.flush()
        os.fsync(self._lock.fileno())
        if self.output.startswith("s3://"):
            bucket, key = split(self.output)
            with s3(self.output) as client:
                client.upload_file(str(self._part), bucket, key)
            self._part.unlink()
        else:
            os.replace(self._part, self.output)
        self._job.unlink()

    def discard(self) -> None:
        """Forget a job of which nothing was run; one that has results stays."""
        if self.done == 0:
            self._part.unlink()
            self._job.unlink()

    def __enter__(self) -> JobFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._lock):
            if file is not None and not file.closed:
                file.close()


def _read(file: IO[bytes]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return what a job file says: what the job is, None for a new one, or one whose writer was killed before the job
    began; and what came of it, empty before its end."""
    known, *ended = [_object(line) for line in file.read().splitlines()] or [{}]
    return known if "id" in known else None, ended[-1] if ended else {}


def _object(line: bytes) -> dict[str, Any]:
    """Return a line of a job file; empty for one that was cut off."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
