"""What an author sees of an exception: Lambda's error body, and the ``[ERROR]`` line in the log.

Both are trimmed to the author's frames: the leading frames of this package and of the import machinery say nothing that
the author can change. Shapes: spec 1.6 (body) and 6.2 (log line).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar

from . import requestlog

_OUR_FRAMES = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORT_FRAMES = ("<frozen importlib", os.path.join(os.path.dirname(os.__file__), "importlib") + os.sep)


class HandlerError(Exception):
    """The handler that was named cannot be found or imported. Subclasses carry Lambda's ``errorType``."""

    error_type: ClassVar[str] = "Runtime.Unknown"

    def __init__(self, message: str, *stack_trace: str) -> None:
        super().__init__(message)
        self.stack_trace = list(stack_trace)


class MalformedHandlerName(HandlerError):
    """The handler string has no dot."""

    error_type = "Runtime.MalformedHandlerName"


class BuiltInModuleConflict(HandlerError):
    """The handler's module has the name of one that is built into Python."""

    error_type = "Runtime.BuiltInModuleConflict"


class ImportModuleError(HandlerError):
    """The handler's module, or something that it imports, cannot be imported."""

    error_type = "Runtime.ImportModuleError"


class UserCodeSyntaxError(HandlerError):
    """The handler's module, or one that it imports, is not Python."""

    error_type = "Runtime.UserCodeSyntaxError"


class HandlerNotFound(HandlerError):
    """The module has no such attribute."""

    error_type = "Runtime.HandlerNotFound"


class MarshalError(HandlerError):
    """What the handler returned is not JSON."""

    error_type = "Runtime.MarshalError"


class ResponseTooLarge(HandlerError):
    """What a stream came to, for a caller that wants it whole, is more than may be answered."""

    error_type = "Function.ResponseSizeTooLarge"


class UnmarshalError(HandlerError):
    """The event is not JSON."""

    error_type = "Runtime.UnmarshalError"


class ContextUnmarshalError(HandlerError):
    """The client context or the identity that came with an invocation is not a JSON object."""

    error_type = "Runtime.LambdaContextUnmarshalError"


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception in the terms of Lambda's error body."""

    error_type: str
    error_message: str
    stack_trace: list[str]

    @classmethod
    def of(cls, error: BaseException, error_type: str = "") -> Fault:
        """Describe ``error``; ``error_type`` replaces the name of its class, which then opens the message."""
        if isinstance(error, HandlerError):
            return cls(error.error_type, str(error), error.stack_trace)
        name, message, trace = type(error).__name__, _text(error), stack_trace(error.__traceback__)
        return cls(error_type, f"{name}: {message}", trace) if error_type else cls(name, message, trace)

    def body(self, request_id: str) -> bytes:
        """Return the error body; a character that UTF-8 cannot hold becomes a question mark."""
        return json.dumps(self._fields(request_id), ensure_ascii=False).encode("utf-8", "replace")

    def _fields(self, request_id: str) -> dict[str, object]:
        return {
            "errorMessage": self.error_message,
            "errorType": self.error_type,
            "requestId": request_id,
            "stackTrace": self.stack_trace,
        }

    def log(self, request_id: str = "") -> None:
        """Print the error to the function's log as one record: as JSON where the function logs so, else its lines
        joined by CR and indented by no-break spaces."""
        if requestlog.is_json():
            head = {"timestamp": requestlog.timestamp(time.time()), "level": "ERROR"}
            print(json.dumps({**head, **self._fields(request_id)}, ensure_ascii=False))
            return
        lines = [f"[ERROR] {self.error_type}: {self.error_message}" if self.error_message else self.error_type]
        if self.stack_trace:
            lines.append("Traceback (most recent call last):")
            lines.extend(_indented(line) for entry in self.stack_trace for line in entry.splitlines())
        print("\r".join(lines))


def stack_trace(start: TracebackType | None) -> list[str]:
    """Return the formatted frames of a traceback, from the first that is the author's."""
    frames = traceback.extract_tb(start)
    skipped = 0
    while skipped < len(frames) and frames[skipped].filename.startswith((_OUR_FRAMES, *_IMPORT_FRAMES)):
        skipped += 1
    # As tuples: a FrameSummary would add lines of carets, which Lambda's traces do not have.
    return traceback.format_list(
        [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in frames[skipped:]]
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # an author's __str__ may raise; the error it belongs to is still to be reported
        return f"<{type(error).__name__} whose text raised {type(broken).__name__}>"


def _indented(line: str) -> str:
    bare = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(bare)) + bare


def exit_status(error: SystemExit) -> int:
    """Return the exit status that ``error`` asks for, printing its text as the interpreter would."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
