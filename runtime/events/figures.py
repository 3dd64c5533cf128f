"""What is counted of asynchronous invocations, per function: plain integers, read when somebody scrapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class EventFigures:
    """Counts of one function since the node started. Lambda's metrics where it has one of that meaning."""

    received: int = 0
    """AsyncEventsReceived."""
    dropped: int = 0
    """AsyncEventsDropped: ended without having been run with success."""
    recursive: int = 0
    """RecursiveInvocationsDropped: those of them that went round in a loop."""
    retries: int = 0
    """Attempts that follow after a function error."""
    requeues: int = 0
    """Attempts that were put back: throttled, or a fault of the node."""
    succeeded: int = 0
    cancelled: int = 0
    dead_letters: int = 0
    """Events that went to a dead-letter queue or an OnFailure destination."""
    dead_letter_errors: int = 0
    """DeadLetterErrors."""
    delivery_failures: int = 0
    """DestinationDeliveryFailures."""
    age_s: float = 0.0
    """The sum of AsyncEventAge: from acceptance to the first attempt."""
    first_attempts: int = 0


class Backlog(NamedTuple):
    """How a function is doing with its events: how many are not over, the age of the oldest in seconds, and how many
    attempts were repeated and events given up with a dead letter since the node started."""

    events: int = 0
    oldest_s: float = 0.0
    retries: int = 0
    dead_letters: int = 0


NO_EVENTS = Backlog()


@dataclass(slots=True)
class Book:
    """The figures of all functions."""

    functions: dict[str, EventFigures] = field(default_factory=dict)

    def of(self, function: str) -> EventFigures:
        """Return a function's figures, making them."""
        found = self.functions.get(function)
        if found is None:
            found = self.functions[function] = EventFigures()
        return found

    def forget(self, function: str) -> None:
        """Drop those of a function that was deleted."""
        self.functions.pop(function, None)
