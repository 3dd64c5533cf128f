"""Handlers that stream, for test_streaming.py.

``gate`` in the event (or in the query of a function URL) is a port on which the test listens: a handler waits there
until it is let on, and tells there what became of it, so that no test needs to wait for a time to pass.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

Event = dict[str, Any]


def _given(event: Event) -> Event:
    return event.get("queryStringParameters") or event


def _gate(event: Event) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(_given(event)["gate"])))


def gated(event: Event, context: object) -> Iterator[str]:
    """Yield a chunk, and the next one when the test has let it on."""
    with _gate(event) as gate:
        try:
            yield f"first {os.getpid()}\n"
            while gate.recv(1) == b"+":
                yield "next\n" * int(_given(event).get("lines", 1))
        finally:
            gate.sendall(b"finally")


async def gated_async(event: Event, context: object) -> AsyncIterator[str]:
    """Do the same in an event loop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(_given(event)["gate"]))
    try:
        yield f"first {os.getpid()}\n"
        while await reader.read(1) == b"+":
            yield "next\n"
    except asyncio.CancelledError:
        writer.write(b"cancelled ")
        raise
    finally:
        writer.write(b"finally")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def stubborn(event: Event, context: object) -> Iterator[str]:
    """Go on whatever the runtime says."""
    yield "first\n"
    with _gate(event) as gate:
        gate.recv(1)


def killed(event: Event, context: object) -> Iterator[str]:
    """Die behind the first chunk."""
    with _gate(event) as gate:
        yield "first\n"
        gate.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)


def fails(event: Event, context: object) -> Iterator[str]:
    """Raise, behind as many chunks as the event says."""
    for number in range(int(_given(event).get("after", 0))):
        yield f"{number} {os.getpid()}\n"
    raise ValueError("boom")


def page(event: Event, context: object) -> Iterator[Any]:
    """Answer as the body of the request says."""
    yield json.loads(event.get("body") or "{}")
    yield "<p>"
    yield b"\0\xff"


def megabytes(event: Event, context: object) -> Iterator[bytes]:
    """Yield as many as the event says."""
    for number in range(int(_given(event)["count"])):
        yield bytes((number % 256,)) * (1 << 20)


def plain(event: Event, context: object) -> Event:
    """Answer whole."""
    return {"statusCode": 418, "body": "teapot"}


def nothing(event: Event, context: object) -> Iterator[str]:
    """Stream nothing at all."""
    return iter(())
