"""The ledger: what it keeps, what it says, what survives a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from glowplug.runtime.errors import FunctionNotFound
from glowplug.runtime.routing import ledger as module
from glowplug.runtime.routing.ledger import Ledger
from glowplug.runtime.routing.records import Fetch, ReadAhead, RequestRecord, StartRecord
from glowplug.runtime.testing import MODEL, FakeReading, ManualClock, Rig, a_spec, settle


async def a_start(ledger: Ledger, clock: ManualClock, request_id: str | None = "r1", *, name: str = "f") -> StartRecord:
    recording = ledger.begin(a_spec(name), request_id=request_id, cause="request", tier="parked")
    with recording.phase("fork"):
        await clock.advance(0.006)
    with recording.phase("start"):
        await clock.advance(0.002)
    return recording.finish("ready")


async def test_a_record_has_its_phases_and_what_dominated() -> None:
    """Starts and durations in milliseconds from the decision on."""
    clock = ManualClock()
    ledger = Ledger(None, clock=clock)
    record = await a_start(ledger, clock)
    assert [("fork", 0, 6), ("start", 6, 2)] == [(name, round(at), round(took)) for name, at, took in record.phases]
    assert ("fork", 8, "ready") == (record.dominated_by, round(record.total_ms), record.outcome)
    assert record == ledger.find("r1")


async def test_a_phase_that_raises_is_recorded_all_the_same() -> None:
    """A failed start says how far it got."""
    clock = ManualClock()
    recording = Ledger(None, clock=clock).begin(a_spec(), request_id=None, cause="warm", tier="stored")
    with pytest.raises(ValueError, match="x"), recording.phase("import"):
        raise ValueError("x")
    assert ["import"] == [phase.name for phase in recording.phases]


async def test_memory_is_bounded_and_the_newest_come_first() -> None:
    """``limit`` starts and ``limit`` requests."""
    clock = ManualClock()
    ledger = Ledger(None, clock=clock, limit=3)
    for number in range(5):
        await a_start(ledger, clock, f"r{number}")
        ledger.add_request(RequestRecord(f"r{number}", "f", "hot", 0.0, 1.0, None, failed=False))
    assert ["r4", "r3", "r2"] == [record.request_id for record in ledger.recent()]
    assert ["r4"] == [record.request_id for record in ledger.recent(1)]
    assert "<Ledger starts=3 requests=3 unwritten=0>" == repr(ledger)


async def test_listeners_hear_of_every_start() -> None:
    """Metrics are drawn from it."""
    clock, heard = ManualClock(), list[StartRecord]()
    ledger = Ledger(None, clock=clock)
    ledger.subscribe(heard.append)
    assert [await a_start(ledger, clock)] == heard


async def test_records_survive_a_restart_and_a_cut_line_costs_only_itself(tmp_path: Path) -> None:
    """A killed node may leave half a line; the next record does not run into it."""
    path, clock = tmp_path / "ledger.jsonl", ManualClock()
    first = Ledger(path, clock=clock)
    record = await a_start(first, clock)
    await first.flush()
    with path.open("ab") as file:
        file.write(b'{"start_id": "cut')
    second = Ledger(path, clock=clock)
    assert ([record], 1) == (second.recent(), second.skipped)
    after = await a_start(second, clock, "r2")
    await second.flush()
    assert [after, record] == Ledger(path, clock=clock).recent()


async def test_the_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded on disk as well."""
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    path, clock = tmp_path / "ledger.jsonl", ManualClock()
    ledger = Ledger(path, clock=clock)
    for _ in range(3):
        await a_start(ledger, clock)
        await ledger.flush()
    assert (tmp_path / "ledger.jsonl.1").exists()
    assert not path.exists() or path.stat().st_size <= 1000


