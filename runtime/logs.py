"""The functions' logs: Lambda's text format, one file per function.

    INIT_START Runtime Version: python:3.11.v7 <tab> Runtime Version ARN: arn:aws:lambda:us-east-1::runtime:<sha256>
    START RequestId: <id> Version: $LATEST
    <what the handler wrote to descriptors 1 and 2>
    END RequestId: <id>
    REPORT RequestId: <id> <tab> Duration: 12.34 ms <tab> Billed Duration: 13 ms <tab> … <tab>

The fields of a line are separated by tabs, and REPORT ends with one, as Lambda's does. A forked start writes
RESTORE_START and RESTORE_REPORT, and its first REPORT has the restore duration.

Lines go to memory and from there to ``<directory>/<function>.log`` ten times a second at most; a request never waits
for the disk. A file that has grown past its limit becomes ``<function>.log.1``, in place of the one before. The lines
of one invocation are written together, so they are never mixed with those of another.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from .clock import Alarm, Clock
from .routing.ports import InvocationLog

FLUSH_S = 0.1
MAX_BUFFER_BYTES = 1024 * 1024
"""Written at once instead of after ``FLUSH_S``: what the page cache takes in about a millisecond."""

_log = logging.getLogger(__name__)


class FunctionLog:
    """The log of one function. Every method appends and none waits."""

    def __init__(self, path: Path, *, max_bytes: int, region: str, clock: Clock) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._region = region
        self._clock = clock
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._alarm: Alarm | None = None
        self._failing = False
        self.lost_bytes = 0

    def __repr__(self) -> str:
        return f"FunctionLog({self._path.name}, buffered={self._size_bytes}, lost={self.lost_bytes})"

    def init_start(self, runtime: str) -> None:
        """Write INIT_START: the handler's module is about to be imported. ``runtime`` is such as ``python3.11``."""
        self._append(f"INIT_START {self._runtime(runtime)}\n".encode())

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Write INIT_REPORT, the end of an import that no REPORT tells of: it failed, or no request wanted it."""
        ending = _ending(status, error_type)
        self._append(f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: init\t{ending}\n".encode())

    def restore_start(self, runtime: str) -> None:
        """Write RESTORE_START: an instance is about to be forked."""
        self._append(f"RESTORE_START {self._runtime(runtime)}\n".encode())

    def restore_report(self, restore_ms: float) -> None:
        """Write RESTORE_REPORT."""
        self._append(f"RESTORE_REPORT Restore Duration: {restore_ms:.2f} ms\t\n".encode())

    def output(self, data: bytes) -> None:
        """Write what a process printed outside of an invocation."""
        if data:
            self._append(data if data.endswith(b"\n") else data + b"\n")

    def invocation(self, lines: InvocationLog, /) -> bytes:
        """Write START, the output, END and REPORT of one invocation, and return them in full."""
        output = lines.output
        if output and not output.endswith(b"\n"):
            output += b"\n"
        text = b"".join(
            (
                f"START RequestId: {lines.request_id} Version: {lines.version}\n".encode(),
                output,
                self._timeout_line(lines) if lines.status == "timeout" else b"",
                format_report(lines).encode(),
            )
        )
        self._append(text)
        return text

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

    def _append(self, text: bytes) -> None:
        self._parts.append(text)
        self._size_bytes += len(text)
        if self._size_bytes >= MAX_BUFFER_BYTES:
            self.flush()
        elif self._alarm is None:
            self._alarm = self._clock.call_later(FLUSH_S, self.flush)

    def _timeout_line(self, lines: InvocationLog) -> bytes:
        moment = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="milliseconds")
        moment = moment.replace("+00:00", "Z")
        return f"{moment} {lines.request_id} Task timed out after {lines.timeout_s:.2f} seconds\n\n".encode()

    def _runtime(self, runtime: str) -> str:
        version = f"python:{runtime.removeprefix('python')}.v{sys.version_info.micro}"
        digest = hashlib.sha256(f"{version} {sys.version}".encode()).hexdigest()
        return f"Runtime Version: {version}\tRuntime Version ARN: arn:aws:lambda:{self._region}::runtime:{digest}"


class Logs:
    """The logs of all functions, in one directory."""

    def __init__(self, directory: Path, *, max_bytes: int, region: str, clock: Clock) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._region = region
        self._clock = clock
        self._logs: dict[str, FunctionLog] = {}

    def __repr__(self) -> str:
        return f"Logs({self._directory}, functions={len(self._logs)})"

    def of(self, function: str) -> FunctionLog:
        """Return the log of one function, made on first use."""
        log = self._logs.get(function)
        if log is None:
            log = self._logs[function] = FunctionLog(
                self._path(function), max_bytes=self._max_bytes, region=self._region, clock=self._clock
            )
        return log

    async def read(self, function: str, *, request_id: str | None = None, last: int | None = None) -> str:
        """Return a function's log, oldest line first: of one request, or the ``last`` lines, or all there is."""
        if function in self._logs:
            self._logs[function].flush()
        text = await asyncio.to_thread(_read_files, self._path(function))
        if request_id is not None:
            text = of_request(text, request_id)
        lines = text.decode(errors="replace").splitlines(keepends=True)
        return "".join(lines if last is None else lines[max(0, len(lines) - last) :])

    def close(self) -> None:
        """Write everything that is still in memory."""
        for log in self._logs.values():
            log.flush()

    def _path(self, function: str) -> Path:
        return self._directory / f"{function}.log"


