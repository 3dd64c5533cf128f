"""TensorRT itself, imported when it is needed, and its words.

TensorRT says what went wrong in two ways: to a logger, and to an error recorder. Its calls return ``None`` or false and
raise nothing. ``Log`` listens to both and keeps the last lines, so that the errors made of a ``None`` can quote them.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

KEPT = 12
"""Lines of complaints that are kept; a failed build repeats itself for hundreds."""


def load() -> Any:
    """Import and return TensorRT. Takes about a second and maps a library of gigabytes, so it is never done ahead."""
    import tensorrt

    return tensorrt


class Log:
    """The last complaints of TensorRT. ``logger`` and ``recorder`` are what its objects are given; keep this alive
    as long as any of them."""

    def __init__(self, trt: Any) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self.logger = _logger(trt, self._lines)
        self.recorder = _recorder(trt, self._lines)

    def words(self) -> str:
        """Return the complaints so far as lines of text, and forget them."""
        said = "\n".join(self._lines) or "TensorRT said nothing"
        self._lines.clear()
        return said


def dtypes(trt: Any) -> dict[Any, torch.dtype]:
    """Return TensorRT's data types as torch's; those that torch has no tensor arithmetic for are left out."""
    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT8: torch.int8,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
        trt.DataType.BOOL: torch.bool,
        trt.DataType.UINT8: torch.uint8,
    }


def _logger(trt: Any, lines: deque[str]) -> Any:
    class Listener(trt.ILogger):  # type: ignore[misc]  # TensorRT has no annotations
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super() does not reach the native half

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                _keep(lines, msg)

    return Listener()


def _recorder(trt: Any, lines: deque[str]) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]  # as above
        """Called from native code that takes no exception: every method must exist and return."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self._errors: deque[tuple[Any, str]] = deque(maxlen=KEPT)

        def report_error(self, code: Any, description: str) -> bool:
            self._errors.append((code, description))
            _keep(lines, f"{getattr(code, 'name', code)}: {description}")
            return True

        def num_errors(self) -> int:
            return len(self._errors)

        get_num_errors = num_errors  # what the native half looks for

        def get_error_code(self, index: int) -> Any:
            return self._errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self._errors.clear()

    return Recorder()


def _keep(lines: deque[str], text: str) -> None:
    line = text.strip()
    if line and (not lines or line not in lines[-1]):
        lines.append(line)
