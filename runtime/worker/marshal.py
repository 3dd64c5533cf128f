"""Events from JSON and results to JSON, as AWS' Python runtime does it.

``Decimal`` (what DynamoDB returns) becomes a number with all its digits; NaN and infinities are written as Python
writes them; text is ASCII-escaped up to Python 3.11 and plain UTF-8 from 3.12 on, which is where AWS changed it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from decimal import Decimal
from typing import Any

from .faults import MarshalError, UnmarshalError

_ASCII = sys.version_info < (3, 12)


def read_event(text: bytes) -> Any:
    """Return the value of an event. Raises ``UnmarshalError``."""
    try:
        return json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnmarshalError(f"Unable to unmarshal input: {error}") from error


def write_result(value: Any) -> bytes:
    """Return the JSON of what a handler returned. Raises ``MarshalError``."""
    try:
        text = _plain.encode(value)
        return text.encode()
    except _DecimalFound:
        return _write_decimals(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise MarshalError(f"Unable to marshal response: {error}") from error


class _DecimalFound(Exception):
    """A signal, never seen outside this module."""


class _Encoder(json.JSONEncoder):
    """Stops at the first Decimal: hardly any result holds one, and the rest should not pay for them."""

    def default(self, value: Any) -> Any:
        if isinstance(value, Decimal):
            raise _DecimalFound
        return super().default(value)


class _DecimalEncoder(json.JSONEncoder):
    """Writes a Decimal as a string that ``mark`` makes unmistakable; the caller takes the quotes off.

    The standard library's encoder has no way to write digits as they are, and a float has only 17 of them.
    """

    mark: str

    def default(self, value: Any) -> Any:
        if isinstance(value, Decimal):
            return f"{self.mark}{value}"
        return super().default(value)


_plain = _Encoder(ensure_ascii=_ASCII)


def _write_decimals(value: Any) -> bytes:
    encoder = _DecimalEncoder(ensure_ascii=_ASCII)
    encoder.mark = os.urandom(16).hex()
    try:
        return re.sub(f'"{encoder.mark}([^"]*)"', r"\1", encoder.encode(value)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MarshalError(f"Unable to marshal response: {error}") from error
