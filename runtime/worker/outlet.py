"""Where the chunks of one invocation go: to the node as they come, or together into one JSON result.

An outlet is told what the stream is (``begin``), then takes its bytes (``send``). The HTTP prelude of a stream, status
and headers ahead of its first byte, is a dict here; on the wire it is JSON and eight NUL bytes, as custom runtimes send
it (spec 2.4).
"""

from __future__ import annotations

import binascii
import os
from typing import Any

from glowplug.runtime.process import wire

from . import streams
from .connection import Connection
from .faults import MarshalError, ResponseTooLarge
from .marshal import write_result

HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
BYTES = "application/octet-stream"
PRELUDE_END = b"\0" * 8


class Cancelled(Exception):
    """Nobody reads the stream any more. Raised to whoever sends, never into the handler."""


class Outlet:
    """Sends chunks to the node, as many bytes as it has asked for; one that has no more to send waits for credit."""

    def __init__(self, data: Connection, invoke: wire.Invoke) -> None:
        self.cancelled = False
        self._data = data
        self._invocation_id = invoke.invocation_id
        self._credit_bytes = invoke.window_bytes
        self._content_type = BYTES
        self._pid = os.getpid()
        self._others: list[Any] = []

    def __repr__(self) -> str:
        return f"Outlet({self._invocation_id!r}, credit_bytes={self._credit_bytes}, cancelled={self.cancelled})"

    def fileno(self) -> int:
        """Return the descriptor on which the node is heard."""
        return self._data.fileno()

    def begin(self, prelude: dict[str, Any] | None) -> None:
        """Say what the stream is, before its first byte; a prelude is on its way at once. Raises as ``send``."""
        if prelude is not None:
            self._content_type = HTTP_INTEGRATION
            self.send(write_result(prelude) + PRELUDE_END)

    def send(self, data: bytes) -> None:
        """Send ``data``; block while the node's window is full. Raises ``Cancelled``, also for no data."""
        rest = self.send_some(data)
        while rest:
            self._take(self._data.receive())
            rest = self.send_some(rest)

    def send_some(self, data: bytes | memoryview) -> memoryview:
        """Send what the window lets through, without waiting, and return the rest. Raises ``Cancelled``."""
        if os.getpid() != self._pid:
            streams.flush()
            os._exit(0)  # a child that the handler forked and that came out of its generator: the parent answers
        self.look()
        if self.cancelled:
            raise Cancelled
        rest = memoryview(data)
        while rest and self._credit_bytes > 0:
            part = bytes(rest[: min(self._credit_bytes, wire.MAX_INLINE_BYTES)])
            self._data.send(wire.Chunk(self._invocation_id, part, self._content_type))
            self._content_type = ""
            self._credit_bytes -= len(part)
            rest = rest[len(part) :]
        return rest

    def look(self) -> None:
        """Take what the node has said meanwhile. Raises as ``Connection.receive``."""
        for message in self._data.receive_what_is_there():
            self._take(message)

    def result(self) -> list[bytes]:
        """Return the results of the outcome: none, they have left."""
        return []

    def close(self) -> None:
        """Give back what has come meanwhile for others: their turn is next."""
        self._data.put_back(self._others)

    def _take(self, message: Any) -> None:
        if not isinstance(message, wire.Credit | wire.Cancel):
            self._others.append(message)
        elif message.invocation_id != self._invocation_id:
            return  # about a stream that had ended when it was sent
        elif isinstance(message, wire.Credit):
            self._credit_bytes += message.size_bytes
        else:
            self.cancelled = True


class Collector:
    """Gathers a stream for a caller that wants the answer whole.

    The result is the text as a JSON string, or, where the stream began with a prelude, the response that a handler
    without a stream would have returned: the prelude's members, ``body`` and ``isBase64Encoded``.
    """

    cancelled = False

    def __init__(self) -> None:
        self._prelude: dict[str, Any] | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def begin(self, prelude: dict[str, Any] | None) -> None:
        """Say what the stream is, before its first byte."""
        self._prelude = prelude

    def send(self, data: bytes) -> None:
        """Add ``data``. Raises ``ResponseTooLarge`` when it is more than any limit of a node can be."""
        self._size_bytes += len(data)
        if self._size_bytes > wire.MAX_PAYLOAD_BYTES:
            raise ResponseTooLarge(
                f"Response payload size exceeded maximum allowed payload size ({wire.MAX_PAYLOAD_BYTES} bytes)."
            )
        self._parts.append(data)

    def send_some(self, data: bytes | memoryview) -> memoryview:
        """Add ``data``; nothing is left."""
        self.send(bytes(data))
        return memoryview(b"")

    def look(self) -> None:
        """Do nothing: a call whose answer is wanted whole is not cancelled."""

    def close(self) -> None:
        """Do nothing: nobody else's messages come this way."""

    def result(self) -> list[bytes]:
        """Return the one result. Raises ``MarshalError`` for bytes that are no text, of which nothing says the type."""
        body = b"".join(self._parts)
        try:
            text, encoded = body.decode(), False
        except UnicodeDecodeError as error:
            if self._prelude is None:
                raise MarshalError(
                    f"Unable to marshal response: the stream is not UTF-8 text ({error.reason} at byte {error.start}); "
                    "bytes reach a caller that takes a stream, or behind a first item with statusCode and headers"
                ) from error
            text, encoded = binascii.b2a_base64(body, newline=False).decode(), True
        if self._prelude is None:
            return [write_result(text)]
        return [write_result({**self._prelude, "body": text, "isBase64Encoded": encoded})]
