"""The frames between node, zygotes and workers: a sans-I/O codec.

A frame is ``u32 length (big endian) | u8 descriptors | msgpack [code, *fields]``: ``length`` counts the msgpack part,
``descriptors`` says how many file descriptors travel with the frame (SCM_RIGHTS, in order). Fields are positional, in
the order of the dataclass; both ends always run the same release (``Hello.protocol`` is checked), so names would only
cost bytes.

Every process has a *control* channel (load, bind, check, start, spawn, stop) and workers also have a *data* channel
(invoke, chunk, outcome): a large payload never delays a control message. Frames carry the invocation id, so several may
be in flight; ``Invoke`` holds a list of events, so a batch needs no message of its own. A streamed answer is any number
of chunks ahead of its outcome, as many bytes at a time as the node has asked for: a slow client slows the handler down,
and neither side has to hold more.

Payloads above ``MAX_INLINE_BYTES`` do not travel in the frame. The sender writes them to a memfd and passes the
descriptor; the receiver checks that it is a regular file of at least the announced size before it reads. A worker is
not trusted: whatever it sends that is not a well-formed message raises ``WireError``, which costs that worker its life
and nobody else's.

    >>> Decoder().feed(encode(Stop(grace_s=2.0)).data)
    [Stop(grace_s=2.0)]

Import-light: standard library and msgpack (a test holds it to that).
"""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from .messages import (
    MESSAGES,
    PROTOCOL,
    Adopt,
    Adopted,
    Bind,
    Bound,
    Cancel,
    Check,
    Checked,
    Chunk,
    Credit,
    ExitCode,
    Exited,
    Failed,
    Hello,
    Invoke,
    Load,
    Loaded,
    Message,
    Outcome,
    Ready,
    Spawn,
    Spawned,
    Start,
    Stop,
    Verified,
)

__all__ = [  # the messages too: who talks to a process needs them and the codec together
    "HEADER",
    "MAX_DESCRIPTORS",
    "MAX_FRAME_BYTES",
    "MAX_INLINE_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MESSAGES",
    "PROTOCOL",
    "Adopt",
    "Adopted",
    "Bind",
    "Bound",
    "Cancel",
    "Check",
    "Checked",
    "Chunk",
    "Credit",
    "Decoder",
    "Encoded",
    "ExitCode",
    "Exited",
    "Failed",
    "Hello",
    "Invoke",
    "Load",
    "Loaded",
    "Message",
    "Outcome",
    "Ready",
    "Spawn",
    "Spawned",
    "Start",
    "Stop",
    "Verified",
    "WireError",
    "encode",
]

MAX_INLINE_BYTES = 256 * 1024
"""Payload bytes that travel inside a frame; a larger one spills to a memfd, whose four system calls cost about as much
as pushing this much through a socket buffer of 208 KiB (Linux' default) twice."""

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest msgpack part: 8 inline payloads of MAX_INLINE_BYTES (a batch whose members are all just small enough) make
2 MiB, and 2 MiB are for names: 10,000 weight files x 200 bytes, and 4 KiB of environment."""

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Largest spilled payload that is read: ten times Lambda's 6 MiB and its 100 bytes, rounded up to a power of two, for
nodes whose limits were raised. A worker can announce any size (a sparse memfd costs it nothing), but the node must
hold what it reads."""

MAX_DESCRIPTORS = 16
"""Descriptors in one frame: three for a spawn, else one per spilled payload. Linux takes up to 253 (SCM_MAX_FD)."""

HEADER = struct.Struct(">IB")
_SPILLED = 1  # msgpack extension type: packed (position among the frame's descriptors, size in bytes)


class WireError(Exception):
    """The peer sent something that is not a frame of this protocol, or closed in the middle of one."""


