"""What a bake records of a model's calls, by name: the example, and the cases that candidates are compared on.

A case holds ``input.0``, ``input.1`` …, ``output.0`` …: tensors or arrays, one safetensors file for all. What the
cases are is ``cases``'s. The same for models of either kind, and free of the libraries that either needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")

CASES_FILE = "cases.safetensors"
"""Removed before the snapshot is finished."""

BATCH = "batch"
"""The name of the dimension that a batch size is about; where no dimension has it, the first that varies."""

SIZES = 3
"""Cases of other sizes; the first has sizes of 1."""

RANDOM = 2
"""Cases of random values."""

LARGEST = 48
"""Largest random size of a dimension without an upper bound."""


def named(prefix: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[str, Value]:
    """Return the values of one case by name; ``prefix`` is the case's, with its dot."""
    found = {f"{prefix}input.{number}": value for number, value in enumerate(inputs)}
    return found | {f"{prefix}output.{number}": value for number, value in enumerate(outputs)}


def numbered(case: Mapping[str, Value], prefix: str) -> list[Value]:
    """Return ``prefix.0``, ``prefix.1`` … as long as they go on."""
    found: list[Value] = []
    while f"{prefix}.{len(found)}" in case:
        found.append(case[f"{prefix}.{len(found)}"])
    return found


def grouped(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Return the cases of the file by name (``size.0``)."""
    cases: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        kind, number, rest = name.split(".", 2)
        cases.setdefault(f"{kind}.{number}", {})[rest] = value
    return cases


def shape_of(case: Mapping[str, Any]) -> str:
    """Return the sizes of a case in words, by its first input: ``2x16``."""
    first = case.get("input.0")
    return "" if first is None else "x".join(str(size) for size in first.shape)
