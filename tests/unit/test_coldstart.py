"""The cold start: four ways, what a failure means, what the log and the ledger say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest

from glowplug.cache import errors as cache
from glowplug.runtime import errors
from glowplug.runtime.invocation import Outcome
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.routing.policy import LOWER, PROCESS, Remedy, backoff_s, remedy, to_runtime
from glowplug.runtime.routing.ports import InvocationLog, Weights
from glowplug.runtime.routing.records import StartRecord
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import MODEL, Rig, a_spec, settle
from glowplug.snapshot import errors as snapshot


def body(outcome: Outcome) -> dict[str, object]:
    assert "Unhandled" == outcome.function_error
    value: dict[str, object] = json.loads(outcome.payload)
    return value


def latest(rig: Rig) -> StartRecord:
    return rig.ledger.recent(1)[0]


def phases(record: StartRecord) -> list[str]:
    return [phase.name for phase in record.phases]


# --- the four ways ----------------------------------------------------------------------------------------------------


async def test_stored_builds_a_zygote_checks_it_in_a_canary_and_forks() -> None:
    """Way 2: everything once, and the worker itself is not checked again."""
    rig = Rig(a_spec(models=(MODEL,)), engine="aot_inductor")
    outcome = await rig.call()
    assert "stored" == outcome.tier
    record = latest(rig)
    assert ("park and fork", "aot_inductor", "ready") == (record.way, record.engine, record.outcome)
    assert ["zygote", "fetch", "import", "restore", "warmup", "fork", "start"] == phases(record)
    assert "passed, largest difference from the recorded output 1e-06 (in a canary)" == record.warmup
    canary, worker = rig.zygotes.workers
    assert ([1, 0], [False, True]) == ([canary.checks, worker.checks], [canary.alive, worker.alive])


async def test_parked_only_forks() -> None:
    """Way 1: the path that has to be fast does nothing else."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.router.cool("f", "parked")
    outcome = await rig.call()
    assert "parked" == outcome.tier
    assert ["hold", "fork", "start", "handler"] == [name for name, _ in outcome.phases]
    assert ("fork", "eager") == (latest(rig).way, latest(rig).engine)
    assert "not repeated, the zygote it was forked from had passed" == latest(rig).warmup


async def test_parking_off_imports_after_the_fork() -> None:
    """Way 3: each instance has its own import and its own check."""
    rig = Rig(a_spec(models=(MODEL,), parking=False))
    assert "stored" == (await rig.call()).tier
    assert ("fork and import", ["fork", "fetch", "import", "restore", "warmup", "start"]) == (
        latest(rig).way,
        phases(latest(rig)),
    )
    worker = rig.zygotes.alone[0]
    assert (True, False, False, 1) == (worker.forked, worker.loads[0].parked, worker.starts[0].restored, worker.checks)


async def test_settings_that_need_exec_start_by_exec() -> None:
    """Way 4, known beforehand."""
    rig = Rig(a_spec(environment={"OMP_NUM_THREADS": "1"}))
    await rig.call()
    assert "exec" == latest(rig).way
    assert not rig.zygotes.alone[0].forked
    assert "not forked: Environment sets OMP_NUM_THREADS, which only takes effect in a new process" in latest(rig).notes


@pytest.mark.parametrize("where", ["obstacle", "bound_obstacle"])
async def test_an_obstacle_found_in_the_zygote_is_remembered_for_the_revision(where: str) -> None:
    """Way 4, found out: the zygote goes, and no later start builds one."""
    rig = Rig(a_spec(models=(MODEL,), idle_timeout_s=0.0))
    setattr(rig.script(), where, "2 threads run: worker-1")
    assert b"{}" == (await rig.call()).payload
    assert "exec" == latest(rig).way
    assert not rig.zygotes.zygotes[0].alive
    await rig.tick(0)
    await rig.call()
    assert (1, 2) == (len(rig.zygotes.zygotes), len(rig.zygotes.alone))
    assert "2 threads run: worker-1" == rig.router.describe()[0].unparkable_reason


