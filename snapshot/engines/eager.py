"""The engine that is always there: the author's module, run as PyTorch runs it, on mapped weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..architecture import Assembled, assemble
from ..checkpoint import TensorFiles
from ..definition import ModelDefinition
from ..manifest import EngineRecord, Manifest

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it


class Eager:
    """Builds on the meta device and assigns the checkpoint's tensors. Needs no snapshot; with one, tensors that the
    bake has computed are read from it instead of being computed again."""

    name = "eager"

    def __init__(self) -> None:
        self._definition: ModelDefinition | None = None
        self._files: Mapping[str, Path] = {}
        self._manifest: Manifest | None = None
        self._assembled: Assembled | None = None

    def export(self, program: Program, staging: Path) -> EngineRecord:
        """Write nothing: the module is its own artefact, and computed tensors are stored for all engines."""
        return EngineRecord()

    def load(
        self, definition: ModelDefinition, files: Mapping[str, Path], snapshot: Path | None, manifest: Manifest | None
    ) -> None:
        """Remember what to build; building needs the checkpoint's names, so it happens in ``bind``."""
        self._definition, self._files, self._manifest = definition, files, manifest

    def bind(self, tensors: TensorFiles) -> int:
        """Build the module and fill it. Raises as ``architecture.assemble``."""
        if self._definition is None:
            raise RuntimeError("bind before load")
        recorded = self._manifest.computed if self._manifest is not None else None
        self._assembled = assemble(self._definition, self._files, tensors, recorded=recorded)
        return self._assembled.mapped_bytes

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the module in inference mode."""
        if self._assembled is None:
            raise RuntimeError("run before bind")
        with torch.inference_mode():
            return self._assembled.module(*args, **kwargs)
