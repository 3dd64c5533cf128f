"""How far a candidate's outputs may be from those of the model as it is: numbers alone. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an output may be from the recorded one: ``absolute + relative * abs(recorded)``."""

    absolute: float
    relative: float


BY_PRECISION = {"bf16": 4e-2, "fp16": 1e-2, "int8": 1e-1}
"""For a model in another precision than its own: the part of the largest value of an output by which any value of it
may be off, and the part of itself. bf16 has 8 bits of mantissa and fp16 11, of which a few get lost on the way through
the layers; 8-bit weights have 256 levels per row."""


def scaled(precision: str, plain: Tolerance, largest: float) -> Tolerance:
    """Return the tolerance of a candidate in ``precision``: ``plain`` in fp32, else by the ``largest`` value of the
    outputs of the model as it is."""
    part = BY_PRECISION.get(precision)
    if part is None:
        return plain
    return Tolerance(max(plain.absolute, part * largest), max(plain.relative, part))