async def test_code_that_brings_a_preloaded_module_gets_a_zygote_of_its_own_and_explain_says_why() -> None:
    """Way 2 with a zygote that was started as a program; found out once, before anything was imported."""
    rig = Rig(a_spec(models=(MODEL,), idle_timeout_s=0.0))
    rig.script().brought = why = "its code brings its own msgpack, which the zygote has loaded already"
    assert b"{}" == (await rig.call()).payload
    assert f"Note: a zygote of its own: {why}." in rig.ledger.explain("r1")
    assert [True, False] == [zygote.forked for zygote in rig.zygotes.zygotes]
    await rig.router.cool("f", "stored")
    await rig.call()
    assert ([True, False, False], []) == ([zygote.forked for zygote in rig.zygotes.zygotes], rig.zygotes.alone)
    assert "" == rig.router.describe()[0].unparkable_reason


async def test_code_that_brings_a_preloaded_module_starts_by_exec_where_nothing_is_parked() -> None:
    """Way 4, in place of way 3."""
    rig = Rig(a_spec(models=(MODEL,), parking=False, idle_timeout_s=0.0))
    rig.script().brought = why = "its code brings its own msgpack, which the zygote has loaded already"
    assert b"{}" == (await rig.call()).payload
    assert f"Note: not forked: {why}." in rig.ledger.explain("r1")
    assert [False] == [worker.forked for worker in rig.zygotes.workers if worker.invokes]
    await rig.tick(0)
    await rig.call()
    processes = [*rig.zygotes.zygotes, *rig.zygotes.alone]
    assert (1, 2) == (sum(one.forked for one in processes), sum(not one.forked for one in processes))
    assert why == rig.router.describe()[0].unparkable_reason


async def test_fetch_and_plan_begin_before_the_zygote_is_there() -> None:
    """They overlap with the fork and the import."""
    rig = Rig(a_spec(models=(MODEL,)))
    order: list[str] = []
    real_files, real_zygote = rig.models.files, rig.zygotes.function_zygote

    async def files(spec: FunctionSpec) -> Weights:
        order.append("files")
        return await real_files(spec)

    async def zygote(zygote_id: str, **fields: object) -> object:
        await settle()
        order.append("zygote")
        return await real_zygote(zygote_id, **fields)  # type: ignore[arg-type]

    rig.models.files = files  # type: ignore[method-assign]
    rig.zygotes.function_zygote = zygote  # type: ignore[assignment]
    await rig.call()
    assert ["files", "zygote"] == order


# --- failure ----------------------------------------------------------------------------------------------------------


async def test_import_error_is_lambdas_error_body_and_the_next_request_tries_again() -> None:
    """Back-off, then a new import: no error is served from memory."""
    rig = Rig(a_spec())
    rig.script().load_error = errors.LoadFailed("ImportError", "no module named x", ["  File ..."])
    expected = {
        "errorMessage": "no module named x",
        "errorType": "ImportError",
        "requestId": "",
        "stackTrace": ["  File ..."],
    }
    assert expected == body(await rig.call())
    assert [("INIT_START", None), ("INIT_REPORT", "ImportError")] == [
        entry for entry in rig.logs.logs["f"].entries if entry[0] != "output"
    ]
    rig.script().load_error = None
    second = rig.call()
    await rig.clock.advance(0.09)
    assert (False, 1) == (second.done(), len(rig.zygotes.zygotes))
    await rig.clock.advance(0.02)
    assert b"{}" == (await second).payload


def test_backoff_doubles_and_is_capped() -> None:
    """0.1 s, 0.2 s, … 10 s."""
    assert [0.0, 0.1, 0.2, 0.4, 10.0, 10.0] == [backoff_s(failures) for failures in (0, 1, 2, 3, 9, 10_000)]


async def test_a_hanging_import_is_killed_after_init_timeout() -> None:
    """The caller learns it in Lambda's words; nothing of the start is left."""
    rig = Rig(a_spec(init_timeout_s=5, hold_timeout_s=100))
    rig.script().import_s = math.inf
    call = rig.call()
    await rig.clock.advance(4.9)
    assert not call.done()
    await rig.clock.advance(0.1)
    assert {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: r1 Error: Task timed out after 5.00 seconds",
    } == body(await call)
    assert "its start did not succeed" == rig.zygotes.zygotes[0].killed_for