async def test_a_disk_that_cannot_be_written_costs_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, with the path; the records stay readable."""
    clock = ManualClock()
    ledger = Ledger(tmp_path / "missing" / "ledger.jsonl", clock=clock)
    record = await a_start(ledger, clock)
    await ledger.flush()
    assert "were not written" in caplog.text
    assert record == ledger.find("r1")


async def test_the_estimate_is_the_median_of_what_starts_took() -> None:
    """And a second for a function that never started here."""
    clock = ManualClock()
    ledger = Ledger(None, clock=clock)
    assert 1.0 == ledger.estimate_start_s("f")
    await a_start(ledger, clock)
    assert 0.008 == round(ledger.estimate_start_s("f"), 6)


async def test_json_has_the_fields_that_the_api_names() -> None:
    """``GET /_glowplug/starts`` returns these; the file holds them."""
    clock = ManualClock()
    record = await a_start(Ledger(None, clock=clock), clock)
    value = json.loads(json.dumps(record.to_json()))
    assert ("f", "r1", "parked") == (value["function"], value["request_id"], value["tier"])
    assert ["name", "start_ms", "duration_ms"] == list(value["phases"][0])
    assert record == StartRecord.from_json(value)


READ = ReadAhead(90_177_536, 12_582_912, 0, 0.082, disk_bytes_per_s=1.2e9)


async def test_what_is_read_ahead_may_end_after_the_start_and_is_added_to_its_record(tmp_path: Path) -> None:
    """Also when the record has been written: the last line of a start counts."""
    path, clock = tmp_path / "ledger.jsonl", ManualClock()
    ledger = Ledger(path, clock=clock)
    recording = ledger.begin(a_spec(), request_id="r1", cause="request", tier="remote")
    recording.fetch = Fetch("https://host", 1000, 2.0, retries=1)
    recording.reading = reading = FakeReading(None, goes_on=True)
    record = recording.finish("ready")
    await ledger.flush()
    assert (False, None) == (reading.cancelled, record.read_ahead)
    reading.ended.set_result(READ)
    await settle()
    await ledger.flush()
    assert [READ] == [one.read_ahead for one in ledger.recent()]
    [again] = Ledger(path, clock=clock).recent()
    assert (recording.fetch, READ) == (again.fetch, again.read_ahead)


async def test_a_reading_that_ends_when_the_ledger_has_forgotten_its_start_is_forgotten_too() -> None:
    clock = ManualClock()
    ledger = Ledger(None, clock=clock, limit=1)
    recording = ledger.begin(a_spec(), request_id="r1", cause="request", tier="stored")
    recording.reading = reading = FakeReading(None, goes_on=True)
    recording.finish("ready")
    newer = await a_start(ledger, clock, "r2")
    reading.ended.set_result(READ)
    await settle()
    assert [newer] == ledger.recent()


async def test_a_start_that_fails_stops_its_reading() -> None:
    ledger = Ledger(None, clock=ManualClock())
    recording = ledger.begin(a_spec(), request_id="r1", cause="request", tier="stored")
    recording.reading = reading = FakeReading(None, goes_on=True)
    recording.finish("failed", "ImportError")
    assert reading.cancelled


# --- in words ---------------------------------------------------------------------------------------------------------


async def test_explain_a_parked_start_in_words() -> None:
    """Tier, how, how long, what dominated, engine, warm-up."""
    rig = Rig(a_spec("embed", models=(MODEL,)), engine="aot_inductor")
    rig.script("embed").fork_s, rig.script("embed").start_s = 0.006, 0.002
    cooling = asyncio.create_task(rig.router.cool("embed", "parked"))
    await rig.clock.advance(1)
    await cooling
    call = rig.call("embed")
    await rig.clock.advance(1)
    await call
    assert [
        "embed was parked; the request waited 8.0 ms for a start.",
        "The start: a worker was forked from the parked zygote; 8.0 ms, of which the fork took 6.0 ms.",
        "Its steps: fork 6.0 ms, start 2.0 ms.",
        "Engine aot_inductor.",
        "Warm-up: not repeated, the zygote it was forked from had passed.",
        "The handler took 0.0 ms.",
    ] == rig.ledger.explain("r1").splitlines()


async def test_explain_says_why_not_better() -> None:
    """An engine that is not baked yet, a function that cannot be forked."""
    rig = Rig(a_spec(models=(MODEL,), environment={"LD_PRELOAD": "x"}))
    await rig.call()
    text = rig.ledger.explain("r1")
    assert "Engine eager; not a better one: not baked yet." in text
    assert "Note: not forked: Environment sets LD_PRELOAD, which only takes effect in a new process." in text
    assert "Weights of 90.0 MB from the local store." in text


async def test_explain_says_how_the_engine_does_by_now() -> None:
    """Beside what the start had to say: the figures are of all its instances."""
    rig = Rig(a_spec(models=(MODEL,)), engine="fast")
    await rig.call()
    assert "Engine fast. So far 3 calls." in rig.ledger.explain("r1", lambda start: "So far 3 calls.").splitlines()


async def test_explain_a_hot_request_and_an_unknown_one() -> None:
    """The first needed nothing; the second is an error that names it."""
    rig = Rig(a_spec())
    await rig.call()
    await rig.call()
    assert "f was hot; an instance was ready and nothing had to start." == rig.ledger.explain("r2").splitlines()[0]
    assert rig.ledger.find("r2") is None
    with pytest.raises(FunctionNotFound, match="Request not found: r9"):
        rig.ledger.explain("r9")


async def test_explain_a_request_of_an_earlier_life_of_the_node(tmp_path: Path) -> None:
    """Its start is still there."""
    clock = ManualClock()
    before = Ledger(tmp_path / "l", clock=clock)
    await a_start(before, clock)
    await before.flush()
    text = Ledger(tmp_path / "l", clock=clock).explain("r1")
    assert "f was parked, and was started because of a request." == text.splitlines()[0]


async def test_a_request_that_waited_for_anothers_start_is_explained_by_that_start() -> None:
    """Whichever instance gets free first serves it."""
    rig = Rig(a_spec(max_instances=1))
    first, second = await rig.calls(2)
    await first
    await second
    start = rig.ledger.find("r1")
    assert start is not None
    assert "r1" == start.request_id


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (
            READ,
            "Read 90.2 MB from disk at 1.10 GB/s (92% of the 1.20 GB/s measured for this disk) while the process "
            "started; 12.6 MB were in the page cache.",
        ),
        (
            ReadAhead(90_177_536, 0, 0, 0.082),
            "Read 90.2 MB from disk at 1.10 GB/s while the process started; 0.0 MB were in the page cache.",
        ),
        (ReadAhead(0, 90_177_536, 0, 0.001), "Read ahead: nothing; 90.2 MB were in the page cache."),
        (
            ReadAhead(0, 0, 1_048_576, 0.001),
            "Read ahead: nothing; 0.0 MB were in the page cache, 1.0 MB were left to be read when used.",
        ),
    ],
)
async def test_explain_holds_the_disk_against_what_it_can(ahead: ReadAhead, said: str) -> None:
    """The one figure by which a start from a cold page cache can be judged."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.pages.told = ahead
    await rig.call()
    assert said in rig.ledger.explain("r1").splitlines()
