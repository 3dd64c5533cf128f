"""Python's ``logging`` as Lambda's runtime sets it up in text format.

[INFO]<tab>2026-01-01T00:00:00.123Z<tab><request id><tab>message
"""

from __future__ import annotations

import logging
import sys
import time


class RequestLog(logging.Handler):
    """Writes records to standard output, with the id of the invocation that is running (empty during import)."""

    def __init__(self) -> None:
        super().__init__()
        self.request_id = ""
        formatter = logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``; what cannot be formatted is reported by ``logging`` itself."""
        record.aws_request_id = self.request_id
        try:
            sys.stdout.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def install() -> RequestLog:
    """Add a ``RequestLog`` to the root logger and return it. The root's level stays WARNING, as on Lambda."""
    handler = RequestLog()
    logging.getLogger().addHandler(handler)
    return handler
