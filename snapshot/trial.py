"""One measurement of one candidate: restore, first call, warm calls, every recorded case. For models of either kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from .errors import CheckFailed
from .recorded import shape_of
from .rounds import OTHER_CALLS, WARM_CALLS, Measurement, private_bytes, warm_ms_of

Case = Mapping[str, Any]


class Subject(Protocol):
    """A candidate, restored and not opened yet, in the hands of what knows its kind of model."""

    @property
    def fork_safe(self) -> bool:
        """Whether an opened engine survives a fork."""

    @property
    def mapped_bytes(self) -> int:
        """Bytes of shared weights."""

    def open(self) -> None:
        """Make the engine ready for calls."""

    def example(self) -> Case:
        """Return the recorded example."""

    def others(self) -> Mapping[str, Case]:
        """Return the other cases by name."""

    def inputs(self, case: Case, /) -> Any:
        """Return what ``run`` takes for a case."""

    def run(self, inputs: Any, /) -> Any:
        """Call the model."""

    def error(self, case: Case, /) -> float:
        """Call the model and return the largest difference from what is recorded. Raises ``CheckFailed``."""


def trial(restore: Callable[[], Subject]) -> Measurement:
    """Return the figures of what ``restore`` returns. Raises what that and the engine raise, and ``CheckFailed`` with
    the name of the case."""
    private = private_bytes()
    begin = time.perf_counter()
    subject = restore()
    bound = time.perf_counter()
    subject.open()
    opened = time.perf_counter()
    example = subject.example()
    inputs = subject.inputs(example)
    subject.run(inputs)
    answered = time.perf_counter()
    warm_ms = warm_ms_of(partial(subject.run, inputs), WARM_CALLS)
    own = private_bytes() - private  # before larger inputs than the example's make it grow
    worst, shapes, batches = _over_cases(subject, example)
    restore_ms, first_ms = (opened - begin) * 1e3, (answered - opened) * 1e3
    return Measurement(
        restore_ms=restore_ms,
        first_ms=first_ms,
        cold_ms=restore_ms + first_ms,
        parked_ms=first_ms if subject.fork_safe else (opened - bound) * 1e3 + first_ms,
        warm_ms=warm_ms,
        shapes=shapes,
        batches=batches,
        private_bytes=max(0, own),
        shared_bytes=subject.mapped_bytes,
        worst_error=worst,
    )


def _over_cases(subject: Subject, example: Case) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return the worst error over all cases, warm times by sizes, and by batch size where the template names some."""
    worst, shapes, batches = 0.0, dict[str, float](), dict[str, float]()
    for name, case in {"example": example, **subject.others()}.items():
        try:
            worst = max(worst, subject.error(case))
        except CheckFailed as error:
            raise CheckFailed(f"{name}: {error}") from error
        kind, _, number = name.partition(".")
        if kind not in ("size", "batch"):
            continue
        took = warm_ms_of(partial(subject.run, subject.inputs(case)), WARM_CALLS if kind == "batch" else OTHER_CALLS)
        shapes[shape_of(case)] = took
        if kind == "batch":
            batches[number] = took
    return worst, shapes, batches
