"""The bake queue with real child processes. Most children are a scripted baker, which stages what a real one would."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache import pins
from glowplug.runtime import baker
from glowplug.runtime.baker import BakeLimits, Baker, _prepare
from glowplug.runtime.bakereport import BakeProgress
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.process.sweep import Records
from glowplug.runtime.routing.environment import Roots, Site
from glowplug.runtime.routing.orders import load_order
from glowplug.runtime.snapshots import BakeStatus, Snapshots
from glowplug.runtime.sources import Sources
from glowplug.runtime.spec import FunctionSpec, ModelSpec
from glowplug.snapshot import fingerprint
from glowplug.snapshot.store import SnapshotStore

KEY = "ab" * 32
SITE = Site(endpoint="http://127.0.0.1:9000")

BAKER = """
import argparse, hashlib, json, os, subprocess, sys, time
from pathlib import Path
from glowplug.snapshot import fingerprint
from glowplug.snapshot.assignments import figures
from glowplug.snapshot.manifest import EngineRecord, Manifest, Artefact, source_digest

parser = argparse.ArgumentParser()
parser.add_argument("--events-fd", type=int)
fd = parser.parse_args().events_fd
job = json.loads(sys.stdin.read())
staging, load = Path(job["staging"]), job["load"]

def say(**event):
    os.write(fd, json.dumps(event).encode() + b"\\n")

def stage(verdict="aot_inductor", reason="", here=None, key="%(key)s"):
    engine = b"\\x7fELF"
    (staging / "model.so").write_bytes(engine)
    files = next(model["files"] for model in load["models"] if model["name"] == job["model"])
    records = {"eager": EngineRecord(cold_ms=30.0, warm_ms=12.0),
               "aot_inductor": EngineRecord(engine="aot_inductor", artefact="model.so", cold_ms=11.0, warm_ms=9.0)}
    manifest = Manifest(
        key=key, source=source_digest({name: Path(path) for name, path in files.items()}), graph="g",
        fingerprint=here or fingerprint.current().to_json(), signature={}, computed={}, aliases={}, engines=records,
        verdict=verdict, reason=reason, check={},
        artefacts={"model.so": Artefact(hashlib.sha256(engine).hexdigest(), len(engine))})
    (staging / "manifest.json").write_bytes(manifest.to_bytes())
    measured = {label: figures(record) for label, record in records.items()}
    say(event="done", key=key, reused=False, verdict=verdict, reason=reason, measured=measured)