async def test_an_import_that_exits_is_an_exit_error() -> None:
    """As when a handler exits."""
    rig = Rig(a_spec())
    rig.script().load_exit = 3
    assert {
        "errorType": "Runtime.ExitError",
        "errorMessage": "RequestId: r1 Error: Runtime exited with error: exit status 3",
    } == body(await rig.call())


@pytest.mark.parametrize("parking", [True, False])
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("bind_errors", errors.RestoreFailed("FingerprintMismatch: other CPU")),
        ("check_errors", errors.CheckFailed("off by 0.3")),
    ],
)
async def test_an_engine_that_fails_is_given_up_and_eager_serves(
    where: str, error: errors.StartError, *, parking: bool
) -> None:
    """Once more without, in the same start: the caller notices nothing but the time."""
    rig = Rig(a_spec(models=(MODEL,), parking=parking), engine="aot_inductor")
    getattr(rig.script(), where)["aot_inductor"] = error
    assert b"{}" == (await rig.call()).payload
    reason = f"{type(error).__name__}: {error}"
    assert [("", "aot_inductor", reason)] == rig.models.given_up
    record = latest(rig)
    said = f"aot_inductor was given up: {reason}"
    assert ("eager", said, "ready") == (record.engine, record.engine_reason, record.outcome)
    assert (said,) == record.notes
    assert ["f"] == rig.models.bakes


async def test_eager_that_fails_fails_the_start() -> None:
    """There is nothing to fall back to: once, not for ever."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.script().check_errors["eager"] = errors.CheckFailed("not finite")
    assert {"errorType": "Glowplug.CheckFailed", "errorMessage": "not finite"} == body(await rig.call())
    assert ([], 1) == (rig.models.given_up, len(rig.zygotes.zygotes))


async def test_a_fault_of_the_weights_does_not_cost_the_engine_its_trust() -> None:
    """A process names the class it met; eager would fail on it as well."""
    rig = Rig(a_spec(models=(MODEL,)), engine="aot_inductor")
    error = errors.RestoreFailed("Glowplug.WeightsMismatch: shapes differ")
    error.reported_type = "Glowplug.WeightsMismatch"
    rig.script().bind_errors["aot_inductor"] = error
    assert "Glowplug.RestoreFailed" == body(await rig.call())["errorType"]
    assert [] == rig.models.given_up


async def test_a_missing_snapshot_is_eager_now_and_a_bake_later() -> None:
    """The function serves from its first second."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.models.plan_error = snapshot.SnapshotMissing("no snapshot under k")
    assert b"{}" == (await rig.call()).payload
    assert ("eager", "SnapshotMissing: no snapshot under k") == (latest(rig).engine, latest(rig).engine_reason)
    assert ["f"] == rig.models.bakes


