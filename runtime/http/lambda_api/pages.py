"""Lists by the page: ``Marker`` and ``MaxItems`` in, ``NextMarker`` out.

A marker is the key of the last item of the page before, in base64: it says nothing to a client, stays true when items
come and go between two pages, and needs no memory here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from glowplug.runtime.errors import InvalidParameter

from .call import Call
from .constraints import between, refuse

T = TypeVar("T")
Key = tuple[int, str]


def page(
    call: Call, name: str, items: Iterable[T], key: Callable[[T], str | int], show: Callable[[T], Any], *, cap: int = 50
) -> dict[str, Any]:
    """Return ``{name: [...], "NextMarker"?}`` of ``items`` in the order of their keys.

    Raises ``ValidationFailed`` for a MaxItems that is none, ``InvalidParameter`` for a marker that is not ours.
    """
    size = min(_size(call), cap)
    after = _after(call.query("Marker"))
    ordered = sorted(((_ordered(key(item)), item) for item in items), key=lambda pair: pair[0])
    left = [(place, item) for place, item in ordered if after is None or place > after]
    out: dict[str, Any] = {name: [show(item) for _, item in left[:size]]}
    if len(left) > size:
        number, text = left[size - 1][0]
        out["NextMarker"] = base64.urlsafe_b64encode(f"{number}:{text}".encode()).decode()
    return out


def _ordered(key: str | int) -> Key:
    return (key, "") if isinstance(key, int) else (0, key)


def _size(call: Call) -> int:
    asked = call.query("MaxItems")
    if asked is None:
        return 50
    try:
        size = int(asked)
    except ValueError:
        raise InvalidParameter(f"MaxItems: {asked!r} is not a number") from None
    refuse(between(size, "maxItems", 1, 10000))
    return size


def _after(marker: str | None) -> Key | None:
    if not marker:
        return None
    try:
        number, _, text = base64.urlsafe_b64decode(marker).decode().partition(":")
        return int(number), text
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter("The provided Marker is invalid.") from error
