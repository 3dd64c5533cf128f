"""A call that was served, made once more by eager on the same inputs: is the engine still right?

An engine passes its check on an example before it serves. What callers send is something else; ``VerifyRate`` has a
share of their calls looked at in the same way. Cases of ``recheck``, in order:

| eager on the same inputs | verdict |
|---|---|
| raises, or cannot be had in this process | ``unknown``: there is nothing to compare with |
| is itself not finite | ``unknown``: nor is there here |
| says what the engine said, within its tolerance | ``right`` |
| says something else, and something else again the next time | ``unknown``: the model is not deterministic |
| says something else, twice | ``wrong`` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import verify
from .engines import torch_private
from .errors import CheckFailed


@dataclass(frozen=True, slots=True)
class Verdict:
    """``worst_error`` is the largest absolute difference, 0 where shapes differ or nothing was compared; ``problem``
    says what is wrong, or why nobody knows."""

    verdict: Literal["right", "wrong", "unknown"]
    worst_error: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A call that was served: copies of its inputs and outputs, since a handler may change either in place."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    outputs: Any


def sample(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> Sample:
    """Copy a call. Costs the time to copy its tensors."""
    leaves, structure = torch_private.flatten((tuple(args), dict(kwargs), outputs))
    copies = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return Sample(*torch_private.unflatten(copies, structure))


def recheck(
    served: Sample, plain: Callable[[Sequence[Any], Mapping[str, Any]], Any], tolerance: verify.Tolerance
) -> Verdict:
    """Compare a call with what ``plain``, eager's run, says; the module docstring has the cases. Never raises for what
    the model does."""
    try:
        with torch.inference_mode():
            expected = plain(served.args, served.kwargs)
            verify.finite(expected)
    except CheckFailed as error:
        return Verdict("unknown", problem=f"eager: {error}")
    except Exception as error:  # the author's module; what it raises is a matter of that call
        return Verdict("unknown", problem=f"eager raised {type(error).__name__}: {error}")
    try:
        return Verdict("right", verify.compare(served.outputs, expected, tolerance))
    except CheckFailed as difference:
        if _wavers(served, plain, expected, tolerance):
            return Verdict("unknown", problem="the model is not deterministic: eager itself says something else twice")
        return Verdict("wrong", _distance(served.outputs, expected), str(difference))


def _wavers(served: Sample, plain: Callable[..., Any], expected: Any, tolerance: verify.Tolerance) -> bool:
    """Tell whether eager contradicts itself on the same inputs."""
    try:
        with torch.inference_mode():
            verify.compare(plain(served.args, served.kwargs), expected, tolerance)
    except CheckFailed:
        return True
    return False


def _distance(outputs: Any, expected: Any) -> float:
    pairs = zip(torch_private.flatten(outputs)[0], torch_private.flatten(expected)[0], strict=False)
    differences = [
        float((given.double() - wanted.double()).abs().nan_to_num(nan=0.0, posinf=0.0).max())
        for given, wanted in pairs
        if isinstance(given, Tensor) and isinstance(wanted, Tensor) and given.shape == wanted.shape and given.numel()
    ]
    return max(differences, default=0.0)
