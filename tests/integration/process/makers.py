"""Makers of contexts that stand in for the real one in worker processes: each behaves as a driver may."""

import os
import threading
import time
from pathlib import Path

from glowplug.snapshot.errors import ContextRefused


def good(device: str) -> None:
    """Make a 'context': it takes a moment, and comes with a thread, as a driver's does."""
    time.sleep(0.05)
    threading.Thread(target=threading.Event().wait, name="driver", daemon=True).start()
    os.environ["HOLDS"] = device


def busy(device: str) -> None:
    """Refuse as a device in exclusive mode does, as long as the file says so."""
    if Path(os.environ["CONTEXT_BUSY"]).exists():
        raise ContextRefused(f"{device}: the device is busy: another process has it in exclusive mode")
    good(device)


def full(device: str) -> None:
    """Refuse as a full device does."""
    raise ContextRefused(f"{device}: the device has no memory left for a context (CUDA error: out of memory)")


def missing(device: str) -> None:
    """Fail as torch does without a driver: with an error that is nobody's own."""
    raise RuntimeError("Found no NVIDIA driver on your system.")


def crash(device: str) -> None:
    """End the process, as a broken driver library does."""
    os.abort()
