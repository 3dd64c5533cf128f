"""Comparing what an engine says with what it should say.

Two checks: ``compare`` against outputs that eager gave at bake, and ``finite`` where nothing is recorded. Both name the
output they complain about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .engines import torch_private
from .errors import CheckFailed
from .tolerance import Tolerance, scaled

_BY_DTYPE = {
    torch.float64: Tolerance(1e-7, 1e-7),
    torch.float32: Tolerance(1e-4, 1e-4),
    torch.float16: Tolerance(5e-3, 5e-3),
    torch.bfloat16: Tolerance(4e-2, 4e-2),
}
"""Reordered sums of a few thousand terms move the last bits: 2^-23 x 1000 for fp32, 2^-10 and 2^-8 times a few for the
half types (their tolerance is that of one wrong rounding per layer, not of one operation)."""


def tolerance_in(precision: str, plain: Tolerance, outputs: Sequence[Tensor]) -> Tolerance:
    """Return the tolerance of a candidate in ``precision``: ``plain`` in fp32, else by the scale of eager's outputs."""
    largest = max((float(leaf.abs().max()) for leaf in outputs if leaf.is_floating_point() and leaf.numel()), default=1)
    return scaled(precision, plain, largest)


def tolerance_for(dtypes: Sequence[torch.dtype]) -> Tolerance:
    """Return the tolerance of the coarsest of ``dtypes``: those of a model's weights and outputs."""
    return max((_BY_DTYPE[dtype] for dtype in dtypes if dtype in _BY_DTYPE), key=lambda item: item.absolute,
               default=_BY_DTYPE[torch.float32])  # fmt: skip


def finite(outputs: Any) -> None:
    """Raise ``CheckFailed`` unless every output is a tensor of finite values and there is at least one."""
    leaves, _ = torch_private.flatten(outputs)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise CheckFailed(f"the model returned no tensor but {type(outputs).__name__}")
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            wrong = int((~torch.isfinite(leaf)).sum())
            if wrong:
                kind = "NaN" if bool(torch.isnan(leaf).any()) else "infinite"
                raise CheckFailed(f"output {number}: {wrong} of {leaf.numel()} values are not finite ({kind})")


def compare(outputs: Any, expected: Any, tolerance: Tolerance) -> float:
    """Return the largest absolute difference. Raises ``CheckFailed`` if structure, shape, dtype or a value differ."""
    given, structure = torch_private.flatten(outputs)
    wanted, wanted_structure = torch_private.flatten(expected)
    if structure != wanted_structure:
        raise CheckFailed(f"{len(given)} outputs, nested in another way than the {len(wanted)} recorded ones")
    return max((_difference(f"output {i}", *pair, tolerance) for i, pair in enumerate(zip(given, wanted, strict=True))),
               default=0.0)  # fmt: skip


def copied(value: Any) -> Any:
    """Return nested inputs or outputs with copies of their tensors."""
    leaves, structure = torch_private.flatten(value)
    copies = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return torch_private.unflatten(copies, structure)


def distance(outputs: Any, expected: Any) -> float:
    """Return the largest absolute difference, whatever it is; 0 where shapes differ."""
    pairs = zip(torch_private.flatten(outputs)[0], torch_private.flatten(expected)[0], strict=False)
    differences = [
        float((given.double() - wanted.double()).abs().nan_to_num(nan=0.0, posinf=0.0).max())
        for given, wanted in pairs
        if isinstance(given, Tensor) and isinstance(wanted, Tensor) and given.shape == wanted.shape and given.numel()
    ]
    return max(differences, default=0.0)


def _difference(name: str, given: Any, wanted: Any, tolerance: Tolerance) -> float:
    if not isinstance(given, Tensor) or not isinstance(wanted, Tensor):
        if isinstance(given, Tensor) or isinstance(wanted, Tensor) or given != wanted:
            raise CheckFailed(f"{name}: {given!r:.50}, recorded {wanted!r:.50}")
        return 0.0
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        ours, theirs = f"{given.dtype} {tuple(given.shape)}", f"{wanted.dtype} {tuple(wanted.shape)}"
        raise CheckFailed(f"{name}: {ours}, recorded {theirs}")
    if given.numel() == 0:
        return 0.0
    if not given.is_floating_point():
        wrong = int((given != wanted).sum())
        if wrong:
            raise CheckFailed(f"{name}: {wrong} of {given.numel()} values are not the recorded ones")
        return 0.0
    finite(given)
    distance = (given.double() - wanted.double()).abs()
    excess = distance - (tolerance.absolute + tolerance.relative * wanted.double().abs())
    if float(excess.max()) > 0:
        worst = int(excess.argmax())
        values = f"{float(given.flatten()[worst]):.6g}, recorded {float(wanted.flatten()[worst]):.6g}"
        raise CheckFailed(f"{name}: value {worst} is {values}, off by more than {tolerance.absolute:g}")
    return float(distance.max())
