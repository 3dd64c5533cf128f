"""Handlers that stream: generators, asynchronous generators, and any other iterator that a handler returns.

Lambda's Python runtime has no such thing (spec 0), so what an item means is glowplug's own:

| item | sent as |
|---|---|
| ``bytes``, ``bytearray``, ``memoryview`` | it is |
| ``str`` | UTF-8 |
| ``None``, and anything empty | nothing; the handler is told here as well when nobody reads any more |
| a dict with ``statusCode``, first of all | the HTTP prelude; its ``body``, if any, is the first part of the stream |
| anything else | a line of JSON |

A stream that is cancelled ends as Python ends iterators: a generator gets ``GeneratorExit`` at its ``yield``, an
asynchronous one ``CancelledError`` where it waits.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from typing import Any

from .faults import MarshalError
from .marshal import write_result
from .outlet import Cancelled, Collector, Outlet

_WHOLE = frozenset((dict, list, str, int, float, bool, type(None), tuple))
_CO_ASYNC_GENERATOR = 0x200  # inspect.CO_ASYNC_GENERATOR; inspect is not for every worker to import


def streams(result: Any) -> bool:
    """Tell whether what a handler returned is a stream: an iterator, or what ``async for`` takes."""
    kind = type(result)
    return kind not in _WHOLE and (hasattr(kind, "__next__") or hasattr(kind, "__aiter__"))


def prepare(handler: Any) -> None:
    """Import what ``handler`` will need to stream, where it shows: before a fork rather than in the first call."""
    code = getattr(handler, "__code__", None)
    if code is not None and code.co_flags & _CO_ASYNC_GENERATOR:
        _asynchronous()


def drain(source: Any, outlet: Outlet | Collector) -> list[bytes]:
    """Pass everything that ``source`` yields to ``outlet`` and return the results of the invocation.

    Raises what the handler raises, and ``MarshalError`` for an item that cannot be sent.
    """
    try:
        if hasattr(type(source), "__aiter__"):
            _asynchronous().drain(source, outlet)
        else:
            _drain(source, outlet)
        return outlet.result()
    finally:
        outlet.close()


def pieces(item: Any, outlet: Outlet | Collector, *, first: bool) -> bytes:
    """Return the bytes that ``item`` stands for, when a prelude that it is has been told to ``outlet``."""
    if not first or item is None:
        return chunk_of(item)
    if type(item) is not dict or "statusCode" not in item:
        outlet.begin(None)
        return chunk_of(item)
    prelude = {name: value for name, value in item.items() if name not in ("body", "isBase64Encoded")}
    body = _body(item)
    outlet.begin(prelude)
    return body


def chunk_of(item: Any) -> bytes:
    """Return the bytes of one item. Raises ``MarshalError``."""
    kind = type(item)
    if kind is bytes:
        return item  # type: ignore[no-any-return]
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError as error:
            raise MarshalError(f"Unable to marshal response: {error}") from error
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    return b"" if item is None else write_result(item) + b"\n"


def _body(response: dict[str, Any]) -> bytes:
    body = response.get("body")
    if not response.get("isBase64Encoded"):
        return chunk_of(body) if isinstance(body, str | bytes | None) else write_result(body)
    try:
        return binascii.a2b_base64(body or "", strict_mode=True)
    except (ValueError, TypeError) as error:
        raise MarshalError(f"Unable to marshal response: isBase64Encoded is set and body is not: {error}") from error


def _drain(source: Iterator[Any], outlet: Outlet | Collector) -> None:
    first = True
    try:
        for item in source:
            outlet.send(pieces(item, outlet, first=first))
            first = first and item is None
    except Cancelled:
        pass
    finally:
        close: Callable[[], None] | None = getattr(source, "close", None)
        if close is not None:
            close()


def _asynchronous() -> Any:
    # A late import on purpose: asyncio is for those alone who stream from an asynchronous generator.
    from . import asynchronous

    return asynchronous
