"""What a bake is asked for and what it answers, for models of either kind. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from .choice import Wanted
from .definition import ModelDefinition, OnnxDefinition
from .manifest import Manifest

Defined = TypeVar("Defined", ModelDefinition, OnnxDefinition)

MAKING_S = 900.0
"""Most seconds to make one candidate. A large model compiles for minutes; one that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Defined]):
    """What to bake. ``published`` is the directory of finished snapshots, ``making_s`` bounds one candidate.

    ``again`` is the key of a finished snapshot whose engines are to be measured again. Whoever gives it has verified
    that snapshot: its engines are loaded. ``device`` is what the function runs on; figures of another say nothing here.
    """

    definition: Defined
    files: Mapping[str, Path]
    staging: Path
    published: Path
    wanted: Wanted = field(default_factory=Wanted)
    again: str = ""
    device: str = "cpu"
    making_s: float = MAKING_S


@dataclass(frozen=True, slots=True)
class Baked:
    """The result. ``reused``: a snapshot that will do was there already (``reuse``) and nothing was compiled;
    ``manifest`` is its own then, but for figures that were measured again and engines that cannot run here."""

    manifest: Manifest
    reused: bool
    verdict: str
    reason: str
