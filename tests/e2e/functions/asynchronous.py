"""Handlers for events: one that answers, one that fails, one that takes as long as it is told."""

from __future__ import annotations

import time
from typing import Any


def answers(event: Any, context: Any) -> Any:
    return {"event": event, "request": context.aws_request_id, "arn": context.invoked_function_arn}


def fails(event: Any, context: Any) -> Any:
    raise ValueError(f"no {event.get('what', 'luck')}")


def sleeps(event: Any, context: Any) -> Any:
    time.sleep(event["seconds"])
    return event.get("number")


def page(event: Any, context: Any) -> Any:
    time.sleep(float(event.get("queryStringParameters", {}).get("seconds", 0)))
    return {"statusCode": 201, "headers": {"x-mine": "1"}, "body": f"made by {event['rawPath']}"}