say(event="progress", phase="compile", fraction=0.15)
%(body)s
"""


@dataclass
class Bench:
    """A ``Snapshots`` with its collaborators, and what it told its caller."""

    snapshots: Snapshots
    store: SnapshotStore
    state: Path
    spec: FunctionSpec
    baked: list[str]
    kept: list[str]
    script: Path
    sources: Sources
    device: list[str]

    def bakes(self, body: str) -> None:
        """Say what the next children do."""
        self.script.write_text(BAKER % {"key": KEY, "body": textwrap.dedent(body)})

    async def status(self) -> BakeStatus:
        (status,) = await self.snapshots.bake(self.spec)
        return status

    def left_behind(self) -> list[str]:
        return sorted(str(path) for root in ("bake", "run/processes") for path in (self.state / root).iterdir())


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    opened: list[Snapshots] = []
    os.chmod(tmp_path, 0o755)  # exposed to bakes with a user of their own, together with the script that is run

    async def build(
        *,
        limits: BakeLimits | None = None,
        environ: dict[str, str] | None = None,
        uid: int = -1,
        model: dict[str, Any] | None = None,
    ) -> Bench:
        state = tmp_path / "S"
        config = NodeConfig(state=state, cache=state / "cache", file_roots=(tmp_path,))
        source = tmp_path / "model"
        source.mkdir(exist_ok=True)
        (source / "model.safetensors").write_bytes(b"weights")
        sources = Sources(config, environ=os.environ)
        files = await sources.resolve(f"file://{source}")
        models = (ModelSpec("m", f"file://{source}", files=files, **(model or {})),)
        spec = FunctionSpec(name="f", handler="a.b", runtime="python3.11", code_digest="0" * 64, models=models)
        store = SnapshotStore(state / "snapshots", b"k" * 32)
        baker = Baker(
            state / "bake",
            store.root,
            environ=environ if environ is not None else dict(os.environ),
            expose=(tmp_path, state / "cache" / "blobs"),
            records=Records(state / "run" / "processes"),
            limits=limits,
            command=(sys.executable, str(tmp_path / "baker.py")),
        )
        device = ["cpu"]
        baked: list[str] = []
        kept: list[str] = []
        snapshots = Snapshots(
            store,
            sources,
            baker,
            load_of=lambda spec, files: load_order(SITE, spec, Roots(str(tmp_path), ""), files),
            on_baked=lambda spec: baked.append(spec.revision),
            on_kept=lambda spec, reason: kept.append(reason),
            user_of=lambda function: uid,
            device_of=lambda spec: device[0],
        )
        opened.append(snapshots)
        (state / "bake").mkdir(parents=True, exist_ok=True)
        return Bench(snapshots, store, state, spec, baked, kept, tmp_path / "baker.py", sources, device)

    yield build
    for snapshots in opened:
        await snapshots.close()


async def queued(bench: Bench) -> BakeStatus:
    """Wait for the bake that is queued or runs; return the status after it."""
    bake = bench.snapshots._queue.find(bench.spec.revision, "m")
    assert bake is not None
    await bake.done
    return bench.snapshots.status(bench.spec)[0]


async def settled(bench: Bench) -> None:
    """Wait for whatever is queued."""
    await bench.snapshots.bake(bench.spec)


async def test_a_bake_is_published_assigned_and_told(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage(reason='least cost')")
    seen: list[tuple[str, BakeProgress]] = []
    (status,) = await bench.snapshots.bake(bench.spec, lambda name, progress: seen.append((name, progress)))
    assert ("ready", "aot_inductor", "least cost", KEY) == (status.state, status.engine, status.reason, status.key)
    assert [("aot_inductor", 11.0, 9.0), ("eager", 30.0, 12.0)] == [
        (row.engine, row.cold_ms, row.warm_ms) for row in status.measurements
    ]
    assert [("m", BakeProgress("compile", 0.15))] == seen
    await asyncio.sleep(0)
    assert [bench.spec.revision] == bench.baked
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("m", "aot_inductor", str(bench.store.root / KEY)) == (plan.model_name, plan.engine, plan.snapshot_dir)
    assert bench.store.open(KEY).manifest == plan.manifest_bytes
    assert [] == bench.left_behind()


async def test_what_a_snapshot_binds_is_pinned_from_the_bake_on_and_held_only_while_it_lasts(
    make: Callable[..., Any],
) -> None:
    bench = await make()
    bench.bakes("stage(reason='least cost')")
    await bench.status()
    digests = {file.sha256 for file in bench.spec.models[0].files}
    [snapshot] = bench.snapshots.book.used(bench.spec)
    assert {str(snapshot): digests} == pins.owners(bench.state / "cache")
    assert "held=0" in repr(bench.sources)
    assert {} == await bench.sources.discard(digests)
    assert {} == pins.owners(bench.state / "cache")
    await bench.snapshots.plan(bench.spec)
    assert [str(snapshot)] == list(pins.owners(bench.state / "cache"))


async def test_a_verdict_is_of_the_device_that_it_was_drawn_on(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage(reason='least cost')")
    await bench.status()
    bench.device[0] = "cuda:0"
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("eager", "not baked yet") == (plan.engine, plan.reason)
    bench.device[0] = "cpu"
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "aot_inductor" == plan.engine


async def test_a_start_before_the_bake_is_eager_and_says_so(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("time.sleep(60)")
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("eager", "not baked yet") == (plan.engine, plan.reason)
    bench.snapshots.request_bake(bench.spec)
    bench.snapshots.request_bake(bench.spec)
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "waiting to be baked" == plan.reason
    reached = asyncio.Event()
    waiting = asyncio.create_task(bench.snapshots.bake(bench.spec, lambda name, progress: reached.set()))
    await reached.wait()
    (status,) = bench.snapshots.status(bench.spec)
    assert ("baking", "eager", "compile", 0.15) == (status.state, status.engine, status.phase, status.fraction)
    waiting.cancel()


async def test_a_verdict_survives_a_restart_and_is_not_baked_again(make: Callable[..., Any]) -> None:
    first = await make()
    first.bakes("stage()")
    await first.status()
    await first.snapshots.close()
    second = await make()
    second.bakes("raise SystemExit('baked again')")
    second.snapshots.request_bake(second.spec)
    assert "aot_inductor" == (await second.status()).engine
    (plan,) = await second.snapshots.plan(second.spec)
    assert "aot_inductor" == plan.engine


async def test_eager_is_never_baked(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("raise SystemExit('baked')")
    spec = replace(bench.spec, models=(replace(bench.spec.models[0], engine="eager"),))
    bench.snapshots.request_bake(spec)
    (status,) = await bench.snapshots.bake(spec)
    assert ("none", "eager", "") == (status.state, status.engine, status.reason)
    (plan,) = await bench.snapshots.plan(spec)
    assert ("eager", "") == (plan.engine, plan.reason)


async def test_a_verdict_for_eager_is_kept_with_its_reason(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage(verdict='eager', reason='it was faster')")
    status = await bench.status()
    assert ("ready", "eager", "it was faster") == (status.state, status.engine, status.reason)
    assert [] == bench.baked
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("eager", "it was faster", b"") == (plan.engine, plan.reason, plan.manifest_bytes)
    assert ["it was faster"] == bench.kept, "starts that were planned while it was baked hear how it ended"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("say(event='failed', error_type='ExportFailed', message='no graph')", "ExportFailed: no graph"),
        ("sys.stderr.write('libfoo: oops'); sys.stderr.flush(); os.abort()", "signal SIGABRT: libfoo: oops"),
        ("sys.exit(3)", "status 3: it printed nothing"),
        ("os.write(fd, b'{\"event\": \"done\"}\\n[]\\n\\xff\\n')", "status 0"),
        ("stage(); os.truncate(staging / 'model.so', 1)", "model.so"),
        ("(staging / 'model.so').symlink_to('/etc/shadow'); say(event='done', key='ab', reused=False, verdict='aot_inductor', reason='')", "manifest.json: missing"),
        ("next(iter(load['models']))['files'] = {}; stage()", "it was baked from weights"),
        ("stage(here={**fingerprint.current().to_json(), 'cpu': ['avx9000']})", "this CPU lacks avx9000"),
        ("say(event='done', key='cd' * 32, reused=True, verdict='aot_inductor', reason='')", "no snapshot cdcd"),
    ],
)  # fmt: skip
async def test_a_bake_that_goes_wrong_is_eager_with_the_reason(
    make: Callable[..., Any], body: str, reason: str
) -> None:
    bench = await make()
    bench.bakes(body)
    status = await bench.status()
    assert ("failed", "eager") == (status.state, status.engine)
    assert reason in status.reason
    assert [] == bench.store.keys()
    assert [] == bench.left_behind()
    assert [status.reason] == bench.kept
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("eager", status.reason) == (plan.engine, plan.reason)


async def test_a_failed_bake_is_repeated_only_when_asked(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("sys.exit(1)")
    assert "failed" == (await bench.status()).state
    bench.bakes("stage()")
    bench.snapshots.request_bake(bench.spec)
    assert "failed" == bench.snapshots.status(bench.spec)[0].state
    assert "ready" == (await bench.status()).state


AGAIN = """
measured = {"eager": figures(EngineRecord(cold_ms=5.0, warm_ms=1.0)),
            "aot_inductor": figures(EngineRecord(cold_ms=9.0, warm_ms=2.0))}
