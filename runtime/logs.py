"""The functions' logs: one file per function, written beside the requests. What stands in it is ``loglines``'.

Lines go to memory and from there to ``<directory>/<function>.log`` ten times a second at most; a request never waits
for the disk. A file that has grown past its limit becomes ``<function>.log.1``, in place of the one before. The lines
of one invocation are written together, so they are never mixed with those of another.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from .clock import Alarm, Clock
from .loglines import LogLines, lines_of, of_request
from .routing.ports import InvocationLog
from .spec import FunctionSpec

FLUSH_S = 0.1
MAX_BUFFER_BYTES = 1024 * 1024
"""Written at once instead of after ``FLUSH_S``: what the page cache takes in about a millisecond."""

_log = logging.getLogger(__name__)


class FunctionLog:
    """The log of one revision, in the format that it asks for; it shares ``file`` with the function's others.

    Every method appends and none waits.
    """

    def __init__(self, file: LogFile, lines: LogLines) -> None:
        self.file = file
        self._lines = lines

    def __repr__(self) -> str:
        return f"FunctionLog({self.file!r}, {type(self._lines).__name__})"

    def init_start(self) -> None:
        """Write INIT_START: the handler's module is about to be imported."""
        self.file.append(self._lines.init_start().encode())

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Write INIT_REPORT, the end of an import that no REPORT tells of: it failed, or no request wanted it."""
        self.file.append(self._lines.init_report(init_ms, status, error_type).encode())

    def restore_start(self) -> None:
        """Write RESTORE_START: an instance is about to be forked."""
        self.file.append(self._lines.restore_start().encode())

    def restore_report(self, restore_ms: float) -> None:
        """Write RESTORE_REPORT."""
        self.file.append(self._lines.restore_report(restore_ms).encode())

    def output(self, data: bytes) -> None:
        """Write what a process printed outside of an invocation."""
        self.file.append(_whole_lines(data))

    def invocation(self, lines: InvocationLog, /) -> bytes:
        """Write START, the output, END and REPORT of one invocation, and return them in full."""
        output = _whole_lines(lines.output)
        text = b"".join((self._lines.begin(lines).encode(), output, self._lines.end(lines).encode()))
        self.file.append(text)
        return text


class LogFile:
    """The file of one function, and what is on its way there."""

    def __init__(self, path: Path, *, max_bytes: int, clock: Clock) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._alarm: Alarm | None = None
        self._failing = False
        self.lost_bytes = 0

    def __repr__(self) -> str:
        return f"LogFile({self._path.name}, buffered={self._size_bytes}, lost={self.lost_bytes})"

    def append(self, text: bytes) -> None:
        """Take lines; they reach the file within ``FLUSH_S``."""
        if not text:
            return
        self._parts.append(text)
        self._size_bytes += len(text)
        if self._size_bytes >= MAX_BUFFER_BYTES:
            self.flush()
        elif self._alarm is None:
            self._alarm = self._clock.call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write to the file what is in memory. A file that cannot be written costs the lines, not the request."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._parts:
            return
        text = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        try:
            written = self._write(text)
        except OSError as error:
            self.lost_bytes += len(text)
            if not self._failing:  # said once, not ten times a second
                _log.error("log %s cannot be written, its lines are lost: %s", self._path, error)
            self._failing = True
        else:
            self._failing = False
            if written >= self._max_bytes:
                self._path.replace(self._path.with_name(self._path.name + ".1"))

    def _write(self, text: bytes) -> int:
        """Append to the file and return its size. Opened each time: a thousand functions must not hold descriptors."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(text)
            while view:
                view = view[os.write(descriptor, view) :]
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class Logs:
    """The logs of all functions, in one directory."""

    def __init__(self, directory: Path, *, max_bytes: int, region: str, clock: Clock) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._region = region
        self._clock = clock
        self._files: dict[str, LogFile] = {}

    def __repr__(self) -> str:
        return f"Logs({self._directory}, functions={len(self._files)})"

    def of(self, spec: FunctionSpec) -> FunctionLog:
        """Return the log of one revision; its function's file is opened on first use."""
        file = self._files.get(spec.name)
        if file is None:
            path = self._path(spec.name)
            file = self._files[spec.name] = LogFile(path, max_bytes=self._max_bytes, clock=self._clock)
        return FunctionLog(file, lines_of(spec, self._region, self._clock.time))

    async def read(self, function: str, *, request_id: str | None = None, last: int | None = None) -> str:
        """Return a function's log, oldest line first: of one request, or the ``last`` lines, or all there is."""
        if function in self._files:
            self._files[function].flush()
        text = await asyncio.to_thread(_read_files, self._path(function))
        if request_id is not None:
            text = of_request(text, request_id)
        lines = text.decode(errors="replace").splitlines(keepends=True)
        return "".join(lines if last is None else lines[max(0, len(lines) - last) :])

    def close(self) -> None:
        """Write everything that is still in memory."""
        for file in self._files.values():
            file.flush()

    def _path(self, function: str) -> Path:
        return self._directory / f"{function}.log"


def _whole_lines(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def _read_files(path: Path) -> bytes:
    parts = []
    for file in (path.with_name(path.name + ".1"), path):
        try:
            parts.append(file.read_bytes())
        except FileNotFoundError:
            continue
    return b"".join(parts)
