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

Outputs are compared by a *judge*: ``verify`` for tensors, ``onnx.outputs`` for arrays. Torch-free itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .errors import CheckFailed
from .tolerance import Tolerance


class Judge(Protocol):
    """What knows the values that a kind of model takes and returns."""

    def copied(self, value: Any, /) -> Any:
        """Return nested inputs or outputs with copies of everything that could be changed in place."""

    def finite(self, outputs: Any, /) -> None:
        """Raise ``CheckFailed`` unless every value is finite."""

    def compare(self, outputs: Any, expected: Any, tolerance: Tolerance, /) -> float:
        """Return the largest absolute difference. Raises ``CheckFailed`` where they differ."""

    def distance(self, outputs: Any, expected: Any, /) -> float:
        """Return the largest absolute difference, whatever it is; 0 where shapes differ."""


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


def sample(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, judge: Judge) -> Sample:
    """Copy a call. Costs the time to copy its values."""
    return Sample(*judge.copied((tuple(args), dict(kwargs), outputs)))


def recheck(
    served: Sample, plain: Callable[[Sequence[Any], Mapping[str, Any]], Any], tolerance: Tolerance, judge: Judge
) -> Verdict:
    """Compare a call with what ``plain``, eager's run, says; the module docstring has the cases. Never raises for what
    the model does."""
    try:
        expected = plain(served.args, served.kwargs)
        judge.finite(expected)
    except CheckFailed as error:
        return Verdict("unknown", problem=f"eager: {error}")
    except Exception as error:  # the author's module; what it raises is a matter of that call
        return Verdict("unknown", problem=f"eager raised {type(error).__name__}: {error}")
    try:
        return Verdict("right", judge.compare(served.outputs, expected, tolerance))
    except CheckFailed as difference:
        if _wavers(served, plain, expected, tolerance, judge):
            return Verdict("unknown", problem="the model is not deterministic: eager itself says something else twice")
        return Verdict("wrong", judge.distance(served.outputs, expected), str(difference))


def _wavers(served: Sample, plain: Callable[..., Any], expected: Any, tolerance: Tolerance, judge: Judge) -> bool:
    """Tell whether eager contradicts itself on the same inputs."""
    try:
        judge.compare(plain(served.args, served.kwargs), expected, tolerance)
    except CheckFailed:
        return True
    return False