assert job["again"] == "%s"
say(event="done", key=job["again"], reused=True, verdict="eager", reason="it was faster", measured=measured)
"""


async def test_a_verdict_is_drawn_again_when_asked_and_the_snapshot_stays(make: Callable[..., Any]) -> None:
    """A busy machine must not decide for ever: measured again, without compiling."""
    bench = await make()
    bench.bakes("assert not job['again']; stage()")
    await bench.status()
    manifest = bench.store.open(KEY).manifest
    bench.bakes(AGAIN % KEY)
    bench.snapshots.bake_again(bench.spec)
    assert ("queued", "aot_inductor") == (
        bench.snapshots.status(bench.spec)[0].state,
        bench.snapshots.status(bench.spec)[0].engine,
    )
    status = await bench.status()
    assert ("ready", "eager", KEY) == (status.state, status.engine, status.key)
    assert [("aot_inductor", 9.0), ("eager", 5.0)] == [(row.engine, row.cold_ms) for row in status.measurements]
    assert manifest == bench.store.open(KEY).manifest
    assert [bench.spec.revision] * 2 == bench.baked, "the zygote with the slower engine is built again"
    await bench.snapshots.close()
    later = await make()
    assert status == later.snapshots.status(later.spec)[0]
    assert "eager" == (await later.snapshots.plan(later.spec))[0].engine


async def test_an_engine_that_is_asked_for_while_a_bake_runs_serves_at_its_end(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    bench.snapshots.request_bake(bench.spec)
    bench.snapshots.bake_again(bench.spec, label="eager")
    status = await bench.status()
    assert ("ready", "eager", "asked for by the operator") == (status.state, status.engine, status.reason)
    await bench.snapshots.close()


async def test_the_same_verdict_again_changes_nothing(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.bakes("say(event='done', key=job['again'], reused=True, verdict='aot_inductor', reason='still')")
    bench.snapshots.bake_again(bench.spec)
    assert "still" == (await bench.status()).reason
    assert ([bench.spec.revision], []) == (bench.baked, bench.kept)


async def test_a_measurement_that_fails_leaves_the_verdict(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.bakes("sys.exit(3)")
    bench.snapshots.bake_again(bench.spec)
    status = await queued(bench)
    assert ("failed", "aot_inductor") == (status.state, status.engine)
    assert "aot_inductor" == (await bench.snapshots.plan(bench.spec))[0].engine


async def test_a_snapshot_that_cannot_be_trusted_is_not_measured_but_made_anew(make: Callable[..., Any]) -> None:
    """The bake would load its engine."""
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    (bench.store.root / KEY / "manifest.hmac").chmod(0o644)
    (bench.store.root / KEY / "manifest.hmac").write_text("0" * 64)
    bench.bakes("assert not job['again']; stage(reason='anew')")
    bench.snapshots.bake_again(bench.spec)
    assert "anew" == (await queued(bench)).reason
    assert KEY == bench.store.open(KEY).key


async def test_an_engine_that_was_given_up_is_made_again_only_when_asked(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "CheckFailed: output 0 differs", "check")
    assert "eager" == (await bench.status()).engine
    bench.snapshots.bake_again(bench.spec)
    assert "aot_inductor" == (await queued(bench)).engine


SEVERAL = """
def row(cold_ms, warm_ms):
    return {"restore_ms": 0.0, "first_ms": 0.0, "cold_ms": cold_ms, "parked_ms": cold_ms, "warm_ms": warm_ms,
            "private_bytes": 0, "shared_bytes": 0, "worst_error": 0.0, "refused": "", "shapes": {}, "batches": {}}

