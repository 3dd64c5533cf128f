"""Python's ``logging`` as Lambda's runtime sets it up, in the format that ``AWS_LAMBDA_LOG_FORMAT`` asks for.

Text:

    [INFO]<tab>2026-01-01T00:00:00.123Z<tab><request id><tab>message

JSON: one object a line, with what the author gave as ``extra`` beside Lambda's own keys.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from typing import Any

_SECONDS = "%Y-%m-%dT%H:%M:%S"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id"}
"""What every record has: the rest is the author's."""
_LEVELS = {"TRACE": "DEBUG"}  # Lambda's name, and the lowest that Python has


class RequestLog(logging.Handler):
    """Writes records to standard output, with the id of the invocation that is running (empty during import)."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.request_id = ""
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``; what cannot be formatted is reported by ``logging`` itself."""
        record.aws_request_id = self.request_id
        try:
            sys.stdout.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    """Lambda's JSON form of a record. A message that is a mapping stays one; what JSON has no form of becomes text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        own: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "logger": record.name,
            "requestId": getattr(record, "aws_request_id", "") or None,
        }
        if record.exc_info and record.exc_info[0] is not None:
            own |= {
                "stackTrace": traceback.format_tb(record.exc_info[2]),
                "errorType": record.exc_info[0].__name__,
                "errorMessage": str(record.exc_info[1]),
                "location": f"{record.pathname}:{record.funcName}:{record.lineno}",
            }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in own}
        shown = {name: value for name, value in (own | extra).items() if value is not None}
        return json.dumps(shown, ensure_ascii=False, default=str)


def install() -> RequestLog:
    """Add a ``RequestLog`` to the root logger and return it, with the format and level of the function's environment.

    Where that names no level, the root's stays WARNING, as on Lambda.
    """
    handler = RequestLog(JsonFormatter() if is_json() else text_formatter())
    root = logging.getLogger()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    number = logging.getLevelName(_LEVELS.get(level, level))
    if isinstance(number, int):
        root.setLevel(number)
    root.addHandler(handler)
    return handler


def text_formatter() -> logging.Formatter:
    """Return the formatter of the text format."""
    formatter = logging.Formatter(
        "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", _SECONDS
    )
    formatter.converter = time.gmtime
    return formatter


def is_json() -> bool:
    """Return whether the function asks for JSON lines."""
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


def timestamp(unix_s: float) -> str:
    """Return a moment as Lambda's runtime writes it, in whole seconds."""
    return time.strftime(f"{_SECONDS}Z", time.gmtime(unix_s))