async def test_a_cache_error_becomes_restore_failed() -> None:
    """The lower layer's message survives, and nothing is left behind."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.models.files_error = cache.WeightsTruncated("model.safetensors: 10 of 90 bytes")
    assert {
        "errorType": "Glowplug.RestoreFailed",
        "errorMessage": "WeightsTruncated: model.safetensors: 10 of 90 bytes",
    } == body(await rig.call())
    assert not any(zygote.alive for zygote in rig.zygotes.zygotes)


def trees() -> Iterator[type[Exception]]:
    """Every class of the two lower layers."""
    waiting: list[type[Exception]] = [cache.CacheError, snapshot.SnapshotError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()


@pytest.mark.parametrize("kind", list(trees()))
def test_every_lower_error_has_a_row_of_its_own(kind: type[Exception]) -> None:
    """A new class of a lower layer must be thought about, not inherit a policy by accident."""
    assert kind in LOWER
    assert LOWER[kind][0] is type(to_runtime(kind("x")))  # type: ignore[arg-type]


def test_remedies_take_the_most_specific_row() -> None:
    """WorkerDied is a WorkerExited; an engine may well end the process that loads it."""
    assert Remedy.EAGER is remedy(WorkerDied("w", Exit(11)))
    assert Remedy.FAIL is remedy(errors.LoadFailed("E", "m", []))
    assert Remedy.FAIL is remedy(snapshot.BuildFailed("x"))
    assert Remedy.EAGER is remedy(snapshot.SnapshotCorrupt("x"))
    assert Remedy.FAIL is remedy(ValueError("x"))
    assert set(PROCESS) == {kind for kind in PROCESS if issubclass(kind, errors.GlowplugError)}


async def test_cancelled_start_leaves_no_process() -> None:
    """Whatever is raised, no process of the start is left."""
    rig = Rig(a_spec())
    rig.script().import_s = 10.0
    call = rig.call()
    await rig.clock.advance(1)
    rig.router.remove("f")
    with pytest.raises(errors.FunctionNotFound):
        await call
    await settle()
    assert [False] == [zygote.alive for zygote in rig.zygotes.zygotes]
    assert "discarded" == latest(rig).outcome


async def test_a_parked_zygote_that_died_unnoticed_is_built_again_within_the_start() -> None:
    """The request that finds out is served."""
    rig = Rig(a_spec())
    await rig.router.cool("f", "parked")
    zygote = rig.zygotes.zygotes[0]
    real = zygote.fork

    async def fork(worker_id: str, *, uid: int, gid: int) -> object:
        zygote.die(9)
        return await real(worker_id, uid=uid, gid=gid)

    zygote.fork = fork  # type: ignore[method-assign,assignment]
    assert b"{}" == (await rig.call()).payload
    assert 2 == len(rig.zygotes.zygotes)
    assert ("the parked zygote had died and was built again",) == latest(rig).notes


# --- warm-up event ----------------------------------------------------------------------------------------------------


async def test_warmup_event_calls_the_handler_in_the_canary() -> None:
    """The handler check runs there and nowhere else."""
    rig = Rig(a_spec(warmup_event='{"text":"x"}'))
    await rig.call()
    canary, worker = rig.zygotes.workers
    assert ([b'{"text":"x"}'], [b"{}"]) == (canary.invokes[0].events, worker.invokes[0].events)
    assert "the handler took Warmup.Event" in latest(rig).warmup


async def test_a_handler_that_fails_on_its_warmup_event_fails_the_start() -> None:
    """Ready means checked."""

    async def handler(_: wire.Invoke) -> bytes:
        raise KeyError("text")

    rig = Rig(a_spec(warmup_event="{}"))
    rig.script().handler = handler
    assert {
        "errorType": "Glowplug.CheckFailed",
        "errorMessage": "the handler failed on Warmup.Event: KeyError",
    } == body(await rig.call())


# --- words ------------------------------------------------------------------------------------------------------------


async def test_a_check_under_eager_does_not_say_that_nothing_is_recorded() -> None:
    """After a bake that chose eager there is a record; eager is not compared with it."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.script().recorded = False
    await rig.call()
    assert (
        "passed: finite, of the right shape and dtype; what runs on eager is compared with no record (in a canary)"
        == latest(rig).warmup
    )


async def test_a_parked_zygote_gives_the_reason_of_the_last_bake_not_how_far_it_was() -> None:
    """Its own start keeps what was true then."""
    spec = a_spec(models=(MODEL,), idle_timeout_s=0.0)
    rig = Rig(spec)
    await rig.call()
    rig.router.keep(spec.revision, "eager was faster")
    rig.router.keep("a revision that was replaced", "nobody asks")
    await rig.tick(0)
    await rig.call()
    second, first = rig.ledger.recent(2)
    assert ("fork", "not baked yet", "eager was faster") == (second.way, first.engine_reason, second.engine_reason)


async def test_race_a_bake_that_ends_while_the_zygote_is_built_leaves_no_stale_reason() -> None:
    """The zygote was planned while the bake ran."""
    spec = a_spec(models=(MODEL,), idle_timeout_s=0.0)
    rig = Rig(spec)
    rig.script().import_s = 1.0
    first = rig.call()
    await rig.clock.advance(0.5)
    rig.router.keep(spec.revision, "eager was faster")
    await rig.clock.advance(0.5)
    await first
    await rig.tick(0)
    await rig.call()
    assert ("fork", "eager was faster") == (latest(rig).way, latest(rig).engine_reason)


# --- log --------------------------------------------------------------------------------------------------------------


