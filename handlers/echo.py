"""Returns what it is given: the event of a direct call, the body of a function URL call."""

from __future__ import annotations

from typing import Any


def handler(event: Any, context: Any) -> Any:
    """Echo ``event``; for a function URL, answer 200 with the request's body and content type."""
    request = event.get("requestContext") if isinstance(event, dict) else None
    if not isinstance(request, dict) or "http" not in request:
        return event
    return {
        "statusCode": 200,
        "headers": {"content-type": event["headers"].get("content-type", "application/octet-stream")},
        "body": event.get("body", ""),
        "isBase64Encoded": event["isBase64Encoded"],
    }