figures_of = {"eager": row(30.0, 12.0), "aot_inductor": row(11.0, 9.0), "aot_inductor-bf16": row(12.0, 9.5),
              "aot_inductor-int8": row(99.0, 99.0)}
figures = lambda record: figures_of["eager"]
real = say
say = lambda **event: real(**{**event, "measured": figures_of}) if event["event"] == "done" else real(**event)
stage()
"""


async def test_the_next_best_engine_of_the_same_snapshot_serves_when_one_is_given_up(make: Callable[..., Any]) -> None:
    bench = await make(model={"precision": "auto", "max_error": 1.0})
    bench.bakes(SEVERAL)
    await bench.status()
    seen = []
    for _ in range(3):
        (plan,) = await bench.snapshots.plan(bench.spec)
        seen.append((plan.engine, plan.reason))
        bench.snapshots.give_up(bench.spec, "m", plan.engine, "off", "check")
    first = "aot_inductor was given up: off"
    second = f"{first}; aot_inductor-bf16 was given up: off"
    assert [("aot_inductor", ""), ("aot_inductor-bf16", first), ("eager", second)] == seen, "slower ones are not tried"
    assert [] == bench.store.keys(), "nothing of it is left to serve"
    assert 2 == bench.snapshots.book.given_up.total()


async def test_what_was_given_up_is_known_after_a_restart_and_cleared_by_a_bake(make: Callable[..., Any]) -> None:
    bench = await make(model={"precision": "auto", "max_error": 1.0})
    bench.bakes(SEVERAL)
    await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "off", "mismatch")
    await bench.snapshots.close()
    later = await make(model={"precision": "auto", "max_error": 1.0})
    (status,) = later.snapshots.status(later.spec)
    assert ("aot_inductor-bf16", ["aot_inductor"]) == (status.engine, [one.engine for one in status.given_up])
    assert [later.store.root / KEY] == later.snapshots.book.used(later.spec)
    later.bakes(f"assert not job['again'] and not Path(job['snapshots']).exists()\n{SEVERAL}")
    later.snapshots.bake_again(later.spec)
    status = await queued(later)
    assert ("ready", "aot_inductor", ()) == (status.state, status.engine, status.given_up), status.reason


async def test_a_new_revision_of_the_same_snapshot_does_not_begin_with_a_faulty_engine(
    make: Callable[..., Any],
) -> None:
    """An edited handler compiles nothing again, and finds the snapshot as it was made."""
    bench = await make(model={"precision": "auto", "max_error": 1.0})
    bench.bakes(SEVERAL)
    await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "off", "mismatch")
    edited = replace(bench.spec, code_digest="1" * 64)
    bench.bakes(
        SEVERAL.replace("stage()", f"say(event='done', key='{KEY}', reused=True, verdict='aot_inductor', reason='')")
    )
    (status,) = await bench.snapshots.bake(edited)
    assert ("aot_inductor-bf16", "aot_inductor was given up: off") == (status.engine, status.reason)


async def test_an_engine_that_was_only_slow_is_measured_again_not_made_anew(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "slow", "cold")
    assert ("eager", [KEY]) == ((await bench.status()).engine, bench.store.keys())
    bench.bakes("say(event='done', key=job['again'], reused=True, verdict='aot_inductor', reason='quick now')")
    bench.snapshots.bake_again(bench.spec)
    assert ("aot_inductor", "quick now") == ((await queued(bench)).engine, bench.snapshots.status(bench.spec)[0].reason)


async def test_race_an_engine_given_up_while_it_is_measured_again_stays_given_up(make: Callable[..., Any]) -> None:
    """The bake has measured in processes of its own, and cannot know what was seen meanwhile."""
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.bakes("say(event='done', key=job['again'], reused=True, verdict='aot_inductor', reason='still')")
    bench.snapshots.bake_again(bench.spec)
    bake = bench.snapshots._queue.find(bench.spec.revision, "m")
    assert bake is not None

    def watch(name: str, progress: BakeProgress) -> None:
        bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "slow", "cold")

    bake.watchers.append(watch)
    status = await queued(bench)
    assert ("eager", "aot_inductor was given up: slow") == (status.engine, status.reason)


async def test_a_bake_over_its_time_is_killed_with_its_compilers(make: Callable[..., Any], tmp_path: Path) -> None:
    bench = await make(limits=BakeLimits(time_s=4.0))
    bench.bakes(
        f"child = subprocess.Popen(['sleep', '60'])\nPath({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    status = await bench.status()
    assert "TimedOut: took longer than 4 s" in status.reason
    await dead(int((tmp_path / "pid").read_text()))
    assert [] == bench.left_behind()


async def test_a_bake_over_its_memory_fails_alone(make: Callable[..., Any]) -> None:
    bench = await make(limits=BakeLimits(memory_bytes=256 * 1024 * 1024))
    bench.bakes("block = bytearray(512 * 1024 * 1024); stage()")
    status = await bench.status()
    assert "failed" == status.state
    assert "MemoryError" in status.reason


async def test_stopping_the_node_kills_the_bake(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("say(event='progress', phase=str(os.getpid()), fraction=0); time.sleep(60)")
    pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def watch(name: str, progress: BakeProgress) -> None:
        if progress.phase.isdigit():
            pid.set_result(int(progress.phase))

    waiting = asyncio.create_task(bench.snapshots.bake(bench.spec, watch))
    await pid
    await bench.snapshots.close()
    await waiting
    await dead(pid.result())
    assert [] == bench.left_behind()


async def test_replacing_a_revision_kills_its_bake_and_the_next_goes_on(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("time.sleep(60) if load['function_name'] == 'f' else stage()")
    reached = asyncio.Event()
    first = asyncio.create_task(bench.snapshots.bake(bench.spec, lambda name, progress: reached.set()))
    await reached.wait()
    other = replace(bench.spec, name="g")
    second = asyncio.create_task(bench.snapshots.bake(other))
    await asyncio.sleep(0)
    bench.snapshots.drop(bench.spec.revision)
    await first
    assert "ready" == (await second)[0].state
    assert "none" == bench.snapshots.status(bench.spec)[0].state
    assert [other.revision] == bench.baked


async def test_a_queued_bake_of_a_dropped_revision_never_runs(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    bench.snapshots.request_bake(bench.spec)
    bench.snapshots.drop(bench.spec.revision)
    await bench.snapshots.close()
    assert [] == bench.store.keys()


async def test_without_a_compiler_and_onnx_runtime_engines_are_unavailable(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make(environ={"PATH": str(tmp_path)})
    monkeypatch.setattr(baker, "onnx_obstacle", lambda *needed: "onnxruntime is not installed")
    status = await bench.status()
    assert ("unavailable", "eager") == (status.state, status.engine)
    assert "install g++ and bake again; onnxruntime is not installed" in status.reason
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert ("eager", status.reason) == (plan.engine, plan.reason)


async def test_a_corrupted_snapshot_is_retired_and_baked_again(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    (bench.store.root / KEY / "model.so").chmod(0o644)
    (bench.store.root / KEY / "model.so").write_bytes(b"\x7fELG")
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "eager" == plan.engine
    assert "model.so: sha256" in plan.reason
    assert "queued" == bench.snapshots.status(bench.spec)[0].state
    await settled(bench)
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "aot_inductor" == plan.engine


async def test_a_snapshot_of_another_cpu_is_not_used_and_is_baked_again(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    here = fingerprint.current()
    monkeypatch.setattr(fingerprint, "current", lambda: replace(here, cpu=(), torch="9.9"))
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "eager" == plan.engine
    assert f"it was baked elsewhere: torch {here.torch}, here 9.9; this CPU lacks" in plan.reason
    monkeypatch.undo()
    await settled(bench)
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "aot_inductor" == plan.engine


async def test_while_it_is_baked_again_and_when_that_failed_the_last_verdict_is_told(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    before = await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "slow", "cold")
    bench.bakes("say(event='failed', error_type='Said', message='no')")
    bench.snapshots.bake_again(bench.spec)
    (queued_now,) = bench.snapshots.status(bench.spec)
    failed = await queued(bench)
    for status, state in ((queued_now, "queued"), (failed, "failed")):
        assert (state, "eager", KEY, before.measurements) == (
            *(status.state, status.engine, status.key),
            status.measurements,
        )
        assert ["aot_inductor"] == [one.engine for one in status.given_up]


async def test_an_engine_that_was_given_up_stays_off_for_the_function(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes("stage()")
    await bench.status()
    bench.snapshots.give_up(bench.spec, "m", "aot_inductor", "CheckFailed: output 0 differs", "check")
    bench.snapshots.give_up(bench.spec, "m", "eager", "nothing to retire", "check")
    assert 1 == bench.snapshots.book.given_up.total()
    assert [] == bench.store.keys()
    bench.snapshots.request_bake(bench.spec)
    (status,) = bench.snapshots.status(bench.spec)
    assert ("ready", "eager") == (status.state, status.engine)
    assert "aot_inductor was given up: CheckFailed: output 0 differs" == status.reason


async def test_a_full_disk_fails_the_bake_and_not_the_plan(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make()
    bench.bakes("stage()")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.name == KEY:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    status = await bench.status()
    assert "failed" == status.state
    assert "No space left on device" in status.reason
    (plan,) = await bench.snapshots.plan(bench.spec)
    assert "eager" == plan.engine


async def test_the_child_is_nice_alone_and_keeps_its_caches_to_itself(make: Callable[..., Any]) -> None:
    bench = await make()
    bench.bakes(
        "say(event='failed', error_type='Said', message=json.dumps({'nice': os.nice(0), 'session': os.getsid(0) == "
        "os.getpid(), 'environment': dict(os.environ), 'staging': str(staging)}))"
    )
    said = json.loads((await bench.status()).reason.partition("Said: ")[2])
    home = str(Path(said["staging"]).parent)
    assert (10, True) == (said["nice"], said["session"])
    assert home.startswith(str(bench.state / "bake"))
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "HOME"):
        assert said["environment"][name].startswith(home)
    assert not [name for name in said["environment"] if name.startswith("AWS_")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a bake a user of its own")
async def test_a_bake_with_a_user_of_its_own_is_published_as_the_nodes(make: Callable[..., Any]) -> None:
    bench = await make(uid=200_007)
    bench.bakes("stage(reason=f'{os.getuid()} {os.getgid()} {os.getgroups()}')")
    status = await bench.status()
    assert ("ready", "200007 200007 []") == (status.state, status.reason)
    owners = {path.stat().st_uid for path in (bench.store.root / KEY).iterdir()}
    assert {0} == owners


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a bake a user of its own")
async def test_a_bake_with_a_user_of_its_own_cannot_write_what_it_may_read(make: Callable[..., Any]) -> None:
    bench = await make(uid=200_007)
    bench.bakes(
        "tried = [job['snapshots'], load['task_root'], next(iter(load['models'][0]['files'].values()))]\n"
        "say(event='failed', error_type='Said', message=json.dumps([os.access(path, os.W_OK) for path in tried]))"
    )
    assert [False, False, False] == json.loads((await bench.status()).reason.partition("Said: ")[2])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a bake a user of its own")
async def test_a_bake_with_a_user_of_its_own_is_nice_and_limited_too(make: Callable[..., Any]) -> None:
    bench = await make(uid=200_007, limits=BakeLimits(memory_bytes=8 << 30))
    bench.bakes(
        "import resource\n"
        "limits = [os.nice(0), *resource.getrlimit(resource.RLIMIT_DATA)]\n"
        "say(event='failed', error_type='Said', message=json.dumps(limits))"
    )
    assert [10, 8 << 30, 8 << 30] == json.loads((await bench.status()).reason.partition("Said: ")[2])


BUSY = """
import os, subprocess, time
compiler = subprocess.Popen(["sleep", "60"])
with open(os.path.join(os.environ["HOME"], "pids"), "w") as file:
    print(os.getpid(), compiler.pid, file=file)
