"""One module per engine; each is a way to run a model.

An engine goes through four steps, in processes that may be days apart:

    export   in a baker: from a traced program to artefacts in a directory, and their part of the manifest
    load     in a function's zygote: make the artefacts, or the module, ready; touch no weights
    bind     give it the mapped tensors; starts no thread, so that the process can still be forked
    run      in a worker: one call of the model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..checkpoint import TensorFiles
    from ..definition import ModelDefinition
    from ..manifest import EngineRecord, Manifest
    from ..program import Program


class Engine(Protocol):
    """A way to run a model, as the rest of glowplug sees it. One object serves one model in one process."""

    name: str

    def export(self, program: Program, staging: Path) -> EngineRecord:
        """Write the engine's artefacts into ``staging``. Raises ``BakeError`` or ``EngineUnavailable``."""

    def load(
        self, definition: ModelDefinition, files: Mapping[str, Path], snapshot: Path | None, manifest: Manifest | None
    ) -> None:
        """Get ready for ``bind``. Raises ``EngineError`` or ``ModelError``."""

    def bind(self, tensors: TensorFiles) -> int:
        """Attach the weights; returns how many bytes of them are shared mappings. Raises ``ModelError``,
        ``SnapshotCorrupt``, ``cache.errors.WeightsError``."""

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the model. Raises ``InputUnsupported`` for inputs that only another engine takes."""
