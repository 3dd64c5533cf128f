"""Comparing what a session says with what it should say: ``verify`` for arrays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy

from ..errors import CheckFailed
from ..tolerance import Tolerance, scaled

_FP32 = Tolerance(1e-4, 1e-4)  # reordered sums, as in ``verify``
_FP16 = Tolerance(5e-3, 5e-3)

Array = numpy.ndarray[Any, Any]


def listed(outputs: Any) -> list[Any]:
    """Return the outputs of a call as a list."""
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def finite(outputs: Any) -> None:
    """Raise ``CheckFailed`` unless every output is an array of finite values."""
    for number, output in enumerate(listed(outputs)):
        if not isinstance(output, numpy.ndarray):
            raise CheckFailed(f"output {number}: {type(output).__name__}, not an array")
        if output.dtype.kind == "f" and not numpy.isfinite(output).all():
            wrong = int((~numpy.isfinite(output)).sum())
            kind = "NaN" if numpy.isnan(output).any() else "infinite"
            raise CheckFailed(f"output {number}: {wrong} of {output.size} values are not finite ({kind})")


def tolerance_in(precision: str, outputs: Sequence[Array]) -> Tolerance:
    """Return the tolerance of a candidate in ``precision``, by the outputs of the model as it is."""
    plain = _FP16 if any(output.dtype == numpy.float16 for output in outputs) else _FP32
    floating = [output for output in outputs if output.dtype.kind == "f" and output.size]
    largest = max((float(abs(output).max()) for output in floating), default=1)
    return scaled(precision, plain, largest)


def copied(value: Any) -> Any:
    """Return nested inputs or outputs with copies of their arrays."""
    return copy.deepcopy(value)


def distance(outputs: Any, expected: Any) -> float:
    """Return the largest absolute difference, whatever it is; 0 where shapes differ."""
    differences = [
        float(numpy.nan_to_num(abs(given.astype("float64") - wanted.astype("float64")), nan=0.0, posinf=0.0).max())
        for given, wanted in zip(listed(outputs), listed(expected), strict=False)
        if given.shape == wanted.shape and given.size
    ]
    return max(differences, default=0.0)


def compare(outputs: Any, expected: Any, tolerance: Tolerance) -> float:
    """Return the largest absolute difference. Raises ``CheckFailed`` if number, shape, dtype or a value differ."""
    outputs, expected = listed(outputs), listed(expected)
    finite(outputs)
    if len(outputs) != len(expected):
        raise CheckFailed(f"{len(outputs)} outputs, {len(expected)} recorded")
    pairs = enumerate(zip(outputs, expected, strict=True))
    return max((_difference(f"output {number}", *pair, tolerance) for number, pair in pairs), default=0.0)


def _difference(name: str, given: Array, wanted: Array, tolerance: Tolerance) -> float:
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        raise CheckFailed(f"{name}: {given.dtype} {given.shape}, recorded {wanted.dtype} {wanted.shape}")
    if given.size == 0:
        return 0.0
    if given.dtype.kind != "f":
        wrong = int((given != wanted).sum())
        if wrong:
            raise CheckFailed(f"{name}: {wrong} of {given.size} values are not the recorded ones")
        return 0.0
    distance = abs(given.astype("float64") - wanted.astype("float64"))
    excess = distance - (tolerance.absolute + tolerance.relative * abs(wanted.astype("float64")))
    if float(excess.max()) > 0:
        worst = int(excess.argmax())
        values = f"{float(given.flat[worst]):.6g}, recorded {float(wanted.flat[worst]):.6g}"
        raise CheckFailed(f"{name}: value {worst} is {values}, off by more than {tolerance.absolute:g}")
    return float(distance.max())
