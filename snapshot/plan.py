"""What a model is to be served with, and what its check found: said by the node, for models of either kind.

Torch-free: a model that is an ONNX file is restored by a process that has no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .candidates import EAGER


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve a model with. ``engine`` is a label (``candidates``), ``snapshot`` the published directory and
    ``manifest`` its verified text; those are empty (None, ``b""``) before the first bake. ``device`` is what it runs
    on."""

    engine: str = EAGER
    snapshot: Path | None = None
    manifest: bytes = b""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Checked:
    """The engine check passed. ``worst_error`` is the largest absolute difference from the recorded outputs;
    ``recorded`` is false where there were none, and outputs were only looked at."""

    worst_error: float
    recorded: bool
