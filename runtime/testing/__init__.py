"""Test doubles that ship with the runtime: a clock moved by hand, and processes that exist only in memory.

They implement the same Protocols as the real ones and are honest about failures: a killed process answers nothing more,
whoever waits for it gets ``WorkerDied``, a step of a dead process says that nothing was sent, ``stop`` waits for what
is in flight, and deaths are reported a turn of the event loop after the kill, as real ones are.
"""

from __future__ import annotations

from .clock import ManualAlarm, ManualClock, settle
from .neighbours import FakeAcceptor, FakeLog, FakeLogs, FakeMemory, FakeModels, FakePages, FakeReading, FakeWatch
from .processes import FakeWorker, FakeZygote, FakeZygotes, Handler, Script, echo
from .rig import MODEL, Gate, Rig, a_spec, gated

__all__ = [
    "MODEL",
    "FakeAcceptor",
    "FakeLog",
    "FakeLogs",
    "FakeMemory",
    "FakeModels",
    "FakePages",
    "FakeReading",
    "FakeWatch",
    "FakeWorker",
    "FakeZygote",
    "FakeZygotes",
    "Gate",
    "Handler",
    "ManualAlarm",
    "ManualClock",
    "Rig",
    "Script",
    "a_spec",
    "echo",
    "gated",
    "settle",
]
