"""One module per engine; each is a way to run a model.

An engine goes through five steps, in processes that may be days apart:

    export   in a baker: from a traced program to artefacts in a directory, and their part of the manifest
    load     in a function's zygote: make the artefacts, or the module, ready; touch no weights
    bind     there as well: give it the mapped tensors; starts no thread, so that the process can still be forked
    open     in the worker, after the last fork: sessions, thread pools, device contexts
    run      one call of the model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..checkpoint import TensorFiles
    from ..definition import ModelDefinition
    from ..manifest import EngineRecord, Manifest
    from ..program import Program


@dataclass(frozen=True, slots=True)
class Given:
    """What an engine is restored from: the author's definition, the source's files, and of the snapshot its directory,
    manifest and this engine's own record (None before the first bake). ``device`` is what the node has the function's
    models run on: ``cpu`` or ``cuda:0``, which must not be touched before ``open``."""

    definition: ModelDefinition
    files: Mapping[str, Path]
    snapshot: Path | None = None
    manifest: Manifest | None = None
    record: EngineRecord | None = None
    device: str = "cpu"


class Engine(Protocol):
    """A way to run a model, as the rest of glowplug sees it. One object serves one model in one process."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    @property
    def fork_safe(self) -> bool:
        """Whether a process may be forked after ``open`` as well, so that a parked function holds it ready."""

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return why it cannot serve here (``making``: be made here), in words; empty when it can."""

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Write artefacts into ``staging``; return a record per variant. Raises ``BakeError`` or ``EngineError``."""

    def load(self, given: Given) -> None:
        """Get ready for ``bind``. Raises ``EngineError`` or ``ModelError``."""

    def bind(self, tensors: TensorFiles) -> int:
        """Attach the weights; returns how many bytes of them are shared mappings. Raises ``ModelError``,
        ``SnapshotCorrupt``, ``cache.errors.WeightsError``."""

    def open(self, threads: int) -> None:
        """Make what must not be forked, for ``threads`` threads. Raises ``EngineError``."""

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the model. Raises ``InputUnsupported`` for inputs that only another engine takes, ``EngineFailed`` for a
        call that another may answer."""


@runtime_checkable
class Resumes(Protocol):
    """An engine that is made sooner with what earlier bakes have left in published snapshots."""

    def resume(self, published: Path) -> None:
        """Look there in the next ``export``."""


@runtime_checkable
class Aims(Protocol):
    """An engine that makes variants for several devices."""

    def aim(self, device: str) -> None:
        """Make in the next ``export`` only what a function on ``device`` may be served with."""
