"""FilterCriteria on messages of a queue: keep or drop.

Source: Lambda's developer guide, "Using event filtering with an Amazon SQS event source", the table of formats:

| the body of the message | `body` in the pattern | then |
|---|---|---|
| text | a list: text | compare |
| text | absent | compare the rest of the record |
| text | an object: JSON | drop |
| JSON | a list: text | drop |
| JSON | absent | compare the rest of the record |
| JSON | an object: JSON | compare |

JSON is an object or a list here, which is what a pattern can look into; `123` and `"yes"` are text. Messages that are
dropped are deleted from the queue by whoever polls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .patterns import Leaf, Node, Pattern


def kept(patterns: Sequence[Pattern], record: Mapping[str, Any]) -> bool:
    """Return whether a record goes to the function: one pattern of the criteria keeps it, or there are none."""
    return not patterns or any(sqs_verdict(pattern, record) for pattern in patterns)


def sqs_verdict(pattern: Pattern, record: Mapping[str, Any]) -> bool:
    """Return whether a pattern keeps (True) or drops (False) a record in the form that the function would get it in."""
    wanted = pattern.inside("body")
    if not wanted:
        return pattern.matches(record)
    body = _parsed(record.get("body"))
    if wanted == {Node} and isinstance(body, str):
        return False
    if wanted == {Leaf} and not isinstance(body, str):
        return False
    return pattern.matches({**record, "body": body})


def _parsed(body: Any) -> Any:
    """Return the object or list that a body is the JSON of, else its text."""
    if not isinstance(body, str) or body.lstrip()[:1] not in ("{", "["):
        return body if isinstance(body, str) else ""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body