compiler.wait()
"""

NODE = """
import asyncio, os, sys
from pathlib import Path
from glowplug.runtime.baker import BakeJob, Baker
from glowplug.snapshot.choice import Wanted
from glowplug.runtime.process import wire

root = Path(sys.argv[1])

async def main():
    load = wire.Load("f", "app.handler", str(root / "code"), [], {}, [], "on-demand", True, False)
    baker = Baker(root / "bake", root / "snapshots", environ=dict(os.environ), expose=(root,))
    async with baker.bake(BakeJob(load, "", Wanted(), int(sys.argv[2])), print):
        pass

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("uid", [-1, pytest.param(200_009, marks=pytest.mark.skipif("os.geteuid() != 0"))])
async def test_a_killed_node_ends_the_bake_and_its_compilers_at_once(tmp_path: Path, uid: int) -> None:
    """Nothing that the node does can help: it is gone."""
    os.chmod(tmp_path, 0o755)
    code = tmp_path / "code"
    code.mkdir()
    (tmp_path / "snapshots").mkdir()
    (code / "app.py").write_text(BUSY)
    baker = Baker(tmp_path / "bake", tmp_path / "snapshots", environ={})
    parent = tmp_path / "bake" if uid < 0 else Path(tempfile.gettempdir())
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, str(tmp_path), str(uid))
    pids: list[int] = []
    while len(pids) < 2:
        assert node.returncode is None
        await asyncio.sleep(0.02)
        pids = [int(word) for path in parent.glob(f"{baker._prefix}*/pids") for word in path.read_text().split()]
    node.kill()
    await node.wait()
    for pid in pids:
        await dead(pid)
    baker.sweep()


def test_a_sweep_removes_what_a_killed_node_left(tmp_path: Path) -> None:
    baker = Baker(tmp_path / "bake", tmp_path / "snapshots", environ={})
    home = _prepare(tmp_path / "bake", baker._prefix, -1)
    ours, other = Path(tempfile.gettempdir(), home.name), home.with_name("glowplug-bake-of-another-node")
    for directory in (ours, other):
        directory.mkdir()
    baker.sweep()
    assert (False, False, True) == (home.exists(), ours.exists(), other.exists())


async def dead(pid: int) -> None:
    """Wait until a process that got SIGKILL is dead; the pidfd of one that is reaped already cannot be opened."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert await asyncio.to_thread(select.select, [pidfd], [], [], 5.0) == ([pidfd], [], [])
    finally:
        os.close(pidfd)
