"""How each model is to be run now, and the queue of bakes that find better ways. Node side.

``verdictbook`` has what bakes found, ``judging`` carries one out, ``baker`` runs its process.

A model asks for an engine by name, or for ``auto``. Until a bake has found the best one for a revision,
and whenever anything about a snapshot is not as it must be, the plan is ``eager`` with the reason: no start ever waits
for a bake or fails for want of one. Cases of ``Snapshots.plan``, in order:

1. eager was asked for: eager, no reason.
2. no verdict yet: eager, and the reason says how far the bake is, or why there is none.
3. the verdict is eager (it was faster, or nothing better is left): eager, with the verdict's reason.
4. the snapshot is gone or altered: it is retired, eager, bake again.
5. it was made for another machine or other software: eager, bake again.
6. it is of other weights than this revision pins: eager, bake again.
7. else the engine, with the verified manifest; the reason says which better ones were given up.

A bake that failed is not repeated by itself, and a verdict not drawn again; ``bake_again`` does both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from glowplug.cache.errors import CacheError
from glowplug.snapshot import reuse
from glowplug.snapshot.assignments import GivenUp, Measured
from glowplug.snapshot.errors import SnapshotCorrupt, SnapshotError, SnapshotMissing
from glowplug.snapshot.store import SnapshotStore

from .bakequeue import Bake, BakeQueue, Watcher
from .baker import Baker
from .bakereport import BakeFailed
from .devices import CPU
from .judging import Judge, LoadOf
from .routing.distrust import Kind
from .routing.ports import EnginePlan
from .snapshotfit import unusable_here
from .sources import Sources
from .spec import FunctionSpec, ModelSpec
from .verdictbook import VerdictBook

State = Literal["none", "queued", "baking", "ready", "failed", "unavailable"]

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
    """Plans engines and queues bakes. ``book`` has the verdicts. ``on_baked`` is called when a revision has a better
    engine than the one it runs with, ``on_kept`` with the reason when a bake ended and it goes on with eager;
    ``load_of`` and ``user_of`` as in ``Judge``, ``device_of`` as in ``VerdictBook``."""

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
        device_of: Callable[[FunctionSpec], str] = lambda spec: CPU,
    ) -> None:
        self._store = store
        self._reusable = reuse.sources(store.root)
        self._baker = baker
        self._on_baked = on_baked
        self._on_kept = on_kept
        self.book = VerdictBook(store, device_of)
        self._judge = Judge(store, sources, baker, self.book, load_of=load_of, user_of=user_of)
        self._queue = BakeQueue(self._perform)

    def __repr__(self) -> str:
        return f"Snapshots({self._store!r}, {self._queue!r}, {self.book!r})"

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return one plan per model. Never waits for a bake; never raises for a snapshot that cannot be used."""
        return [await self._plan(spec, model) for model in spec.models]

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind) -> bool:
        """Give an engine up, as ``VerdictBook.give_up`` does: what a start needs that has found it faulty."""
        return self.book.give_up(spec, model_name, engine, reason, kind)

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
            elif label:
                bake.label = label  # it waits or runs, and ends with what was asked for last

    def adopt(self, spec: FunctionSpec, model: ModelSpec, key: str) -> asyncio.Future[None] | None:
        """See whether a snapshot that was published by other means than a bake is the one that ``model`` needs.

        That is for a bake to say: only the graph, which only the author's code has, tells whether it is the snapshot
        of this model or of another with the same weights. It compiles nothing when it is, so no compiler is needed.
        Returns what resolves when it is over; None where nothing is to be seen: the verdict is of this very snapshot,
        or eager was asked for. A bake that runs meanwhile makes the same thing the long way and is ended for this one,
        unless somebody waits for it.
        """
        assignment = self.book.find(spec, model)
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

    async def close(self) -> None:
        """Stop: the running bake is killed, queued ones are forgotten; the next start asks for them again."""
        await self._queue.close()

    # --- plans ------------------------------------------------------------------------------------------------------

    async def _plan(self, spec: FunctionSpec, model: ModelSpec) -> EnginePlan:
        assignment = self.book.find(spec, model)
        if model.engine == "eager" or assignment is None:
            return EnginePlan.eager(model.name, "" if model.engine == "eager" else self._status(spec, model).reason)
        if assignment.engine == "eager":
            return EnginePlan.eager(model.name, assignment.reason)
        try:
            snapshot = await asyncio.to_thread(self._store.open, assignment.key)
            unusable = unusable_here(snapshot, model, assignment.engine)
        except (SnapshotCorrupt, SnapshotMissing) as error:
            unusable = str(error)
            await asyncio.to_thread(self.book.retire, spec, assignment.key, unusable)
        if unusable:
            _log.warning("%s: snapshot %s of model %r is not used: %s", spec.name, assignment.key, model.name, unusable)
            self.book.strike(spec, model)
            self._queue.forget(spec.revision, model.name)
            self.request_bake(spec)
            return EnginePlan.eager(model.name, unusable)
        await self._judge.keep_weights(spec, model, snapshot.directory)
        reason = assignment.reason if assignment.given_up else ""
        return EnginePlan(model.name, assignment.engine, str(snapshot.directory), snapshot.manifest, reason)

    def _cannot(self, model: ModelSpec) -> bool:
        """Return whether no bake can help: nothing can be made here, and no snapshot has these weights."""
        return bool(self._baker.obstacle(model.engine)) and model.source_digest not in self._reusable

    def _is_settled(self, spec: FunctionSpec, model: ModelSpec) -> bool:
        return model.engine == "eager" or self.book.find(spec, model) is not None

    def _status(self, spec: FunctionSpec, model: ModelSpec) -> BakeStatus:
        """Return the state of a model's engine. What the last bake found goes on to count while another is under way,
        and when that one has failed."""
        if model.engine == "eager":
            return BakeStatus(model.name, "none", "eager")
        settled, bake = self._settled(spec, model), self._queue.find(spec.revision, model.name)
        if bake is not None and self._queue.runs(bake):
            phase, fraction = bake.progress.phase, bake.progress.fraction
            reason = f"being baked: {phase} {fraction:.0%}"
            return replace(settled, state="baking", reason=reason, phase=phase, fraction=fraction)
        if bake is not None and not bake.done.done():
            return replace(settled, state="queued", reason="waiting to be baked")
        if bake is not None and bake.error:
            return replace(settled, state="failed", reason=f"the bake failed: {bake.error}")
        return settled

    def _settled(self, spec: FunctionSpec, model: ModelSpec) -> BakeStatus:
        """Return the state as it is without a bake."""
        found = self.book.find(spec, model)
        if found is None:
            obstacle = self._baker.obstacle(model.engine)
            return BakeStatus(model.name, "unavailable" if obstacle else "none", "eager", obstacle or "not baked yet")
        return BakeStatus(
            model.name,
            "ready",
            found.engine,
            found.reason,
            key=found.key,
            measurements=found.measured,
            given_up=found.given_up,
        )

    # --- bakes ------------------------------------------------------------------------------------------------------

    def _enqueue(self, spec: FunctionSpec, model: ModelSpec, label: str = "") -> Bake:
        bake = self._queue.add(spec, model, label)
        bake.done.add_done_callback(lambda _: self._ended(bake))
        return bake

    def _ended(self, bake: Bake) -> None:
        """Say why the revision goes on with eager, where it does: starts must not repeat how far the bake was."""
        spec, verdict = bake.spec, self.book.find(bake.spec, bake.model)
        if self._queue.find(*bake.place) is not bake or not (bake.error or verdict):
            return  # dropped, or cut short by the node's end
        statuses = [self._status(spec, model) for model in spec.models]
        reasons = [status.reason for status in statuses if status.engine == "eager" and status.reason]
        if reasons:
            self._on_kept(spec, "; ".join(dict.fromkeys(reasons)))

    async def _perform(self, bake: Bake) -> None:
        """Bake, and say so where another engine came of it. Never raises: a failure is of that bake alone."""
        try:
            before = self.book.find(bake.spec, bake.model)
            await self._judge.judge(bake, before)
            after = self.book.find(bake.spec, bake.model)
            changed = after is not None and after.engine != (before.engine if before is not None else "eager")
            if changed and self._queue.find(*bake.place) is bake:
                self._on_baked(bake.spec)
        except (BakeFailed, CacheError, SnapshotError, OSError) as error:
            bake.error = str(error)
            _log.warning(
                "%s: the bake failed, no better engine: %s",
                "/".join(filter(None, (bake.spec.name, bake.model.name))),
                error,
            )
        except Exception as error:  # ours; the queue and the functions go on
            bake.error = f"{type(error).__name__}: {error}"
            _log.exception("%s: baking model %r", bake.spec.name, bake.model.name)
