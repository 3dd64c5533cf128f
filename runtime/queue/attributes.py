"""Message attributes as SQS has them, kept in a message's ``attributes``, and the digests that clients check.

The digest of attributes is MD5 over them by name: length and bytes of the name, of the type, one byte for the kind of
value (1 string, 2 binary), length and bytes of the value; lengths are 4 bytes, big-endian
(docs.aws.amazon.com, "Amazon SQS message metadata": "Calculating the MD5 message digest for message attributes").
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .model import Attributes

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no message may hold: those that XML cannot."""


@dataclass(frozen=True, slots=True)
class MessageAttribute:
    """One attribute. ``value`` is bytes for a data type that begins with ``Binary``, a string otherwise."""

    data_type: str
    value: str | bytes

    @property
    def data(self) -> bytes:
        """The value as bytes."""
        return self.value if isinstance(self.value, bytes) else self.value.encode()


def kept(attributes: Mapping[str, MessageAttribute], *, sender: str = "", trace: str = "") -> Attributes:
    """Return what is kept of a message's attributes, its sender's id and its ``AWSTraceHeader``."""
    parts: dict[str, Any] = {}
    if attributes:
        parts["m"] = {name: [one.data_type, one.value] for name, one in attributes.items()}
    if sender:
        parts["u"] = sender
    if trace:
        parts["t"] = trace
    return parts


def attributes_of(values: Attributes) -> dict[str, MessageAttribute]:
    """Return the attributes of a message that was kept."""
    return {name: MessageAttribute(data_type, value) for name, (data_type, value) in values.get("m", {}).items()}


def sender_of(values: Attributes) -> str:
    """Return the id of who sent a message that was kept, empty where nobody was known."""
    return str(values.get("u", ""))


def trace_of(values: Attributes) -> str:
    """Return the ``AWSTraceHeader`` of a message that was kept, empty without one."""
    return str(values.get("t", ""))


def body_digest(body: bytes) -> str:
    """Return the MD5 of a body, hex."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def attributes_digest(attributes: Mapping[str, MessageAttribute]) -> str:
    """Return the MD5 of attributes, hex."""
    digest = hashlib.md5(usedforsecurity=False)
    for name, attribute in sorted(attributes.items()):
        kind = b"\x02" if attribute.data_type.startswith("Binary") else b"\x01"
        name_data, type_data, data = name.encode(), attribute.data_type.encode(), attribute.data
        digest.update(struct.pack("!I", len(name_data)) + name_data)
        digest.update(struct.pack("!I", len(type_data)) + type_data)
        digest.update(kind + struct.pack("!I", len(data)) + data)
    return digest.hexdigest()


def size_of(attributes: Mapping[str, MessageAttribute]) -> int:
    """Return how many bytes attributes count for in the size of a message."""
    return sum(len(name.encode()) + len(one.data_type.encode()) + len(one.data) for name, one in attributes.items())
