"""The binary frames in which AWS streams events over HTTP (``application/vnd.amazon.eventstream``). Pure.

    u32 length of all | u32 length of the headers | u32 crc32 of those two | headers | payload | u32 crc32 of all before

A header is ``u8 length, name, u8 7, u16 length, value``: type 7 is a string, the only one needed here. All numbers are
big endian. Source: the specification of the Smithy protocol; checked with botocore's parser.
"""

from __future__ import annotations

import struct
import zlib

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_LENGTHS = struct.Struct(">II")
_CRC = struct.Struct(">I")
_STRING = 7


def event(kind: str, content_type: str, payload: bytes) -> bytes:
    """Return the frame of one event."""
    headers = b"".join(
        _header(name, value)
        for name, value in ((":event-type", kind), (":content-type", content_type), (":message-type", "event"))
    )
    lengths = _LENGTHS.pack(_LENGTHS.size + 2 * _CRC.size + len(headers) + len(payload), len(headers))
    prelude = lengths + _CRC.pack(zlib.crc32(lengths))
    crc = zlib.crc32(payload, zlib.crc32(headers, zlib.crc32(prelude)))
    return b"".join((prelude, headers, payload, _CRC.pack(crc)))


def _header(name: str, value: str) -> bytes:
    text = value.encode()
    return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(text)) + text
