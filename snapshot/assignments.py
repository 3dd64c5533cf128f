"""Which engine serves whom: one small JSON file per owner, replaced by rename.

``assigned/<owner>.json`` below the snapshots' root: ``{"<model>": {"engine", "key", "reason", "requested",
"fingerprint", "measured": [{fields of Measured}, …], "ladder": ["<engine>", …], "given_up": [{"engine", "kind",
"reason"}, …]}, …}``. The owner is an opaque name (the runtime uses a function's revision).

Not signed: all that an assignment can do is to name a snapshot, and that is signed (``store.py``). One that cannot be
read counts as none; the model is then baked again, which ends at once where the snapshot is still there.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glowplug.cache.errors import StoreError
from glowplug.cache.files import make_directory, store_errors

from .errors import SnapshotStoreFailed
from .manifest import EngineRecord

_OWNER = re.compile(r"[0-9a-zA-Z_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one engine, by label; fields as in ``manifest.EngineRecord``. ``refused`` says why it must
    not serve."""

    engine: str
    restore_ms: float | None = None
    first_ms: float | None = None
    cold_ms: float | None = None
    parked_ms: float | None = None
    warm_ms: float | None = None
    private_bytes: int = 0
    shared_bytes: int = 0
    worst_error: float = 0.0
    refused: str = ""
    shapes: Mapping[str, float] = field(default_factory=dict)
    batches: Mapping[str, float] = field(default_factory=dict)


FIGURES = tuple(name for name in Measured.__dataclass_fields__ if name != "engine")
"""The fields of ``Measured`` that a bake reports for each engine."""


def figures(record: EngineRecord) -> dict[str, Any]:
    """Return those of an engine's record, by name."""
    return {name: getattr(record, name) for name in FIGURES}


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An engine that is not used any more, and why. ``kind`` is a word for counting, the caller's."""

    engine: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """The verdict of one bake. ``engine`` serves, with the snapshot ``key`` (empty where there is none); ``reason``
    says why it is not a better one. It answers the engine that was ``requested``, on machines with this ``fingerprint``
    digest.

    ``ladder`` are the engines that passed the bake, the best first, as far as they are better than eager; ``given_up``
    those that have failed since, in order.

    ``measured`` is what it was drawn from. The snapshot's manifest has the figures of its first bake and is immutable;
    a later measurement, which may have another verdict, is only here.
    """

    engine: str
    key: str
    reason: str
    requested: str
    fingerprint: str
    measured: tuple[Measured, ...] = ()
    ladder: tuple[str, ...] = ()
    given_up: tuple[GivenUp, ...] = ()

    @property
    def next_engine(self) -> str:
        """The engine that would serve if the one that does were given up."""
        out = {self.engine, *(one.engine for one in self.given_up)}
        return next((engine for engine in self.ladder if engine not in out), "eager")

    def without(self, given: GivenUp) -> Assignment:
        """Return the verdict after an engine was given up. The next one of the ladder serves where it was the one that
        did; the snapshot is kept as long as one of its engines serves."""
        known = tuple(one for one in self.given_up if one.engine != given.engine)
        left = replace(self, given_up=(*known, given))
        reason = "; ".join(f"{one.engine} was given up: {one.reason}" for one in left.given_up)
        if given.engine != self.engine:
            return replace(left, reason=reason)
        return replace(left, engine=self.next_engine, reason=reason)


class Assignments:
    """The assignments of one node, kept in memory once read."""

    def __init__(self, root: Path) -> None:
        self._root = root / "assigned"
        self._read: dict[str, dict[str, Assignment]] = {}

    def __repr__(self) -> str:
        return f"Assignments({str(self._root)!r}, owners={len(self._read)})"

    def get(self, owner: str, model: str) -> Assignment | None:
        """Return what serves ``model`` of ``owner``; None before the first bake."""
        return self._of(owner).get(model)

    def set(self, owner: str, model: str, assignment: Assignment) -> None:
        """Record a verdict. Raises ``SnapshotStoreFailed`` when it cannot be written; until the next start it holds."""
        models = self._of(owner)
        models[model] = assignment
        self._write(owner, models)

    def forget(self, owner: str, model: str) -> None:
        """Drop a verdict, so that the model may be baked again. Raises ``SnapshotStoreFailed``."""
        models = self._of(owner)
        if models.pop(model, None) is not None:
            self._write(owner, models)

    def _of(self, owner: str) -> dict[str, Assignment]:
        if owner not in self._read:
            self._read[owner] = _load(self._path(owner))
        return self._read[owner]

    def _path(self, owner: str) -> Path:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"{owner!r} cannot name a file")
        return self._root / f"{owner}.json"

    def _write(self, owner: str, models: dict[str, Assignment]) -> None:
        path = self._path(owner)
        fresh = path.with_suffix(f".{secrets.token_hex(6)}")
        text = json.dumps({name: asdict(models[name]) for name in sorted(models)}, indent=1)
        try:
            with store_errors(path):
                make_directory(path.parent)
                try:
                    fresh.write_text(text)
                    fresh.rename(path)
                finally:
                    fresh.unlink(missing_ok=True)
        except StoreError as error:
            raise SnapshotStoreFailed(str(error)) from error


def _load(path: Path) -> dict[str, Assignment]:
    try:
        value = json.loads(path.read_bytes())
        return {
            str(name): Assignment(
                **fields
                | {
                    "measured": tuple(Measured(**row) for row in fields.get("measured", ())),
                    "ladder": tuple(str(engine) for engine in fields.get("ladder", ())),
                    "given_up": tuple(GivenUp(**row) for row in fields.get("given_up", ())),
                }
            )
            for name, fields in value.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
