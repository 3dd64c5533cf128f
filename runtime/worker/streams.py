"""Standard output and error of a function: the log pipe under descriptors 1 and 2.

Python's stream objects are never replaced: authors, ``logging`` and C libraries keep the ones they found at import,
and all of them end in the pipe of the process they run in. The end of a call has no marker: a worker flushes Python's
and C's buffers *before* it sends the outcome, so whatever the call wrote is in the pipe when the node reads the
outcome, and the node drains the pipe at that moment. A marker would add nothing but a way to forge one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from io import TextIOWrapper

_fflush = ctypes.PyDLL(None).fflush  # PyDLL keeps the GIL: releasing it costs more than the call
_fflush.argtypes = (ctypes.c_void_p,)


def prepare() -> None:
    """Set the standard streams to UTF-8 and to a line at a time, once, in the process that was exec'ed.

    A handler that is killed (timeout, memory) then keeps in its log every line that it finished, as on Lambda.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def redirect(log: int) -> None:
    """Make ``log`` the standard output and error, and close the descriptor it came as."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    if log > 2:
        os.close(log)


def flush() -> None:
    """Write out what Python's streams and C's stdio hold back."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # The author set it to None, closed it, or the pipe's reader is gone: nothing of ours to flush is lost.
            continue
    _fflush(None)
