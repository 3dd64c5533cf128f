"""The query of a request to the admin API: its parameters, and the numbers among them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from glowplug.runtime.errors import InvalidParameter

from .messages import Request

_LONGEST = 19  # digits; Python refuses to read a number of thousands with an error of its own


def asked(request: Request) -> dict[str, str]:
    """Return the parameters of a request, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(request.query, keep_blank_values=True).items()}


def whole(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a parameter that is a whole number, ``default`` where it is not there. Raises ``InvalidParameter``."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > _LONGEST or not low <= int(text) <= high:
        raise InvalidParameter(f"{name}: {text[:40]!r} is not a whole number between {low} and {high}")
    return int(text)