async def test_init_is_logged_once_per_import_and_restore_per_fork() -> None:
    """Init Duration belongs to the first REPORT after the import, Restore Duration to the first of a forked start."""
    rig = Rig(a_spec())
    rig.script().prints = b"hello from import\n"
    rig.script().import_s = 0.25
    first = rig.call()
    await rig.clock.advance(1)
    await first
    await rig.call()
    await rig.router.cool("f", "parked")
    await rig.call()
    log = rig.logs.logs["f"]
    assert [
        *("INIT_START", "output", "invocation", "invocation"),
        *("RESTORE_START", "RESTORE_REPORT", "invocation"),
    ] == log.words()
    reports = [entry for _, entry in log.entries if isinstance(entry, InvocationLog)]
    assert [250, None, None] == [report.init_ms and round(report.init_ms) for report in reports]
    assert [False, False, True] == [report.restore_ms is not None for report in reports]


async def test_parking_without_a_request_ends_its_init_in_the_log() -> None:
    """No REPORT will tell of that import."""
    rig = Rig(a_spec())
    await rig.router.cool("f", "parked")
    assert ["INIT_START", "INIT_REPORT"] == rig.logs.logs["f"].words()


async def test_environment_and_start_carry_what_lambda_sets() -> None:
    """The import has the function's names, the instance its log stream."""
    rig = Rig(a_spec(memory_mb=256, environment={"MINE": "1"}))
    await rig.call()
    load = rig.zygotes.zygotes[0].loads[0]
    start = rig.zygotes.workers[0].starts[0]
    assert ("f", "256", "1") == (
        load.environment["AWS_LAMBDA_FUNCTION_NAME"],
        load.environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        load.environment["MINE"],
    )
    assert {"AWS_LAMBDA_LOG_STREAM_NAME": start.log_stream} == start.environment
    assert f"2026/01/01/[$LATEST]{start.instance_id}" == start.log_stream
    assert (256 * 1024 * 1024, True, "/aws/lambda/f") == (start.memory_bytes, start.restored, start.log_group)


def failure(rig: Rig) -> list[tuple[str, object]]:
    return [entry for entry in rig.logs.logs["f"].entries if entry[0] != "invocation"]


async def test_a_check_that_fails_on_the_nodes_side_is_in_the_log() -> None:
    """The hint to look there must not lead to INIT_START and nothing else."""

    async def handler(_: wire.Invoke) -> bytes:
        raise KeyError("text")

    rig = Rig(a_spec(warmup_event="{}"))
    rig.script().handler = handler
    await rig.call()
    assert [
        ("INIT_START", None),
        ("output", b"[ERROR] Glowplug.CheckFailed: the handler failed on Warmup.Event: KeyError\n"),
        ("INIT_REPORT", "Glowplug.CheckFailed"),
    ] == failure(rig)


async def test_weights_that_cannot_be_had_are_in_the_log() -> None:
    """No process knows of them."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.models.files_error = cache.WeightsTruncated("model.safetensors: 10 of 90 bytes")
    await rig.call()
    assert [
        ("INIT_START", None),
        ("output", b"[ERROR] Glowplug.RestoreFailed: WeightsTruncated: model.safetensors: 10 of 90 bytes\n"),
        ("INIT_REPORT", "Glowplug.RestoreFailed"),
    ] == failure(rig)


async def test_what_a_process_printed_itself_is_not_written_twice() -> None:
    """A bind that fails prints its trace, as an import does."""
    rig = Rig(a_spec(models=(MODEL,)))
    error = errors.RestoreFailed("Glowplug.WeightsMismatch: shapes differ")
    error.reported_type = "Glowplug.WeightsMismatch"
    rig.script().bind_errors["eager"] = error
    rig.script().prints = b"[ERROR] Glowplug.WeightsMismatch: shapes differ\n"
    await rig.call()
    assert ["INIT_START", "output", "INIT_REPORT"] == rig.logs.logs["f"].words()


async def test_an_init_that_takes_too_long_ends_in_the_log() -> None:
    """As Lambda's INIT_REPORT with Status: timeout."""
    rig = Rig(a_spec(init_timeout_s=5, hold_timeout_s=100))
    rig.script().import_s = math.inf
    call = rig.call()
    await rig.clock.advance(5)
    await call
    assert [("INIT_START", None), ("INIT_REPORT", "timeout")] == failure(rig)
