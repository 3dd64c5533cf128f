"""Who takes part in a bake-off: engines at precisions. Pure: which of them this machine can make is an argument.

A candidate's *label* names it everywhere a person meets it (plans, ``ls``, the ledger, metrics): the engine, then the
precision and the variant where they are not the plain ones: ``eager``, ``aot_inductor-bf16``, ``onnxruntime-unpacked``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AUTO = "auto"
EAGER = "eager"
CPU = "cpu"
"""The device of a function that runs on no GPU."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""What a model may be computed in, the most precise first. ``int8``: weights of linear layers as 8-bit integers,
activations quantised on the fly."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine at a precision. A ``variant`` is another way to restore what one export has made."""

    engine: str
    precision: str = "fp32"
    variant: str = ""

    @property
    def label(self) -> str:
        """The name by which it is shown and looked up in a manifest."""
        precision = "" if self.precision == "fp32" else self.precision
        return "-".join(part for part in (self.engine, precision, self.variant) if part)

    @classmethod
    def parse(cls, label: str) -> Candidate:
        """Return the candidate that a label names; whether there is such an engine is another question."""
        engine, *rest = label.split("-")
        precision = rest.pop(0) if rest and rest[0] in PRECISIONS else "fp32"
        return cls(engine, precision, "-".join(rest))


def needs_gpu(label: str) -> bool:
    """Return whether what a label names runs on a GPU and nowhere else."""
    candidate = Candidate.parse(label)
    return candidate.engine == "tensorrt" or "cuda" in candidate.variant.split("-")


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine that there is: the precisions it comes in, and why it cannot be made here (empty when it can)."""

    precisions: tuple[str, ...]
    obstacle: str = ""


def candidates(engine: str, precision: str, kinds: Mapping[str, Kind]) -> tuple[list[Candidate], dict[str, str]]:
    """Return who is made and measured, and label -> why not for those that would have been.

    ``eager`` in fp32 always takes part and comes first: every other candidate is compared with it, and it is what
    serves when no other may. ``engine`` and ``precision`` are what the template asks for, ``auto`` included.
    """
    engines = [name for name in kinds if engine in (AUTO, name)]
    precisions = [name for name in PRECISIONS if precision in (AUTO, name)]
    chosen, refused = [Candidate(EAGER)], {}
    for name in engines:
        for each in precisions:
            candidate = Candidate(name, each)
            if each not in kinds[name].precisions or candidate in chosen:
                continue
            if kinds[name].obstacle:
                refused[candidate.label] = kinds[name].obstacle
            else:
                chosen.append(candidate)
    return chosen, refused
