"""asyncio's event loop across a fork: an idle one that the import made gives its descriptors back, and gets new ones in
each instance.

A loop's epoll descriptor would be one object in all forks, and so is an obstacle (``forkable``). Frameworks make a loop
at import though, long before anything runs on it; Mangum does, which puts FastAPI on Lambda. Handlers keep references
to it, so it stays the same object. asyncio has no words for that; what is used of its inside is the same from Python
3.8 to 3.14, and a loop that has not got it, or that has anything to do, is left as it is and found by ``forkable``.
"""

from __future__ import annotations

import sys
from typing import Any

_NEEDED = ("_selector", "_ssock", "_ready", "_scheduled", "_signal_handlers", "_make_self_pipe", "_close_self_pipe")


class EventLoop:
    """The current loop of the main thread, where it rests; else nothing."""

    def __init__(self) -> None:
        self._loop: Any = None
        self._selector: Any = None

    def __repr__(self) -> str:
        return f"EventLoop({'resting' if self._loop is not None else 'none'})"

    def rest(self) -> None:
        """Take the descriptors of an idle loop, if there is one."""
        loop = _current()
        if loop is not None and _idle(loop):
            self._loop, self._selector = loop, type(loop._selector)
            loop._close_self_pipe()
            loop._selector.close()
            loop._selector = None

    def wake(self) -> None:
        """Give the loop that rests descriptors of this process's own."""
        if self._loop is not None:
            self._loop._selector = self._selector()
            self._loop._make_self_pipe()
            self._loop = None


def _current() -> Any:
    """Return the loop that is set in this thread, without making one; None without."""
    events: Any = sys.modules.get("asyncio.events")
    policy = getattr(events, "_event_loop_policy", None)
    return getattr(getattr(policy, "_local", None), "_loop", None)


def _idle(loop: Any) -> bool:
    """Return whether nothing is registered with a loop, nor due on it, and it is one whose inside is known."""
    if not all(hasattr(loop, name) for name in _NEEDED) or loop.is_running() or loop.is_closed():
        return False
    registered = {key.fd for key in loop._selector.get_map().values()}
    return registered == {loop._ssock.fileno()} and not (loop._ready or loop._scheduled or loop._signal_handlers)
