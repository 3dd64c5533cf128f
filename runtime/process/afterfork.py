"""What a process must do right after it was forked: one function, and the signal policy that goes with it.

The numbers that decide a parked start are here: whatever this module does, every cold request waits for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from glowplug.runtime.worker import streams
from glowplug.runtime.worker.generators import Generators

Disposition = Callable[[int, FrameType | None], Any] | int | None

_OURS = (signal.SIGTERM, signal.SIGINT)


def leave_to_node(signum: int, frame: FrameType | None) -> None:
    """Do nothing: whether a zygote or worker ends is the node's decision, told by ``Stop`` or by closing the channel.

    A handler rather than SIG_IGN, which programs that a function starts would inherit.
    """


def quiet_signals() -> dict[int, Disposition]:
    """Leave SIGTERM and SIGINT to the node; return the author's handlers that were in their place.

    A service manager sends SIGTERM to the whole process group: a zygote or a worker that took it would end the requests
    that the node is about to drain.
    """
    replaced: dict[int, Disposition] = {}
    for signum in _OURS:
        before = signal.signal(signum, leave_to_node)
        if before is not leave_to_node and before not in (signal.SIG_DFL, signal.default_int_handler):
            replaced[signum] = before
    return replaced


def clean(
    *,
    inherited: Iterable[int],
    log: int,
    signals: dict[int, Disposition],
    generators: Generators,
) -> None:
    """Make a fork child a process of its own. The checklist, in order:

    1. *Descriptors.* The pidfds of the siblings (``inherited``) are closed, as the caller closed the parent's channel:
       a copy that stays open would hide the end of the node. Everything else of ours is close-on-exec.
    2. *Session.* ``setsid``: the child and what it starts die as one group, and no terminal signal reaches it.
    3. *Streams.* ``log`` becomes descriptors 1 and 2. The parent flushed before the fork, so nothing is written twice.
    4. *Signals.* The handlers that the author installed at import are put back (``signals``); a wakeup descriptor that
       an event loop left behind would write into the parent's pipe and is forgotten.
    5. *Random generators.* Fresh, unless the author seeded them: Python renews ``random`` in every child, which is
       undone here if it was seeded; the parent renewed the others after its last fork.
    6. *uuid.* The last time stamp is forgotten, so that ``uuid1`` does not count on from the parent's.
    7. *gc.* Nothing to do, and on purpose: what the parent froze stays frozen. Unfreezing would write to the header of
       every inherited object and so copy every page of the heap.
    8. *Locks.* Python reinitialises those of ``threading`` and ``logging`` in the child; only a single-threaded process
       is ever forked (see ``forkable``), so no other lock can be held.

    9. *Scheduling.* ``yield_to_waker``, for the process and all that it starts.

    Not here: the thread count of torch (granted with each invocation) and the user (``confine``).
    """
    for descriptor in inherited:
        os.close(descriptor)
    os.setsid()
    streams.redirect(log)
    for signum, disposition in signals.items():
        signal.signal(signum, disposition)
    signal.set_wakeup_fd(-1)
    generators.restore()
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None
    yield_to_waker()


def yield_to_waker() -> None:
    """Let whoever wakes this process finish its time slice first (SCHED_BATCH).

    The node wakes one worker per request. By default the kernel may run that worker at once in the node's place, and
    with all cores busy the node then waits behind every request that it hands out: 16 connections to ``echo`` on two
    cores gained 18 to 55 % from this in three pairs of runs. An idle core is taken at once either way.
    """
    with contextlib.suppress(OSError):  # a sandbox that forbids it: slower, nothing else
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
