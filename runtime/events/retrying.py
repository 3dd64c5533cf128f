"""What becomes of an asynchronous invocation after each attempt: a pure decision.

Sources: Lambda's developer guide, "How Lambda handles errors and retries with asynchronous invocation", and recorded
exchanges for the counts. The matrix; ``runs`` are attempts that reached the function, this one included:

| the attempt | then |
|---|---|
| succeeded | Success |
| function error (timeout, crash and an answer that is too large too), retries left | again: 1 min later, then 2 min |
| function error, no retries left | RetriesExhausted |
| throttled, or a system error | again: 1 s later, doubled each time in a row, 5 min at most; no retry is used up |
| refused because reserved concurrency is 0 | ZeroReservedConcurrency |
| none, the function having run `MOST_PASSES` times in the chain of destinations that led here | RecursiveLoop |
| any that would be made again later than MaximumEventAgeInSeconds after the event was accepted | EventAgeExceeded |

The last row looks ahead: the event ends now, not when its next attempt would begin. What only grew old in the queue,
behind others or while the node was down, is for `overdue`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

MOST_PASSES: Final = 16
"""How often a function runs in one chain of events (Lambda's developer guide, "recursive loop detection")."""
_DOUBLINGS: Final = 32
"""More would change nothing but the size of the number."""


class Attempt(Enum):
    """How an attempt ended."""

    SUCCESS = "success"
    FUNCTION_ERROR = "function error"
    THROTTLED = "throttled"
    SYSTEM_ERROR = "system error"
    NO_CONCURRENCY = "no concurrency"


class Condition(Enum):
    """How an invocation ended, in the words of its record."""

    SUCCESS = "Success"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    EVENT_AGE_EXCEEDED = "EventAgeExceeded"
    ZERO_RESERVED_CONCURRENCY = "ZeroReservedConcurrency"
    RECURSIVE_LOOP = "RecursiveLoop"

    @property
    def failed(self) -> bool:
        """Whether it goes to OnFailure and the dead-letter queue."""
        return self is not Condition.SUCCESS

    @property
    def reason(self) -> str:
        """A sentence for those that end an event without an attempt, empty for the others."""
        return _REASONS.get(self, "")


_REASONS: Final = {
    Condition.EVENT_AGE_EXCEEDED: "The event was older than MaximumEventAgeInSeconds before the function took it.",
    Condition.ZERO_RESERVED_CONCURRENCY: "The function's reserved concurrency is 0.",
    Condition.RECURSIVE_LOOP: f"The function ran {MOST_PASSES} times in a loop of destinations.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """EventInvokeConfig of the qualifier that the event was invoked with."""

    maximum_retry_attempts: int = 2
    maximum_event_age_s: float = 21_600


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds until the next attempt."""

    error_base_s: float = 60
    """After a function error: this, then twice this."""
    requeue_base_s: float = 1
    requeue_limit_s: float = 300

    def after_error(self, runs: int) -> float:
        """Return the wait after the function failed for the ``runs``-th time."""
        return self.error_base_s * runs

    def after_requeue(self, requeues: int) -> float:
        """Return the wait after an attempt was put back for the ``requeues``-th time in a row."""
        return min(self.requeue_base_s * (1 << min(requeues - 1, _DOUBLINGS)), self.requeue_limit_s)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept of an event between attempts. ``accepted_s`` is in Unix seconds."""

    accepted_s: float
    runs: int = 0
    requeues: int = 0
    """How often in a row it was put back."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Make another attempt at ``at_s`` (Unix seconds), with this progress."""

    at_s: float
    progress: Progress


@dataclass(frozen=True, slots=True)
class Finished:
    """The invocation is over. ``runs`` is the record's approximateInvokeCount."""

    condition: Condition
    runs: int


def settle(attempt: Attempt, before: Progress, now_s: float, limits: Limits, delays: Delays) -> Retry | Finished:
    """Decide after an attempt. ``before`` is the progress with which it was made."""
    match attempt:
        case Attempt.SUCCESS:
            return Finished(Condition.SUCCESS, before.runs + 1)
        case Attempt.NO_CONCURRENCY:
            return Finished(Condition.ZERO_RESERVED_CONCURRENCY, before.runs)
        case Attempt.FUNCTION_ERROR:
            after = replace(before, runs=before.runs + 1, requeues=0)
            if after.runs > limits.maximum_retry_attempts:
                return Finished(Condition.RETRIES_EXHAUSTED, after.runs)
            delay_s = delays.after_error(after.runs)
        case Attempt.THROTTLED | Attempt.SYSTEM_ERROR:
            after = replace(before, requeues=before.requeues + 1)
            delay_s = delays.after_requeue(after.requeues)
    if now_s + delay_s - after.accepted_s > limits.maximum_event_age_s:
        return Finished(Condition.EVENT_AGE_EXCEEDED, after.runs)
    return Retry(now_s + delay_s, after)


def overdue(progress: Progress, now_s: float, limits: Limits) -> Finished | None:
    """Return how an event ends that is too old to be attempted at all, None if it is not."""
    if now_s - progress.accepted_s > limits.maximum_event_age_s:
        return Finished(Condition.EVENT_AGE_EXCEEDED, progress.runs)
    return None
