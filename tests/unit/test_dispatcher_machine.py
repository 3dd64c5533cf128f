"""Events against whatever handlers, operators and a killer do: each that was accepted ends once, as it should have."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from eventrig import EventRig, bad, good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glowplug.runtime.errors import Conflict, HoldTimeout, Throttled
from glowplug.runtime.events.stored import queue_of

FULL = Throttled("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded", retry_after_s=1)
ENDS = {"g": good(), "b": bad(), "t": FULL, "h": HoldTimeout("none was ready")}
SCRIPTS = st.text(alphabet="gbth", min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), SCRIPTS),
        st.tuples(st.just("pass"), st.integers(1, 20)),
        st.tuples(st.just("kill"), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
    ),
    max_size=12,
)


def expected(script: str) -> tuple[str, int]:
    """Return how an event ends whose attempts go as ``script`` says, the last one for ever, and after how many runs."""
    runs = 0
    for attempt in range(50):
        kind = script[min(attempt, len(script) - 1)]
        if kind == "g":
            return "succeeded", runs + 1
        if kind == "b":
            runs += 1
            if runs == 3:
                return "failed", 3
    return "failed", runs  # put back until it is too old


@given(STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_accepted_event_ends_once_as_it_should(steps: list[tuple[str, object]]) -> None:
    asyncio.run(run(steps))


async def run(steps: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = EventRig(Path(directory), "f", async_retry_s=3.0, async_requeue_limit_s=4.0)
        scripts: dict[str, str] = {}
        cut: set[str] = set()
        cancelled: set[str] = set()

        def answer(invocation: object, attempt: int) -> object:
            script = scripts[invocation.request_id]  # type: ignore[attr-defined]
            return ENDS[script[min(attempt, len(script)) - 1]]

        rig.handlers.script = answer  # type: ignore[assignment]
        await rig.start()
        for what, value in steps:
            if what == "send":
                # Known before the first attempt: the id is chosen here.
                request_id = f"0190a000-0000-7000-8000-{len(scripts):012d}"
                scripts[request_id] = str(value)
                assert request_id == await rig.send(request_id=request_id, max_age_s=120)
            elif what == "pass":
                await rig.pass_s(int(str(value)))
            elif what == "kill":
                if value:
                    await rig.quiet()
                cut |= {one for one in scripts if await rig.state(one) not in ("succeeded", "failed", "cancelled")}
                await rig.restart()
            elif scripts:
                chosen = list(scripts)[int(str(value)) % len(scripts)]
                try:
                    await rig.results.cancel(chosen)
                    cancelled.add(chosen)
                except Conflict:
                    assert await rig.state(chosen) in ("succeeded", "failed", "cancelled")
        await rig.pass_s(200, 2)
        for request_id, script in scripts.items():
            shown = await rig.shown(request_id)
            if request_id in cancelled:
                assert "cancelled" == shown["state"]
                continue
            state, runs = expected(script)
            assert state == shown["state"], (script, shown)
            if request_id not in cut:  # an attempt that was cut off runs again, and is not counted
                assert runs == shown["attempts"], (script, shown)
                seen = sum(one.request_id == request_id for one in rig.handlers.seen)
                assert seen >= runs
        if scripts:
            assert 0 == (await rig.store.counts(queue_of("f"))).total
        before = len(rig.handlers.seen)
        await rig.restart()
        await rig.pass_s(20, 2)
        assert before == len(rig.handlers.seen), "what has ended ran again"
        await rig.dispatcher.close()
        await rig.store.close()
