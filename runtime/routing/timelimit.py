"""InitTimeoutSeconds: how long a start may take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import StartTimeout
from glowplug.runtime.spec import FunctionSpec

from .ports import FunctionLog


@contextlib.asynccontextmanager
async def time_limit(spec: FunctionSpec, *, clock: Clock, log: FunctionLog) -> AsyncIterator[None]:
    """Raise ``StartTimeout`` when the block takes longer than InitTimeoutSeconds, by ``clock``; for use in a task."""
    task, expired = asyncio.current_task(), False
    assert task is not None  # noqa: S101 (starts only run in tasks)

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    alarm = clock.call_later(spec.init_timeout_s, expire)
    try:
        yield
    except asyncio.CancelledError:
        if expired and task.uncancel() == 0:
            log.init_report(spec.init_timeout_s * 1e3, status="timeout")
            raise StartTimeout(f"Task timed out after {spec.init_timeout_s:.2f} seconds") from None
        raise
    finally:
        alarm.cancel()
