"""Starts on a GPU: which way, measured, and what a worker of the pool goes through. Fakes, and a manual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from glowplug.runtime.devices import CUDA
from glowplug.runtime.devicespec import DeviceSpec
from glowplug.runtime.errors import RestoreFailed
from glowplug.runtime.process import wire
from glowplug.runtime.routing.attempts import Suppliers
from glowplug.runtime.routing.coldstart import Starter
from glowplug.runtime.routing.devicestart import Choice, DeviceStarter, choose
from glowplug.runtime.routing.records import StartRecord, Way
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import MODEL, FakeWorker, Rig, a_spec
from glowplug.snapshot.errors import MpsUnavailable


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"obstacle": "Environment sets CUDA_VISIBLE_DEVICES"}, (False, "Environment sets CUDA_VISIBLE_DEVICES")),
        ({"idle": 0}, (False, "none is ready")),
        ({"known": {}}, (True, "not measured yet")),
        ({"known": {"fork": (1.0, 5)}}, (True, "not measured yet")),
        ({"known": {"context": (900.0, 1)}}, (False, "to measure 'fork' once")),
        ({"known": {"context": (900.0, 1), "park and fork": (10.0, 1)}}, (False, "to measure 'fork' once")),
        ({"known": {"context": (400.0, 3), "fork": (500.0, 3)}}, (True, "400 ms against 500 ms by 'fork'")),
        ({"known": {"context": (600.0, 3), "fork": (500.0, 3)}}, (False, "600 ms against 500 ms by 'fork'")),
        ({"known": {"context": (400.0, 19), "fork": (500.0, 1)}}, (False, "to measure it again")),
        ({"known": {"context": (600.0, 19), "fork": (500.0, 1)}}, (True, "to measure it again")),
    ],
)
def test_the_cheaper_way_is_taken_by_what_was_measured(changes: dict[str, Any], expected: tuple[bool, str]) -> None:
    given: dict[str, Any] = {"idle": 1, "obstacle": "", "known": {}, **changes}
    choice: Choice = choose("fork", **given)
    assert expected[0] is choice.context
    assert expected[1] in choice.reason


class Pool:
    """A pool of contexts, and the GPU around it: what ``DeviceStarter`` asks."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ready = 0
        self.taken: list[FakeWorker] = []
        self.admitted: list[int] = []
        self.released = 0
        self.error: Exception | None = None
        self.each_mib = 500

    @property
    def contexts(self) -> Pool:
        return self

    @property
    def idle(self) -> int:
        return self.ready

    def take(self) -> FakeWorker | None:
        self.ready -= 1
        self.taken.append(FakeWorker(f"context-{len(self.taken)}", self.rig.script("f"), self.rig.clock))
        return self.taken[-1]

    def drop(self, count: int, why: str) -> None:
        self.ready -= count

    def obstacle(self, spec: FunctionSpec) -> str:
        return ""

    async def welcome(self, spec: FunctionSpec) -> None:
        if self.error is not None:
            raise self.error

    async def admit(self, revision: str, needed_mib: int, *, within_s: float) -> Callable[[], None]:
        self.admitted.append(needed_mib)
        return self.release

    def release(self) -> None:
        self.released += 1


def on_gpu(**fields: Any) -> tuple[Rig, Pool]:
    """Return a rig whose node has a GPU."""
    fields = {"models": (MODEL,), "gpu": DeviceSpec("cuda", 3000), "idle_timeout_s": 0.0, **fields}
    rig = Rig(a_spec(**fields), starter=starter)
    return rig, cast(Pool, rig.starter._accelerator)  # type: ignore[attr-defined]


def starter(rig: Rig, suppliers: Suppliers) -> Starter:
    pool = Pool(rig)
    return DeviceStarter(suppliers, accelerator=cast(Any, pool), memory=cast(Any, pool))


async def starts(rig: Rig, count: int) -> list[Way]:
    for _ in range(count):
        await rig.call()
        await rig.tick(0)
    return [record.way for record in rig.ledger.recent(count)][::-1]


def latest(rig: Rig) -> StartRecord:
    return rig.ledger.recent(1)[0]


async def test_a_context_is_taken_over_and_becomes_the_functions() -> None:
    rig, pool = on_gpu()
    pool.ready = 1
    assert "stored" == (await rig.call()).tier
    record = latest(rig)
    assert ("context", CUDA, "ready") == (record.way, record.device, record.outcome)
    assert ["memory", "adopt", "fetch", "import", "restore", "warmup", "start"] == [one.name for one in record.phases]
    worker = pool.taken[0]
    assert ([wire.Adopt(-1, -1, "/code", "", 512)], CUDA, 1) == (worker.adopted, worker.loads[0].device, worker.checks)
    assert ([3000], 1) == (pool.admitted, pool.released)
    assert "from the pool and imported the handler itself" in rig.ledger.explain("r1")


async def test_without_a_context_it_starts_as_ever() -> None:
    rig, pool = on_gpu()
    await rig.call()
    assert ("park and fork", []) == (latest(rig).way, pool.taken)
    assert "no context from the pool: none is ready" in latest(rig).notes


async def test_both_ways_are_measured_and_then_the_cheaper_one_is_taken() -> None:
    """The import is what a context from the pool pays and a parked function does not."""
    rig, pool = on_gpu()
    rig.script().import_s = 2.0
    rig.script().fork_s = 0.5
    pool.ready = 100
    ways = []
    for _ in range(5):
        task = rig.call()
        await rig.clock.advance(10)
        await task
        await rig.tick(0)
        ways.append(latest(rig).way)
    assert ["context", "park and fork", "fork", "fork", "fork"] == ways
    assert {"context": (2000.0, 1), "park and fork": (3000.0, 1), "fork": (500.0, 3)} == rig.ledger.device_starts(
        latest(rig).revision
    )


async def test_code_that_brings_its_own_modules_takes_no_context_again() -> None:
    rig, pool = on_gpu()
    pool.ready = 5
    rig.script().brought = "its code brings its own torch"
    assert ["exec"] == await starts(rig, 1)
    assert (1, False) == (len(pool.taken), pool.taken[0].alive)
    assert ["exec"] == await starts(rig, 1)
    assert 1 == len(pool.taken)


async def test_what_is_read_with_the_context_forbids_one_from_the_pool() -> None:
    rig, pool = on_gpu(environment={"CUDA_VISIBLE_DEVICES": "1"})
    pool.ready = 5
    await rig.call()
    assert [] == pool.taken
    assert any("Environment sets CUDA_VISIBLE_DEVICES" in note for note in latest(rig).notes)


async def test_an_engine_that_fails_in_a_taken_context_is_followed_by_eager() -> None:
    rig, pool = on_gpu(parking=False)
    rig.models.engine = "aot_inductor"
    rig.script().bind_errors["aot_inductor"] = RestoreFailed("no kernel image")
    pool.ready = 1
    assert b"{}" == (await rig.call()).payload
    assert ("context", "eager", False) == (latest(rig).way, latest(rig).engine, pool.taken[0].alive)


async def test_a_gpu_that_takes_no_client_fails_the_start_and_promises_nothing() -> None:
    rig, pool = on_gpu()
    pool.error = MpsUnavailable("MPS is restarting")
    assert b"MPS is restarting" in (await rig.call()).payload
    assert [] == pool.admitted


async def test_a_function_on_the_cpu_knows_nothing_of_it() -> None:
    rig, pool = on_gpu(gpu=DeviceSpec("cpu"))
    pool.ready = 5
    await rig.call()
    assert ("park and fork", "", [], []) == (latest(rig).way, latest(rig).device, pool.taken, pool.admitted)
