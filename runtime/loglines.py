"""The lines that the platform adds to a function's log, in both of Lambda's formats: what stands in them, and no file.

Text:

    INIT_START Runtime Version: python:3.11.v7 <tab> Runtime Version ARN: arn:aws:lambda:us-east-1::runtime:<sha256>
    START RequestId: <id> Version: $LATEST
    <what the handler wrote to descriptors 1 and 2>
    END RequestId: <id>
    REPORT RequestId: <id> <tab> Duration: 12.34 ms <tab> Billed Duration: 13 ms <tab> … <tab>

The fields of a line are separated by tabs, and REPORT ends with one, as Lambda's does. A forked start writes
RESTORE_START and RESTORE_REPORT, and its first REPORT has the restore duration.

JSON (``LoggingConfig.LogFormat``): one object a line, ``{"time": …, "type": "platform.report", "record": {…}}``, those
below ``SystemLogLevel`` left out. An event has level INFO, or DEBUG where it repeats what another says; one that tells
of something that went wrong has WARN. What the handler prints stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from .routing.environment import initialization_type
from .routing.ports import InvocationLog
from .spec import FunctionSpec

_LEVELS = ("DEBUG", "INFO", "WARN")
_RECORD = rb'\{"time":"[^"]*","type":"platform\.%s","record":\{"requestId":"%%s"'
_BEGIN = rb"^(?:START RequestId: %s |" + _RECORD % b"start" + rb")"
_END = rb"^(?:REPORT RequestId: %s\t|" + _RECORD % b"report" + rb").*\n?"


class LogLines(Protocol):
    """One format. Every method returns whole lines."""

    def init_start(self) -> str:
        """The handler's module is about to be imported."""

    def init_report(self, init_ms: float, status: str, error_type: str) -> str:
        """The end of an import that no REPORT tells of: it failed, or no request wanted it."""

    def restore_start(self) -> str:
        """An instance is about to be forked."""

    def restore_report(self, restore_ms: float) -> str:
        """It is there."""

    def begin(self, lines: InvocationLog) -> str:
        """What stands before the output of an invocation."""

    def end(self, lines: InvocationLog) -> str:
        """What stands after it."""


class TextLines:
    """The text format, for functions of ``runtime`` (such as ``python3.11``). ``now`` returns Unix time."""

    def __init__(self, runtime: str, region: str, now: Callable[[], float]) -> None:
        self._runtime = "Runtime Version: {}\tRuntime Version ARN: {}".format(*_runtime_version(runtime, region))
        self._now = now

    def init_start(self) -> str:
        """Return INIT_START."""
        return f"INIT_START {self._runtime}\n"

    def init_report(self, init_ms: float, status: str, error_type: str) -> str:
        """Return INIT_REPORT."""
        return f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: init\t{_ending(status, error_type)}\n"

    def restore_start(self) -> str:
        """Return RESTORE_START."""
        return f"RESTORE_START {self._runtime}\n"

    def restore_report(self, restore_ms: float) -> str:
        """Return RESTORE_REPORT."""
        return f"RESTORE_REPORT Restore Duration: {restore_ms:.2f} ms\t\n"

    def begin(self, lines: InvocationLog) -> str:
        """Return START."""
        return f"START RequestId: {lines.request_id} Version: {lines.version}\n"

    def end(self, lines: InvocationLog) -> str:
        """Return END and REPORT, after the notice where there is one."""
        notice = f"{_moment(self._now())} {lines.request_id} {lines.notice}\n\n" if lines.notice else ""
        init = f"Init Duration: {lines.init_ms:.2f} ms\t" if lines.init_ms is not None else ""
        restore = ""
        if lines.restore_ms is not None:
            restore = (
                f"Restore Duration: {lines.restore_ms:.2f} ms\t"
                f"Billed Restore Duration: {math.ceil(lines.restore_ms)} ms\t"
            )
        return (
            f"{notice}END RequestId: {lines.request_id}\n"
            f"REPORT RequestId: {lines.request_id}\tDuration: {lines.duration_ms:.2f} ms\t"
            f"Billed Duration: {_billed_ms(lines)} ms\tMemory Size: {lines.memory_mb} MB\t"
            f"Max Memory Used: {lines.max_memory_mb} MB\t"
            f"{init}{restore}{_ending(lines.status, lines.error_type)}\n"
        )


