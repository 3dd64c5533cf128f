"""Optimisation profiles: for which sizes a plan is built, and which of them serves a call. Pure.

A profile has the least, the usual and the largest size of each dimension; TensorRT tunes for the usual one and takes
nothing outside. One profile over all sizes is slow at both ends, so the batch dimension is divided at the batch sizes
that the template counts: for 1 and 8 there is a profile of exactly 1, one of 2 to 8, tuned for 8, and one up to the
largest batch that the bake tries. Other dimensions span the author's range and are tuned for the example.

Device memory for inputs and outputs is taken for the largest sizes of all profiles, once. A dimension without an upper
bound therefore gets one here; a call beyond it runs eagerly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SnapshotCorrupt
from ..signature import Signature

BATCH_SIZES = (1, 8)
"""Where the template names none."""

UNBOUNDED = 512
"""Largest size of a dimension that the author did not bound, unless the example's is larger: a longer text than most
encoders were trained for."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The shapes that one input may have in a profile."""

    least: Shape
    usual: Shape
    most: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether a tensor of this shape is within the span."""
        return len(shape) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True)
        )


Profile = tuple[Span, ...]
"""A span for each input, in the signature's order."""


def profiles(
    signature: Signature, calls: Sequence[Sequence[Shape]], batch: str = "", batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[Profile]:
    """Return the profiles to build, those of small batches first.

    ``calls`` has the shapes of the input tensors of every call that must be taken, the example first; ``batch`` is the
    signature's name of the batch dimension (``d0``), empty when it does not vary. Batch sizes outside the author's
    range count as its nearest end.
    """
    inputs = [item.shape for item in signature.inputs if item.dtype is not None]
    sizes = [_sizes(inputs, shapes) for shapes in calls]
    usual = sizes[0]
    tried = {name: max(call[name] for call in sizes) for name in usual}
    bounds = {name: _bounds(signature.ranges[name], tried[name]) for name in usual}
    if batch not in bounds:
        return [_profile(inputs, bounds, usual)]
    low, high = signature.ranges[batch]
    ends = sorted({_within(size, low, high) for size in (*batch_sizes, tried[batch])})
    begins = [low, *(end + 1 for end in ends[:-1])]
    return [
        _profile(inputs, {**bounds, batch: (begin, end)}, {**usual, batch: end})
        for begin, end in zip(begins, ends, strict=True)
    ]


def batch_dimension(signature: Signature, dynamic: Mapping[str, Sequence[str | int | None]]) -> str:
    """Return the signature's name of the batch dimension: the one the author calls ``batch``, else the first of the
    first input that varies in it; empty when there is none."""
    tensors = [item for item in signature.inputs if item.dtype is not None]
    for item in tensors:
        for name, size in zip(dynamic.get(item.name, ()), item.shape, strict=False):
            if name == "batch" and isinstance(size, str):
                return size
    first = next((item.shape[0] for item in tensors if item.shape and isinstance(item.shape[0], str)), "")
    return first if isinstance(first, str) else ""


def choose(made: Sequence[Profile], shapes: Sequence[Shape]) -> int | None:
    """Return the number of the first profile that takes ``shapes``, None when none does."""
    for number, profile in enumerate(made):
        if len(profile) == len(shapes) and all(span.takes(shape) for span, shape in zip(profile, shapes, strict=True)):
            return number
    return None


def elements(shape: Sequence[int]) -> int:
    """Return how many elements a tensor of this shape has."""
    return math.prod(shape)


def to_json(made: Sequence[Profile]) -> list[Any]:
    """Return profiles as JSON-able lists: profile -> input -> [least, usual, most]."""
    return [[[list(span.least), list(span.usual), list(span.most)] for span in profile] for profile in made]


def from_json(value: Any) -> list[Profile]:
    """Read what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
    try:
        made = [
            tuple(Span(*(tuple(int(size) for size in shape) for shape in span)) for span in profile)
            for profile in value
        ]
    except (TypeError, ValueError) as error:
        raise SnapshotCorrupt(f"plan: its profiles are not lists of shapes: {error}") from error
    if not made:
        raise SnapshotCorrupt("plan: it has no profile")
    return made


def _sizes(inputs: Sequence[tuple[int | str, ...]], shapes: Sequence[Shape]) -> dict[str, int]:
    """Return what the named dimensions are in a call."""
    return {
        name: size
        for wanted, shape in zip(inputs, shapes, strict=True)
        for name, size in zip(wanted, shape, strict=True)
        if isinstance(name, str)
    }


def _profile(
    inputs: Sequence[tuple[int | str, ...]], bounds: Mapping[str, tuple[int, int]], usual: Mapping[str, int]
) -> Profile:
    least = {name: low for name, (low, _) in bounds.items()}
    most = {name: high for name, (_, high) in bounds.items()}
    return tuple(
        Span(
            *(tuple(size if isinstance(size, int) else sizes[size] for size in shape) for sizes in (least, usual, most))
        )
        for shape in inputs
    )


def _bounds(span: tuple[int, int | None], usual: int) -> tuple[int, int]:
    low, high = span
    return low, high if high is not None else max(UNBOUNDED, usual)


def _within(size: int, low: int, high: int | None) -> int:
    return max(low, min(size, high)) if high is not None else max(low, size)
