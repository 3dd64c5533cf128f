"""``BaseZygote``: what keeps a base zygote running, where the real program is not needed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from glowplug.runtime.errors import StartError
from glowplug.runtime.process import base
from glowplug.runtime.process.roster import Roster
from glowplug.runtime.process.sweep import Records


@pytest.fixture
def lean(tmp_path: Path) -> base.BaseZygote:
    return base.BaseZygote(
        "lean", environment={}, expose=[], roster=Roster(Records(tmp_path)), on_output=lambda name, data: None
    )


async def test_a_program_that_cannot_be_run_is_tried_again(
    lean: base.BaseZygote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []

    def refuse(*command: object, **how: object) -> tuple[int, int]:
        tries.append(asyncio.get_running_loop().time())
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(base, "execute", refuse)
    monkeypatch.setattr(base, "FIRST_DELAY_S", 0.001)
    lean.start()
    await asyncio.sleep(0.05)
    await lean.close(0.0)
    assert len(tries) >= 3
    assert "base zygote lean ended (no more processes)" in caplog.text


async def test_a_fault_in_the_keeper_is_said_and_does_not_end_the_keeping(
    lean: base.BaseZygote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = asyncio.Event()

    def fail(*command: object, **how: object) -> tuple[int, int]:
        if caplog.records:
            again.set()
            raise BlockingIOError("this time for a reason")
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(base, "execute", fail)
    monkeypatch.setattr(base, "MAX_DELAY_S", 0.001)
    lean.start()
    await again.wait()
    await lean.close(0.0)
    assert [logging.CRITICAL] == [record.levelno for record in caplog.records if record.exc_info]


async def test_who_waits_for_a_base_zygote_when_the_node_stops_is_told(
    lean: base.BaseZygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*command: object, **how: object) -> tuple[int, int]:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(base, "execute", refuse)
    waiting = asyncio.create_task(lean.ready())
    await asyncio.sleep(0)
    await lean.close(0.0)
    with pytest.raises(StartError, match="is stopping with the node"):
        await waiting


async def test_nobody_waits_for_a_base_zygote_of_a_node_that_stops(lean: base.BaseZygote) -> None:
    await lean.close(0.0)
    with pytest.raises(StartError, match="is stopping with the node"):
        await lean.ready()
    lean.start()
    assert "BaseZygote(lean, None, up=False, restarts=0)" == repr(lean)