_FIELDS: dict[type[Any], tuple[str, ...]] = {
    cls: tuple(field.name for field in dataclasses.fields(cls)) for cls in MESSAGES.values()
}
_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "bytes": (bytes,),
}  # fmt: skip
_TYPES: dict[type[Any], tuple[tuple[type, ...], ...]] = {
    cls: tuple(
        _PLAIN.get(str(field.type)) or ((list,) if str(field.type).startswith("list") else (dict,))
        for field in dataclasses.fields(cls)
    )
    for cls in MESSAGES.values()
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame ready to send. ``spilled`` descriptors belong to the sender, who closes them after ``sendmsg``."""

    data: bytes
    descriptors: tuple[int, ...] = ()
    spilled: tuple[int, ...] = ()


def encode(message: Message, descriptors: Iterable[int] = ()) -> Encoded:
    """Return the frame of ``message``; ``descriptors`` travel with it ahead of any spilled payload.

    Raises ``ValueError`` when the frame would pass ``MAX_FRAME_BYTES`` or ``MAX_DESCRIPTORS``.
    """
    own = tuple(descriptors)
    spilled: list[int] = []

    def spill(value: Any) -> Any:
        kind = type(value)
        if kind is bytes and len(value) > MAX_INLINE_BYTES:
            spilled.append(_to_memfd(value))
            return msgpack.ExtType(_SPILLED, msgpack.packb((len(own) + len(spilled) - 1, len(value))))
        if kind is list:
            return [spill(item) for item in value]
        if kind is dict:
            return {name: spill(item) for name, item in value.items()}
        return value

    cls = type(message)
    try:
        body: bytes = msgpack.packb([cls.CODE, *(spill(getattr(message, name)) for name in _FIELDS[cls])])
        if len(body) > MAX_FRAME_BYTES:
            raise ValueError(f"{cls.__name__} of {len(body)} bytes is over the frame limit of {MAX_FRAME_BYTES}")
        if len(own) + len(spilled) > MAX_DESCRIPTORS:
            raise ValueError(f"{cls.__name__} with {len(own) + len(spilled)} descriptors; limit {MAX_DESCRIPTORS}")
    except BaseException:
        for descriptor in spilled:
            os.close(descriptor)
        raise
    frame = HEADER.pack(len(body), len(own) + len(spilled)) + body
    return Encoded(frame, own + tuple(spilled), tuple(spilled))


class Decoder:
    """Turns received bytes and descriptors into messages; keeps what is incomplete.

    Descriptors of ``Spawn`` and ``Spawned`` are handed out by ``take_descriptors`` after the message they came with.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._handed: deque[list[int]] = deque()

    def __repr__(self) -> str:
        return f"Decoder(buffered={len(self._buffer)}, descriptors={len(self._descriptors)})"

    def feed(self, data: bytes | memoryview, descriptors: Iterable[int] = ()) -> list[Any]:
        """Return the messages that ``data`` completes, in order. Raises ``WireError`` on anything malformed."""
        self._descriptors.extend(descriptors)
        self._buffer += data
        messages: list[Any] = []
        while len(self._buffer) >= HEADER.size:
            length, count = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES or count > MAX_DESCRIPTORS:
                raise WireError(f"frame header announces {length} bytes and {count} descriptors")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            if len(self._descriptors) < count:
                raise WireError(f"frame came with {len(self._descriptors)} of {count} descriptors")
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            messages.append(self._decode(body, [self._descriptors.popleft() for _ in range(count)]))
        # Descriptors come with the first byte of their frame: only a frame that is not complete yet can have some left.
        if len(self._descriptors) > (MAX_DESCRIPTORS if self._buffer else 0):
            raise WireError(f"{len(self._descriptors)} descriptors came without a frame that announces them")
        return messages

    def take_descriptors(self) -> list[int]:
        """Return the descriptors of the oldest ``Spawn`` or ``Spawned`` not asked for yet; the caller owns them."""
        return self._handed.popleft()

    def eof(self) -> None:
        """The peer closed. Raises ``WireError`` if that was in the middle of a frame."""
        if self._buffer:
            raise WireError(f"closed with {len(self._buffer)} bytes of an unfinished frame")

    def close(self) -> None:
        """Close every descriptor that nobody took."""
        for descriptor in (*self._descriptors, *(item for handed in self._handed for item in handed)):
            os.close(descriptor)
        self._descriptors.clear()
        self._handed.clear()

    def _decode(self, body: bytes, descriptors: list[int]) -> Any:
        used: set[int] = set()

        def unspill(kind: int, data: bytes) -> bytes:
            if kind != _SPILLED:
                raise WireError(f"unknown extension type {kind}")
            position, size = msgpack.unpackb(data)
            if position in used or not 0 <= position < len(descriptors):
                raise WireError(f"spilled payload names descriptor {position} of {len(descriptors)}")
            used.add(position)
            return _from_file(descriptors[position], size)

        keep = False
        try:
            value = msgpack.unpackb(body, ext_hook=unspill, strict_map_key=False)
            built = _build(value)
            keep = isinstance(built, Spawn | Spawned)
        except WireError:
            raise
        except Exception as error:
            raise WireError(f"not a message: {error}") from error
        finally:
            if not keep:
                for descriptor in descriptors:
                    os.close(descriptor)
        if keep:
            self._handed.append(descriptors)
        return built


def _build(value: Any) -> Any:
    if not isinstance(value, list) or not value or value[0] not in MESSAGES:
        raise WireError("frame holds no known message")
    cls = MESSAGES[value[0]]
    fields = value[1:]
    types = _TYPES[cls]
    if len(fields) != len(types):
        raise WireError(f"{cls.__name__} has {len(types)} fields, got {len(fields)}")
    for name, allowed, given in zip(_FIELDS[cls], types, fields, strict=True):
        if type(given) not in allowed:
            raise WireError(f"{cls.__name__}.{name} is {type(given).__name__}")
    return cls(*fields)


def _to_memfd(payload: bytes) -> int:
    descriptor = os.memfd_create("glowplug-payload", os.MFD_CLOEXEC)
    try:
        view = memoryview(payload)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _from_file(descriptor: int, size: Any) -> bytes:
    status = os.fstat(descriptor)
    if isinstance(size, int) and size > MAX_PAYLOAD_BYTES:
        raise WireError(f"spilled payload of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    if not isinstance(size, int) or not stat.S_ISREG(status.st_mode) or not 0 <= size <= status.st_size:
        raise WireError(f"spilled payload of {size} bytes is not in the file that came with it")
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(descriptor, size - offset, offset)
        if not part:
            raise WireError("spilled payload was cut while it was read")
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
