"""The engine that is always there: the author's module, run as PyTorch runs it, on mapped weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..architecture import Assembled, assemble
from ..checkpoint import TensorFiles
from ..manifest import EngineRecord
from . import Given, torch_private

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it


class Eager:
    """Builds on the meta device and assigns the checkpoint's tensors. Needs no snapshot; with one, tensors that the
    bake has computed are read from it instead of being computed again."""

    name: ClassVar[str] = "eager"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def __init__(self) -> None:
        self._given: Given | None = None
        self._assembled: Assembled | None = None
        self._tensors: TensorFiles | None = None
        self._device = "cpu"  # where the weights are by now

    @property
    def fork_safe(self) -> bool:
        """Whether it runs on the CPU."""
        return self._given is None or self._given.device == "cpu"

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
        self._tensors, self._device = tensors, "cpu"
        return self._assembled.mapped_bytes

    def open(self, threads: int) -> None:
        """Copy the weights to a device that is not the CPU. There do nothing: torch's threads are its caller's.

        Raises ``cache.errors.DeviceRefused``, or what ``cache.pinned`` raises for the files.
        """
        if self._given is None or self._assembled is None or self._tensors is None:
            raise RuntimeError("open before bind")
        if self._given.device != self._device:
            from ..cuda import module  # late: nothing of a GPU is imported where there is none

            module.move(self._assembled, self._tensors, self._given.device)
            self._device = self._given.device

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the module in inference mode. On a device inputs are copied there, and outputs back."""
        if self._assembled is None:
            raise RuntimeError("run before bind")
        with torch.inference_mode():
            if self._device == "cpu":
                return self._assembled.module(*args, **kwargs)
            there_args, there_kwargs = _on(self._device, (tuple(args), dict(kwargs)))
            return _on("cpu", self._assembled.module(*there_args, **there_kwargs))


def _on(device: str, value: Any) -> Any:
    """Return nested values with their tensors on ``device``."""
    leaves, structure = torch_private.flatten(value)
    moved = [leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return torch_private.unflatten(moved, structure)
