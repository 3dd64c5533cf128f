"""The verdicts of bakes: which engine serves each model of a revision, and which were given up.

``snapshot.assignments`` keeps them across restarts; here is what they mean on this node. When an engine is given up,
and which comes next, is said in ``routing.distrust``. A revision that comes to share a snapshot is told of the faults
that others have found in it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from glowplug.snapshot.assignments import Assignment, Assignments, GivenUp
from glowplug.snapshot.errors import SnapshotError
from glowplug.snapshot.store import SnapshotStore

from .routing.distrust import Expected, Kind
from .snapshotfit import machine_digest
from .spec import FunctionSpec, ModelSpec
from .verdicts import asked

_log = logging.getLogger(__name__)


class VerdictBook:
    """Verdicts by (revision, model name). ``given_up`` counts the engines that were given up since the node started, by
    function, model, engine and kind of reason; ``fingerprint`` is this machine's. ``device_of`` says where a function's
    models run here."""

    def __init__(self, store: SnapshotStore, device_of: Callable[[FunctionSpec], str]) -> None:
        self.given_up: Counter[tuple[str, str, str, Kind]] = Counter()
        self.fingerprint = machine_digest()
        self._store = store
        self._device_of = device_of
        self._assignments = Assignments(store.root)
        self._suspect: dict[str, tuple[GivenUp, ...]] = {}  # by snapshot: for revisions that come to share it

    def __repr__(self) -> str:
        return f"VerdictBook({self._store!r}, given_up={self.given_up.total()})"

    def asked(self, spec: FunctionSpec, model: ModelSpec) -> str:
        """Return what a verdict has to answer: what the template wants, on the device where it runs here."""
        return asked(spec, model, self._device_of(spec))

    def find(self, spec: FunctionSpec, model: ModelSpec) -> Assignment | None:
        """Return the verdict that answers what this revision asks for; one about another engine or
        device answers nothing."""
        assignment = self._assignments.get(spec.revision, model.name)
        if assignment is None or assignment.requested != self.asked(spec, model):
            return None
        if assignment.engine == "eager" and assignment.fingerprint != self.fingerprint:
            return None  # eager was the best of another machine or another torch
        return assignment

    def latest(self, revision: str, model_name: str) -> Assignment | None:
        """Return the last verdict about a model, whatever it was asked for."""
        return self._assignments.get(revision, model_name)

    def enter(self, spec: FunctionSpec, model: ModelSpec, assignment: Assignment) -> None:
        """Note a verdict in place of the last. Raises ``SnapshotError`` when it cannot be written."""
        self._assignments.set(spec.revision, model.name, assignment)

    def strike(self, spec: FunctionSpec, model: ModelSpec) -> None:
        """Forget a verdict; what cannot be written is logged."""
        with _logged(spec, "forgetting a snapshot"):
            self._assignments.forget(spec.revision, model.name)

    def suspects(self, key: str) -> tuple[GivenUp, ...]:
        """Return the faults that have been found in engines of a snapshot."""
        return self._suspect.get(key, ())

    def clear(self, key: str) -> None:
        """Forget the faults of a snapshot that was made anew."""
        self._suspect.pop(key, None)

    def retire(self, spec: FunctionSpec, key: str, reason: str) -> None:
        """Take a snapshot out of use for all; what cannot be written is logged."""
        with _logged(spec, "retiring a snapshot"):
            self._store.retire(key, reason)

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind) -> bool:
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
        self.given_up[spec.name, model_name, engine, kind] += 1
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

    def forget(self, function: str) -> None:
        """Drop the counts of a function that was deleted."""
        for place in [place for place in self.given_up if place[0] == function]:
            del self.given_up[place]

    def used(self, spec: FunctionSpec) -> list[Path]:
        """Return the directories of the snapshots that serve ``spec``, or would if they were here."""
        assignments = (self.find(spec, model) for model in spec.models)
        return [self._store.root / one.key for one in assignments if one is not None and one.key]


@contextlib.contextmanager
def _logged(spec: FunctionSpec, doing: str) -> Iterator[None]:
    """Keep a disk that cannot be written from failing a start: what could not be recorded is logged."""
    try:
        yield
    except SnapshotError as error:
        _log.warning("%s: %s: %s", spec.name, doing, error)