def format_report(lines: InvocationLog) -> str:
    """Return END and REPORT. Billed durations are rounded up to milliseconds; an import is billed with its request."""
    billed_ms = math.ceil(lines.duration_ms) + math.ceil(lines.init_ms or 0.0)
    init = f"Init Duration: {lines.init_ms:.2f} ms\t" if lines.init_ms is not None else ""
    restore = ""
    if lines.restore_ms is not None:
        billed_restore_ms = math.ceil(lines.restore_ms)
        restore = f"Restore Duration: {lines.restore_ms:.2f} ms\tBilled Restore Duration: {billed_restore_ms} ms\t"
    return (
        f"END RequestId: {lines.request_id}\n"
        f"REPORT RequestId: {lines.request_id}\tDuration: {lines.duration_ms:.2f} ms\tBilled Duration: {billed_ms} ms\t"
        f"Memory Size: {lines.memory_mb} MB\tMax Memory Used: {lines.max_memory_mb} MB\t"
        f"{init}{restore}{_ending(lines.status, lines.error_type)}\n"
    )


def of_request(text: bytes, request_id: str) -> bytes:
    """Return the lines of ``text`` from START to REPORT of one request, of each attempt; empty when there are none.

    What a handler prints is not trusted to look like anything: only what follows its own START counts.
    """
    found = []
    start = f"START RequestId: {request_id} ".encode()
    report = f"REPORT RequestId: {request_id}\t".encode()
    at = 0
    while (begin := _line_start(text, start, at)) >= 0:
        last = _line_start(text, report, begin)
        end = text.find(b"\n", last) + 1 if last >= 0 else 0
        at = end or len(text)
        found.append(text[begin:at])
    return b"".join(found)


def _line_start(text: bytes, prefix: bytes, at: int) -> int:
    """Return where, from ``at`` on, a line begins with ``prefix``; -1 when none does."""
    if at == 0 and text.startswith(prefix):
        return 0
    found = text.find(b"\n" + prefix, max(0, at - 1))
    return found + 1 if found >= 0 else -1


def _ending(status: str, error_type: str) -> str:
    """Return what a REPORT says of an invocation that did not end well."""
    ending = f"Status: {status}\t" if status else ""
    return ending + (f"Error Type: {error_type}\t" if error_type else "")


def _read_files(path: Path) -> bytes:
    parts = []
    for file in (path.with_name(path.name + ".1"), path):
        try:
            parts.append(file.read_bytes())
        except FileNotFoundError:
            continue
    return b"".join(parts)
