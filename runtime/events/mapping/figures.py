"""What is counted of a mapping since its poller began: plain integers, named as Lambda's metrics of mappings are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class MappingFigures:
    """Counts of messages; one that comes again counts again."""

    polled: int = 0
    """PolledEventCount: received."""
    filtered_out: int = 0
    """FilteredOutEventCount: deleted because no filter keeps them."""
    invoked: int = 0
    """InvokedEventCount: given to the function."""
    failed: int = 0
    """FailedInvokeEventCount: given to it and not processed, or not taken: throttled, or in too long an event."""
    deleted: int = 0
    """DeletedEventCount: processed and deleted."""
