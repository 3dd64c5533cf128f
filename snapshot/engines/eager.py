"""The engine that is always there: the author's module, run as PyTorch runs it, on mapped weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..architecture import Assembled, assemble
from ..checkpoint import TensorFiles
from ..manifest import EngineRecord
from . import Given

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it


class Eager:
    """Builds on the meta device and assigns the checkpoint's tensors. Needs no snapshot; with one, tensors that the
    bake has computed are read from it instead of being computed again."""

    name: ClassVar[str] = "eager"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    fork_safe = True

    def __init__(self) -> None:
        self._given: Given | None = None
        self._assembled: Assembled | None = None

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return nothing: where there is torch, there is this."""
        return ""

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Write nothing: the module is its own artefact, and computed tensors are stored for all engines."""
        return {"": EngineRecord()}

    def load(self, given: Given) -> None:
        """Remember what to build; building needs the checkpoint's names, so it happens in ``bind``."""
        self._given = given

    def bind(self, tensors: TensorFiles) -> int:
        """Build the module and fill it. Raises as ``architecture.assemble``."""
        given = self._given
        if given is None:
            raise RuntimeError("bind before load")
        recorded = given.manifest.computed if given.manifest is not None else None
        self._assembled = assemble(given.definition, given.files, tensors, recorded=recorded)
        return self._assembled.mapped_bytes

    def open(self, threads: int) -> None:
        """Do nothing: torch takes its threads from whoever calls."""

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the module in inference mode."""
        if self._assembled is None:
            raise RuntimeError("run before bind")
        with torch.inference_mode():
            return self._assembled.module(*args, **kwargs)
