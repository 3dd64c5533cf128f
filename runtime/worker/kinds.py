"""What differs between the two kinds of model, a torch module and an ONNX file, in a process that serves them.

Each kind is imported late, when a model of it is met: what a process has none of costs it nothing, and only one of
them may import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from glowplug.snapshot.definition import ModelDefinition, OnnxDefinition
from glowplug.snapshot.plan import Checked, Plan
from glowplug.snapshot.tolerance import Tolerance

if TYPE_CHECKING:
    from glowplug.snapshot.onnx.restore import Restored as OnnxRestored
    from glowplug.snapshot.recheck import Judge
    from glowplug.snapshot.restore import Restored as TorchRestored

    Restored = TorchRestored | OnnxRestored

Definition = ModelDefinition | OnnxDefinition
"""A model of either kind."""


def restore(definition: Definition, files: Mapping[str, Path], plan: Plan) -> Restored:
    """Restore a model with the plan's engine. Raises ``SnapshotError``, ``cache.errors.CacheError``."""
    if isinstance(definition, OnnxDefinition):
        from glowplug.snapshot.onnx import restore as onnx

        return onnx.restore(definition, files, plan)
    from glowplug.snapshot import restore as torch

    return torch.restore(definition, files, plan)


def check(restored: Restored) -> Checked:
    """Run the engine check. Raises ``CheckFailed`` and what ``snapshot.restore.check`` raises."""
    if isinstance(restored.definition, OnnxDefinition):
        from glowplug.snapshot.onnx import restore as onnx

        return onnx.check(restored)
    from glowplug.snapshot import restore as torch

    return torch.check(restored)


def judge(definition: Definition) -> Judge:
    """Return what compares the outputs of a model of this kind."""
    if isinstance(definition, OnnxDefinition):
        from glowplug.snapshot.onnx import outputs

        return outputs
    from glowplug.snapshot import verify

    return verify


def tolerance(restored: Restored) -> Tolerance:
    """Return how far the engine's outputs may be from the recorded ones. Only with a snapshot."""
    if isinstance(restored.definition, OnnxDefinition):
        from glowplug.snapshot.onnx import restore as onnx

        return onnx.tolerance(restored)
    from glowplug.snapshot import restore as torch

    return torch.tolerance(restored)


def set_threads(definition: Definition, threads: int) -> None:
    """Give the library of this kind ``threads`` threads; sessions of ONNX Runtime are told when they are opened."""
    if isinstance(definition, ModelDefinition):
        import torch

        torch.set_num_threads(threads)
