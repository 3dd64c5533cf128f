"""Which engine serves each model, and the queue of bakes that make better ones. Node side; the making is ``baker``.

A model asks for an engine (``auto``, ``eager``, ``aot_inductor``). Until a bake has found the best one for a revision,
and whenever anything about a snapshot is not as it must be, the plan is ``eager`` with the reason: no start ever waits
for a bake or fails for want of one. Cases of ``Snapshots.plan``, in order:

1. eager was asked for: eager, no reason.
2. no verdict yet: eager, and the reason says how far the bake is, or why there is none.
3. the verdict is eager (it was faster, or nothing better is left): eager, with the verdict's reason.
4. the snapshot is gone or altered: it is retired, eager, bake again.
5. it was made for another machine or other software: eager, bake again.
6. it is of other weights than this revision pins: eager, bake again.
7. else the engine, with the verified manifest; the reason says which better ones were given up.

When an engine is given up, and which comes next, is said in ``routing.distrust``. A bake that failed is not repeated by
itself, and a verdict not drawn again; ``bake_again`` does both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from glowplug.cache.errors import CacheError
from glowplug.snapshot import reuse
from glowplug.snapshot.assignments import Assignment, Assignments, GivenUp, Measured
from glowplug.snapshot.errors import SnapshotCorrupt, SnapshotError, SnapshotMissing
from glowplug.snapshot.store import MANIFEST, SnapshotStore

from .bakequeue import Bake, BakeQueue, Watcher
from .baker import BakeFailed, BakeJob, Baker, BakeVerdict
from .process import wire
from .routing.distrust import Expected, Kind
from .routing.ports import EnginePlan
from .snapshotfit import machine_digest, unusable_here
from .sources import Sources
from .spec import FunctionSpec, ModelSpec
from .verdicts import asked, chosen, ladder, wanted

State = Literal["none", "queued", "baking", "ready", "failed", "unavailable"]
LoadOf = Callable[[FunctionSpec, Mapping[str, Mapping[str, str]]], wire.Load]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BakeStatus:
    """One model's engine, for listings. ``engine`` serves now; ``reason`` says why not a better one.

    ``phase`` and ``fraction`` (0 to 1) count while baking; ``measurements`` has a row per engine that was tried, by
    name, empty before a bake. ``given_up`` are the engines that were, with the kind of reason and the reason.
    """

    model_name: str
    state: State
    engine: str
    reason: str = ""
    phase: str = ""
    fraction: float = 0.0
    key: str = ""
    measurements: tuple[Measured, ...] = ()
    given_up: tuple[GivenUp, ...] = ()


class Snapshots:
    """Plans, distrusts and bakes. ``load_of`` builds what a process needs to import a revision's handler;
    ``on_baked`` is called when a revision has a better engine than the one it runs with, ``on_kept`` with the reason
    when a bake ended and it goes on with eager; ``user_of`` gives the uid a function's code runs under (-1: the
    node's)."""

    def __init__(
        self,
        store: SnapshotStore,
        sources: Sources,
        baker: Baker,
        *,
        load_of: LoadOf,
        on_baked: Callable[[FunctionSpec], None],
        on_kept: Callable[[FunctionSpec, str], None],
        user_of: Callable[[str], int] = lambda function: -1,
    ) -> None:
        self._store = store
        self._reusable = reuse.sources(store.root)
        self._sources = sources
        self._baker = baker
        self._load_of = load_of
        self._on_baked = on_baked
        self._on_kept = on_kept
        self._user_of = user_of
        self._assignments = Assignments(store.root)
        self._fingerprint = machine_digest()
        self._queue = BakeQueue(self._perform)
        self._suspect: dict[str, tuple[GivenUp, ...]] = {}  # by snapshot: for revisions that come to share it
        self.retired: Counter[tuple[str, str, str, Kind]] = Counter()

    def __repr__(self) -> str:
        return f"Snapshots({self._store!r}, {self._queue!r}, distrusted={self.distrusted})"

    @property
    def distrusted(self) -> int:
        """How many engines were given up. ``retired`` has them by function, model, engine and kind of reason."""
        return self.retired.total()

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return one plan per model. Never waits for a bake; never raises for a snapshot that cannot be used."""
        return [await self._plan(spec, model) for model in spec.models]

    def distrust(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind) -> bool:
        """Give an engine up: later plans of this revision have the next one. Returns whether it was the one in use.

        A snapshot of which nothing is left to serve is gone for all, unless its engine was only slow. Eager cannot be
        given up, nor an engine that does not serve (any more): nothing happens then.
        """
        before = self._assignments.get(spec.revision, model_name)
        if engine == "eager" or before is None or before.engine != engine:
            return False
        after = before.without(GivenUp(engine, kind, reason))
        faults = tuple(one for one in after.given_up if one.kind != "cold")
        gone = after.engine == "eager" and bool(faults)
        if faults:
            self._suspect[before.key] = faults
        self.retired[spec.name, model_name, engine, kind] += 1
        _log.warning(
            "%s: engine %s of model %r is given up, %s is next: %s",
            *(spec.name, engine, model_name, after.engine, reason),
        )
        with _logged(spec, "giving an engine up"):
            self._assignments.set(spec.revision, model_name, replace(after, key="") if gone else after)
            if gone:
                self._store.retire(before.key, f"{spec.name}: {reason}")
        return True

    def expected(self, spec: FunctionSpec, model_name: str, engine: str) -> tuple[Expected | None, Expected | None]:
        """Return what was measured of an engine that serves, and of the one that would serve in its place; None for an
        engine that does not serve, or where nothing would come next."""
        assignment = self._assignments.get(spec.revision, model_name)
        if engine == "eager" or assignment is None or assignment.engine != engine:
            return None, None
        rows = {
            row.engine: Expected(row.engine, row.parked_ms, row.cold_ms, row.warm_ms) for row in assignment.measured
        }
        return rows.get(engine), rows.get(assignment.next_engine)

    def request_bake(self, spec: FunctionSpec) -> None:
        """Queue a bake of each model that has no verdict for this machine and no failed attempt behind it."""
        for model in spec.models:
            if self._cannot(model):
                continue  # status says why; looked at each time, so that installing a compiler is enough
            if not self._is_settled(spec, model) and self._queue.find(spec.revision, model.name) is None:
                self._enqueue(spec, model)

    def bake_again(self, spec: FunctionSpec, *, label: str = "") -> None:
        """Queue a bake of each model whatever came of the last one. Where there is a verdict with a snapshot, its
        engines are measured again, without compiling; an engine that was given up is made anew.

        ``label`` names the engine to serve with from then on, if it passes, whatever the objective says.
        """
        for model in spec.models:
            if model.engine == "eager" or self._baker.obstacle(model.engine):
                continue
            bake = self._queue.find(spec.revision, model.name)
            if bake is None or bake.done.done():
                self._enqueue(spec, model, label)

    def adopt(self, spec: FunctionSpec, model: ModelSpec, key: str) -> asyncio.Future[None] | None:
        """See whether a snapshot that was published by other means than a bake is the one that ``model`` needs.

        That is for a bake to say: only the graph, which only the author's code has, tells whether it is the snapshot
        of this model or of another with the same weights. It compiles nothing when it is, so no compiler is needed.
        Returns what resolves when it is over; None where nothing is to be seen: the verdict is of this very snapshot,
        or eager was asked for. A bake that runs meanwhile makes the same thing the long way and is ended for this one,
        unless somebody waits for it.
        """
        assignment = self._assignment(spec, model)
        if model.engine == "eager" or (assignment is not None and assignment.key == key):
            return None
        self._reusable.add(model.source_digest)
        bake = self._queue.find(spec.revision, model.name)
        if bake is not None and self._queue.runs(bake) and not bake.watchers:
            self._queue.drop(spec.revision)
            bake = None
        if bake is None or bake.done.done():
            bake = self._enqueue(spec, model)
            self.request_bake(spec)  # for its other models, if they were dropped along
        return bake.done

    async def bake(self, spec: FunctionSpec, on_progress: Watcher | None = None) -> tuple[BakeStatus, ...]:
        """Bake every model that is not settled, failed ones included, and return the statuses when all is done.

        ``on_progress`` gets (model name, progress). Cancelling stops the waiting, not the bakes.
        """
        waiting = []
        for model in spec.models:
            bake = self._queue.find(spec.revision, model.name)
            if bake is None or bake.done.done():
                if self._cannot(model) or self._is_settled(spec, model):
                    continue
                bake = self._enqueue(spec, model)
            if on_progress is not None:
                bake.watchers.append(on_progress)
            waiting.append(bake.done)
        for done in waiting:
            await asyncio.shield(done)
        return self.status(spec)

    def status(self, spec: FunctionSpec) -> tuple[BakeStatus, ...]:
        """Return the state of each model's engine."""
        return tuple(self._status(spec, model) for model in spec.models)

    def drop(self, revision: str) -> None:
        """Forget the bakes of a revision that was replaced or deleted; one that runs is killed with its group."""
        self._queue.drop(revision)

    def forget(self, function: str) -> None:
        """Drop the counts of a function that was deleted."""
        for place in [place for place in self.retired if place[0] == function]:
            del self.retired[place]

    def used(self, spec: FunctionSpec) -> list[Path]:
        """Return the directories of the snapshots that serve ``spec``, or would if they were here."""
        assignments = (self._assignment(spec, model) for model in spec.models)
        return [self._store.root / one.key for one in assignments if one is not None and one.key]

    async def close(self) -> None:
        """Stop: the running bake is killed, queued ones are forgotten; the next start asks for them again."""
        await self._queue.close()

    # --- plans ------------------------------------------------------------------------------------------------------

    async def _plan(self, spec: FunctionSpec, model: ModelSpec) -> EnginePlan:
        assignment = self._assignment(spec, model)
        if model.engine == "eager" or assignment is None:
            return _eager(model, "" if model.engine == "eager" else self._status(spec, model).reason)
        if assignment.engine == "eager":
            return _eager(model, assignment.reason)
        try:
            snapshot = await asyncio.to_thread(self._store.open, assignment.key)
            unusable = unusable_here(snapshot, model)
        except (SnapshotCorrupt, SnapshotMissing) as error:
            unusable = str(error)
            with _logged(spec, "retiring a snapshot"):
                await asyncio.to_thread(self._store.retire, assignment.key, unusable)
        if unusable:
            _log.warning("%s: snapshot %s of model %r is not used: %s", spec.name, assignment.key, model.name, unusable)
            with _logged(spec, "forgetting a snapshot"):
                self._assignments.forget(spec.revision, model.name)
            self._queue.forget(spec.revision, model.name)
            self.request_bake(spec)
            return _eager(model, unusable)
        await self._keep_weights(spec, model, snapshot.directory)
        reason = assignment.reason if assignment.given_up else ""
        return EnginePlan(model.name, assignment.engine, str(snapshot.directory), snapshot.manifest, reason)

    def _assignment(self, spec: FunctionSpec, model: ModelSpec) -> Assignment | None:
        """Return the verdict that answers what this revision asks for; one about another engine answers nothing."""
        assignment = self._assignments.get(spec.revision, model.name)
        if assignment is None or assignment.requested != asked(spec, model):
            return None
        if assignment.engine == "eager" and assignment.fingerprint != self._fingerprint:
            return None  # eager was the best of another machine or another torch
        return assignment

    def _cannot(self, model: ModelSpec) -> bool:
        """Return whether no bake can help: nothing can be made here, and no snapshot has these weights."""
        return bool(self._baker.obstacle(model.engine)) and model.source_digest not in self._reusable

    def _is_settled(self, spec: FunctionSpec, model: ModelSpec) -> bool:
        return model.engine == "eager" or self._assignment(spec, model) is not None

    def _status(self, spec: FunctionSpec, model: ModelSpec) -> BakeStatus:
        bake = self._queue.find(spec.revision, model.name)
        if model.engine == "eager":
            return BakeStatus(model.name, "none", "eager")
        assignment = self._assignment(spec, model)
        serving = assignment.engine if assignment is not None else "eager"
        if bake is not None and self._queue.runs(bake):
            progress = bake.progress
            reason = f"being baked: {progress.phase} {progress.fraction:.0%}"
            return BakeStatus(model.name, "baking", serving, reason, progress.phase, progress.fraction)
        if bake is not None and not bake.done.done():
            return BakeStatus(model.name, "queued", serving, "waiting to be baked")
        if bake is not None and bake.error:
            return BakeStatus(model.name, "failed", serving, f"the bake failed: {bake.error}")
        if assignment is not None:
            reason, key, measured = assignment.reason, assignment.key, assignment.measured
            given_up = assignment.given_up
            return BakeStatus(model.name, "ready", serving, reason, key=key, measurements=measured, given_up=given_up)
        obstacle = self._baker.obstacle(model.engine)
        if obstacle:
            return BakeStatus(model.name, "unavailable", "eager", obstacle)
        return BakeStatus(model.name, "none", "eager", "not baked yet")

    # --- bakes ------------------------------------------------------------------------------------------------------

    def _enqueue(self, spec: FunctionSpec, model: ModelSpec, label: str = "") -> Bake:
        bake = self._queue.add(spec, model, label)
        bake.done.add_done_callback(lambda _: self._ended(bake))
        return bake

    def _ended(self, bake: Bake) -> None:
        """Say why the revision goes on with eager, where it does: starts must not repeat how far the bake was."""
        spec, verdict = bake.spec, self._assignment(bake.spec, bake.model)
        if self._queue.find(*bake.place) is not bake or not (bake.error or verdict):
            return  # dropped, or cut short by the node's end
        statuses = [self._status(spec, model) for model in spec.models]
        reasons = [status.reason for status in statuses if status.engine == "eager" and status.reason]
        if reasons:
            self._on_kept(spec, "; ".join(dict.fromkeys(reasons)))

    async def _perform(self, bake: Bake) -> None:
        """Bake, and say so where another engine came of it. Never raises: a failure is of that bake alone."""
        try:
            before = self._assignment(bake.spec, bake.model)
            await self._bake(bake, before)
            after = self._assignment(bake.spec, bake.model)
            changed = after is not None and after.engine != (before.engine if before is not None else "eager")
            if changed and self._queue.find(*bake.place) is bake:
                self._on_baked(bake.spec)
        except (BakeFailed, CacheError, SnapshotError, OSError) as error:
            bake.error = str(error)
            _log.warning("%s: no engine for model %r, eager goes on: %s", bake.spec.name, bake.model.name, error)
        except Exception as error:  # ours; the queue and the functions go on
            bake.error = f"{type(error).__name__}: {error}"
            _log.exception("%s: baking model %r", bake.spec.name, bake.model.name)

    async def _bake(self, bake: Bake, before: Assignment | None) -> None:
        spec, model = bake.spec, bake.model
        again, anew = "", before is not None and any(one.kind != "cold" for one in before.given_up)
        if before is not None and before.key and not anew:
            with contextlib.suppress(SnapshotError):  # one that cannot be trusted is not measured but made anew
                again = (await asyncio.to_thread(self._store.open, before.key)).key
        weights = await self._sources.files(spec)
        with contextlib.closing(weights):
            load, want = self._load_of(spec, weights.paths), wanted(spec, model, bake.label)
            job = BakeJob(load, model.name, want, self._user_of(spec.name), again, anew)
            async with self._baker.bake(job, bake.tell) as (verdict, staging):
                key = await self._accept(model, verdict, staging)
            if key:
                await self._keep_weights(spec, model, self._store.root / key)
        engine, reason = chosen(verdict, bake.label)
        decided = Assignment(
            *(engine, key, reason, asked(spec, model), self._fingerprint),
            measured=verdict.measured,
            ladder=ladder(engine, verdict.measured, want),
        )
        if not verdict.reused:
            self._suspect.pop(key, None)
        for one in self._given_up_since(bake, before, key) if verdict.reused else ():
            decided = decided.without(one)
        self._assignments.set(spec.revision, model.name, decided)
        _log.info("%s: model %r is served by %s (%s)", spec.name, model.name, decided.engine, decided.reason)

    def _given_up_since(self, bake: Bake, before: Assignment | None, key: str) -> list[GivenUp]:
        """Return what a bake that found its snapshot made already cannot know: what was given up while it ran, and, for
        a new revision, what others of the same snapshot have found faults in."""
        now = self._assignments.get(*bake.place)
        known = () if before is None else before.given_up
        found = [] if now is None else [one for one in now.given_up if one not in known]
        return found or list(self._suspect.get(key, ()) if before is None else ())

    async def _keep_weights(self, spec: FunctionSpec, model: ModelSpec, snapshot: Path) -> None:
        """Pin what the snapshot binds: without its weights an engine is nothing."""
        try:
            await asyncio.to_thread(self._sources.pins.keep, snapshot, [file.sha256 for file in model.files])
        except CacheError as error:  # they are evicted like any others then, and fetched again
            _log.warning("%s: the weights of snapshot %s are not pinned: %s", spec.name, snapshot.name, error)

    async def _accept(self, model: ModelSpec, verdict: BakeVerdict, staging: Path) -> str:
        """Publish what a bake staged, or check what it says is there; return the key, empty when there is neither.

        The child ran an author's code: what it made must be of the weights that this revision pins and for this
        machine, or it could hand an engine to functions that use other weights.
        """
        if not verdict.reused and verdict.engine == "eager" and not (staging / MANIFEST).exists():
            return ""
        key = verdict.key if verdict.reused else (await asyncio.to_thread(self._store.publish, staging)).key
        try:
            unusable = unusable_here(await asyncio.to_thread(self._store.open, key), model)
        except (SnapshotCorrupt, SnapshotMissing) as error:  # altered: the next bake must not find it again
            unusable = str(error)
        if unusable:
            await asyncio.to_thread(self._store.retire, key, unusable)
            raise SnapshotCorrupt(f"snapshot {key}: {unusable}")
        return key


def _eager(model: ModelSpec, reason: str) -> EnginePlan:
    return EnginePlan(model.name, "eager", "", b"", reason)


@contextlib.contextmanager
def _logged(spec: FunctionSpec, doing: str) -> Iterator[None]:
    """Keep a disk that cannot be written from failing a start: what could not be recorded is logged."""
    try:
        yield
    except SnapshotError as error:
        _log.warning("%s: %s: %s", spec.name, doing, error)