class JsonLines:
    """The JSON format, for functions like ``spec``. ``now`` returns Unix time."""

    def __init__(self, spec: FunctionSpec, region: str, now: Callable[[], float]) -> None:
        version, arn = _runtime_version(spec.runtime, region)
        self._about = {
            "runtimeVersion": version,
            "runtimeVersionArn": arn,
            "functionName": spec.name,
            "functionVersion": spec.version,
        }
        self._phase = {"initializationType": initialization_type(spec), "phase": "init"}
        self._least = _LEVELS.index(spec.system_log_level)
        self._now = now

    def init_start(self) -> str:
        """Return platform.initStart."""
        return self._line("initStart", self._phase | self._about)

    def init_report(self, init_ms: float, status: str, error_type: str) -> str:
        """Return platform.initRuntimeDone and platform.initReport."""
        record = {**self._phase, "status": _status(status, failed=False), **_error(error_type)}
        report = {**record, "metrics": {"durationMs": _ms(init_ms)}}
        return self._line("initRuntimeDone", record, detail=True) + self._line("initReport", report)

    def restore_start(self) -> str:
        """Return platform.restoreStart."""
        return self._line("restoreStart", self._about)

    def restore_report(self, restore_ms: float) -> str:
        """Return platform.restoreRuntimeDone and platform.restoreReport."""
        report = {"status": "success", "metrics": {"durationMs": _ms(restore_ms)}}
        return self._line("restoreRuntimeDone", {"status": "success"}, detail=True) + self._line(
            "restoreReport", report
        )

    def begin(self, lines: InvocationLog) -> str:
        """Return platform.start."""
        record = {"requestId": lines.request_id, "version": lines.version}
        return self._line("start", record, at_s=self._now() - lines.duration_ms / 1e3)

    def end(self, lines: InvocationLog) -> str:
        """Return platform.runtimeDone and platform.report, after the notice where there is one."""
        notice = ""
        if lines.notice:
            message = f"{lines.request_id} {lines.notice}"
            told = {"timestamp": _moment(self._now()), "level": "ERROR", "message": message}
            notice = _encode({**told, "requestId": lines.request_id})
        record = {
            "requestId": lines.request_id,
            "status": _status(lines.status, failed=lines.failed),
            **_error(lines.error_type),
        }
        metrics: dict[str, float] = {"durationMs": _ms(lines.duration_ms)}
        done = {**record, "metrics": {**metrics, "producedBytes": lines.produced_bytes}}
        metrics |= {
            "billedDurationMs": _billed_ms(lines),
            "memorySizeMB": lines.memory_mb,
            "maxMemoryUsedMB": lines.max_memory_mb,
        }
        if lines.init_ms is not None:
            metrics["initDurationMs"] = _ms(lines.init_ms)
        if lines.restore_ms is not None:
            metrics["restoreDurationMs"] = _ms(lines.restore_ms)
        report = {**record, "metrics": metrics}
        return notice + self._line("runtimeDone", done, detail=True) + self._line("report", report)

    def _line(self, kind: str, record: dict[str, Any], *, detail: bool = False, at_s: float | None = None) -> str:
        good = record.get("status", "success") == "success"
        if _LEVELS.index(("DEBUG" if detail else "INFO") if good else "WARN") < self._least:
            return ""
        moment = _moment(self._now() if at_s is None else at_s)
        return _encode({"time": moment, "type": f"platform.{kind}", "record": record})


def lines_of(spec: FunctionSpec, region: str, now: Callable[[], float]) -> LogLines:
    """Return the format that ``spec`` asks for."""
    if spec.log_format == "JSON":
        return JsonLines(spec, region, now)
    return TextLines(spec.runtime, region, now)


def of_request(text: bytes, request_id: str) -> bytes:
    """Return the lines of ``text`` from the first to the last of one request, of each attempt; empty when none is.

    What a handler prints is not trusted to look like anything: only what follows its own START counts.
    """
    found = []
    name = re.escape(request_id).encode()
    begin, end = (re.compile(pattern % (name, name), re.MULTILINE) for pattern in (_BEGIN, _END))
    at = 0
    while (first := begin.search(text, at)) is not None:
        last = end.search(text, first.end())
        at = len(text) if last is None else last.end()
        found.append(text[first.start() : at])
    return b"".join(found)


def _runtime_version(runtime: str, region: str) -> tuple[str, str]:
    version = f"python:{runtime.removeprefix('python')}.v{sys.version_info.micro}"
    digest = hashlib.sha256(f"{version} {sys.version}".encode()).hexdigest()
    return version, f"arn:aws:lambda:{region}::runtime:{digest}"


def _billed_ms(lines: InvocationLog) -> int:
    """Billed durations are rounded up to milliseconds; an import is billed with its request."""
    return math.ceil(lines.duration_ms) + math.ceil(lines.init_ms or 0.0)


def _ending(status: str, error_type: str) -> str:
    """Return what a REPORT says of an invocation that did not end well."""
    ending = f"Status: {status}\t" if status else ""
    return ending + (f"Error Type: {error_type}\t" if error_type else "")


def _status(status: str, *, failed: bool) -> str:
    """Return a status of the JSON format, which tells a handler that raised from a process that ended."""
    if status == "error":
        return "failure"
    return status or ("error" if failed else "success")


def _error(error_type: str) -> dict[str, str]:
    return {"errorType": error_type} if error_type else {}


def _ms(milliseconds: float) -> float:
    return round(milliseconds, 3)


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
