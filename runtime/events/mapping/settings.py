"""What a mapping says, read from its document, and the rules that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.catalog import LATEST
from glowplug.runtime.events.patterns import Pattern, compile_pattern

KIND = "event-source-mapping"
"""Mappings are documents of the catalog: ``event-source-mapping/<uuid>``."""
LONGEST_VISIBILITY_S = 43_200
"""SQS hides a message for 12 hours at most."""
_SPARE_S = 30


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """One mapping. ``source`` is the queue's ARN; ``function_arn`` is as it was given, ``qualifier`` what it ends in.

    ``window_s`` is MaximumBatchingWindowInSeconds; ``report_failures`` is ReportBatchItemFailures; ``max_concurrency``
    is the most batches that run at once, None for as many as the function has room for.
    """

    uuid: str
    source: str
    function_arn: str
    function: str
    qualifier: str
    batch_size: int
    window_s: int
    patterns: tuple[Pattern, ...]
    report_failures: bool
    max_concurrency: int | None

    @property
    def fifo(self) -> bool:
        """Whether its queue keeps an order."""
        return self.source.endswith(".fifo")


def settings_of(document: Mapping[str, Any]) -> MappingSettings:
    """Read a mapping's document. Its filters were compiled when it was made, so nothing is refused here."""
    arn = str(document["FunctionArn"])
    name, _, qualifier = arn.partition(":function:")[2].partition(":")
    filters = (document.get("FilterCriteria") or {}).get("Filters") or ()
    return MappingSettings(
        uuid=str(document["UUID"]),
        source=str(document["EventSourceArn"]),
        function_arn=arn,
        function=name,
        qualifier=qualifier or LATEST,
        batch_size=int(document.get("BatchSize") or 10),
        window_s=int(document.get("MaximumBatchingWindowInSeconds") or 0),
        patterns=tuple(compile_pattern(one.get("Pattern") or "{}") for one in filters),
        report_failures="ReportBatchItemFailures" in (document.get("FunctionResponseTypes") or ()),
        max_concurrency=(document.get("ScalingConfig") or {}).get("MaximumConcurrency"),
    )


def is_enabled(document: Mapping[str, Any]) -> bool:
    """Return whether a mapping is to receive."""
    return document.get("State") == "Enabled"


def visibility_s(queue_s: int, window_s: int, timeout_s: float) -> int:
    """Return how long messages are hidden when they are received: as long as the queue says, or, where a batch would
    outlast that, window, timeout and 30 seconds, as Lambda does it."""
    if window_s + timeout_s <= queue_s:
        return queue_s
    return min(round(window_s + timeout_s) + _SPARE_S, LONGEST_VISIBILITY_S)
