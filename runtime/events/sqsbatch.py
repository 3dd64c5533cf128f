"""A batch of a queue's messages: the event that a function gets, and what its answer says of each message.

Sources: recorded events of event source mappings, and Lambda's developer guide, "Handling errors for an SQS event
source in Lambda" (success and failure conditions of ReportBatchItemFailures).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_ATTRIBUTES: Final = tuple(
    "ApproximateReceiveCount SentTimestamp SenderId ApproximateFirstReceiveTimestamp "
    "SequenceNumber MessageGroupId MessageDeduplicationId AWSTraceHeader DeadLetterQueueSourceArn".split()
)


def sqs_record(message: Mapping[str, Any], queue_arn: str) -> dict[str, Any]:
    """Return one record of a batch. `md5OfMessageAttributes` is left out where there are none."""
    given: Mapping[str, str] = message.get("Attributes") or {}
    names = [name for name in _ATTRIBUTES if name in given] + [name for name in given if name not in _ATTRIBUTES]
    attributes = {name: _attribute(value) for name, value in (message.get("MessageAttributes") or {}).items()}
    digest = message.get("MD5OfMessageAttributes")
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": {name: given[name] for name in names},
        "messageAttributes": attributes,
        **({"md5OfMessageAttributes": digest} if attributes and digest else {}),
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if value.get("StringValue") is not None:
        shown["stringValue"] = value["StringValue"]
    if value.get("BinaryValue") is not None:
        shown["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return {**shown, "stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}


@dataclass(frozen=True, slots=True)
class FailedItems:
    """The messages of a batch that failed, in its order; the others are deleted."""

    ids: tuple[str, ...]
    problem: str = ""
    """Why the answer counts as a failure of the whole batch; empty where it was understood."""


def failed_items(response: bytes, ids: Sequence[str]) -> FailedItems:
    """Read the answer of a function with ReportBatchItemFailures, which ran without an error.

    | the answer | failed |
    |---|---|
    | nothing, `null`, `""`, `[]`, an object without `batchItemFailures` or with null or `[]` there | none |
    | a list there whose every item has an `itemIdentifier` of the batch | these |
    | no JSON, another type, another type there | all |
    | an item that is no object or lacks the key; an identifier that is null, empty, no string or unknown | all |

    A FIFO queue's rule that nothing behind a failed message may be deleted is `with_followers`.
    """
    everything = tuple(ids)
    try:
        parsed = json.loads(response) if response.strip() else None
    except (ValueError, RecursionError):
        return FailedItems(everything, "the response is not JSON")
    if parsed is None or parsed in ("", []):
        return FailedItems(())
    if not isinstance(parsed, dict):
        return FailedItems(everything, "the response is no object with batchItemFailures")
    items = parsed.get("batchItemFailures")
    if items is None or items == []:
        return FailedItems(())
    if not isinstance(items, list):
        return FailedItems(everything, "batchItemFailures is no list")
    known, failed = frozenset(ids), set()
    for index, item in enumerate(items):
        where = f"batchItemFailures[{index}]"
        if not isinstance(item, dict) or "itemIdentifier" not in item:
            return FailedItems(everything, f"{where} has no itemIdentifier")
        identifier = item["itemIdentifier"]
        if not isinstance(identifier, str) or not identifier:
            return FailedItems(everything, f"{where}.itemIdentifier is null, empty or no string")
        if identifier not in known:
            return FailedItems(everything, f"{where}.itemIdentifier is no message of the batch")
        failed.add(identifier)
    return FailedItems(tuple(one for one in ids if one in failed))


def with_followers(failed: FailedItems, groups: Mapping[str, str], ids: Sequence[str]) -> FailedItems:
    """Return ``failed`` and every later message of the same group. ``groups`` is the MessageGroupId by message.

    A function is to report these itself ("stop processing after the first failure"); one that does not would have a
    group's messages run again behind those that came after them.
    """
    broken: set[str] = set()
    kept = []
    for one in ids:
        if one in failed.ids or groups[one] in broken:
            broken.add(groups[one])
            kept.append(one)
    return FailedItems(tuple(kept), failed.problem)
