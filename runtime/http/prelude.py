"""The prelude of a streamed HTTP response: JSON, eight NUL bytes, then the body (spec 2.4). Pure.

    {"statusCode": 200, "headers": {"content-type": "text/html"}, "cookies": ["a=1"]}\\0\\0\\0\\0\\0\\0\\0\\0<html>…

``multiValueHeaders`` is what some runtime clients send beside ``headers``: a list of values by name.
"""

from __future__ import annotations

from typing import Any

from .messages import Reply, parse_json
from .url_event import UnmappableResult, header_fields, mapping_of, status_of

CONTENT_TYPE = "application/vnd.awslambda.http-integration-response"
BYTES = "application/octet-stream"
LIMIT_BYTES = 16 * 1024
_END = b"\0" * 8


class PreludeParser:
    """Takes the beginning of a stream until its prelude is there."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> tuple[Reply, bytes] | None:
        """Return the head of the response and what of its body came with it; None when more is needed.

        Raises ``UnmappableResult`` for what is no prelude, and where there is none in the first ``LIMIT_BYTES``.
        """
        searched = max(0, len(self._held) - len(_END) + 1)
        self._held += data
        end = self._held.find(_END, searched)
        if end > LIMIT_BYTES or (end < 0 and len(self._held) >= LIMIT_BYTES + len(_END)):
            raise UnmappableResult(f"no prelude in the first {LIMIT_BYTES} bytes of the stream")
        if end < 0:
            return None
        return head_of(bytes(self._held[:end])), bytes(self._held[end + len(_END) :])


def head_of(prelude: bytes) -> Reply:
    """Return the response that a prelude's JSON announces, without a body. Raises ``UnmappableResult``."""
    try:
        fields = parse_json(prelude)
    except (ValueError, RecursionError) as error:
        raise UnmappableResult(f"the prelude is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UnmappableResult(f"the prelude is a {type(fields).__name__}, not an object")
    headers, content_type = header_fields(_headers(fields), fields.get("cookies"), BYTES)
    return Reply(status_of(fields.get("statusCode", 200)), b"", headers, content_type)


def _headers(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs = list(mapping_of(fields.get("headers"), "headers").items())
    for name, values in mapping_of(fields.get("multiValueHeaders"), "multiValueHeaders").items():
        if not isinstance(values, list):
            raise UnmappableResult(f"multiValueHeaders.{name} is a {type(values).__name__}, not a list")
        pairs.extend((name, value) for value in values)
    return pairs
