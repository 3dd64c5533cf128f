"""One bake, from the order to the verdict: it is run, what it staged is published, the engine that serves is entered.

The child ran an author's code, so what it made is believed only after a look: ``_accept``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from glowplug.cache.errors import CacheError
from glowplug.snapshot.assignments import Assignment, GivenUp
from glowplug.snapshot.errors import SnapshotCorrupt, SnapshotError, SnapshotMissing
from glowplug.snapshot.store import MANIFEST, SnapshotStore

from .bakequeue import Bake
from .baker import BakeJob, Baker
from .bakereport import BakeVerdict
from .process import wire
from .snapshotfit import unusable_here
from .sources import Sources
from .spec import FunctionSpec, ModelSpec
from .verdictbook import VerdictBook
from .verdicts import chosen, ladder, wanted

LoadOf = Callable[[FunctionSpec, Mapping[str, Mapping[str, str]]], wire.Load]

_log = logging.getLogger(__name__)


class Judge:
    """Runs bakes and enters their verdicts into ``book``. ``load_of`` builds what a process needs to import a
    revision's handler; ``user_of`` gives the uid a function's code runs under (-1: the node's)."""

    def __init__(
        self,
        store: SnapshotStore,
        sources: Sources,
        baker: Baker,
        book: VerdictBook,
        *,
        load_of: LoadOf,
        user_of: Callable[[str], int],
    ) -> None:
        self._store = store
        self._sources = sources
        self._baker = baker
        self._book = book
        self._load_of = load_of
        self._user_of = user_of

    def __repr__(self) -> str:
        return f"Judge({self._baker!r}, {self._book!r})"

    async def judge(self, bake: Bake, before: Assignment | None) -> None:
        """Carry ``bake`` out; ``before`` is the verdict that it replaces.

        Raises ``BakeFailed``, ``CacheError``, ``SnapshotError`` or ``OSError``; the verdict before stays then.
        """
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
                await self.keep_weights(spec, model, self._store.root / key)
        engine, reason = chosen(verdict, bake.label)
        decided = Assignment(
            *(engine, key, reason, self._book.asked(spec, model), self._book.fingerprint),
            measured=verdict.measured,
            ladder=ladder(engine, verdict.measured, want),
        )
        if not verdict.reused:
            self._book.clear(key)
        for one in self._given_up_since(bake, before, key) if verdict.reused else ():
            decided = decided.without(one)
        self._book.enter(spec, model, decided)
        _log.info("%s: model %r is served by %s (%s)", spec.name, model.name, decided.engine, decided.reason)

    async def keep_weights(self, spec: FunctionSpec, model: ModelSpec, snapshot: Path) -> None:
        """Pin what the snapshot binds: without its weights an engine is nothing."""
        try:
            await asyncio.to_thread(self._sources.pins.keep, snapshot, [file.sha256 for file in model.files])
        except CacheError as error:  # they are evicted like any others then, and fetched again
            _log.warning("%s: the weights of snapshot %s are not pinned: %s", spec.name, snapshot.name, error)

    def _given_up_since(self, bake: Bake, before: Assignment | None, key: str) -> list[GivenUp]:
        """Return what a bake that found its snapshot made already cannot know: what was given up while it ran, and, for
        a new revision, what others of the same snapshot have found faults in."""
        now = self._book.latest(*bake.place)
        known = () if before is None else before.given_up
        found = [] if now is None else [one for one in now.given_up if one not in known]
        return found or list(self._book.suspects(key) if before is None else ())

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
