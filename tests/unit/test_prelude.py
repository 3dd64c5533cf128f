"""The prelude of a streamed HTTP response: every way to cut it, every way to get it wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.http.messages import Reply
from glowplug.runtime.http.prelude import LIMIT_BYTES, PreludeParser
from glowplug.runtime.http.url_event import UnmappableResult

END = b"\0" * 8


def parsed(*parts: bytes) -> tuple[Reply, bytes] | None:
    parser = PreludeParser()
    for number, part in enumerate(parts):
        if (found := parser.feed(part)) is not None:
            head, rest = found
            return head, rest + b"".join(parts[number + 1 :])
    return None


def test_a_prelude_is_status_headers_and_cookies() -> None:
    prelude = {
        "statusCode": 201,
        "headers": {"Content-Type": "text/html", "x-a": "1", "content-length": "99"},
        "multiValueHeaders": {"x-b": ["2", "3"]},
        "cookies": ["a=1", "b=2"],
    }
    head = [("x-a", "1"), ("x-b", "2"), ("x-b", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    assert parsed(json.dumps(prelude).encode() + END + b"<p>") == (Reply(201, b"", head, "text/html"), b"<p>")


def test_without_members_it_is_200_and_bytes() -> None:
    assert parsed(b"{}" + END) == (Reply(200, b"", [], "application/octet-stream"), b"")


@given(st.binary(max_size=40), st.lists(st.integers(1, 12), max_size=8))
def test_it_is_found_however_the_stream_is_cut(body: bytes, sizes: list[int]) -> None:
    """A body that begins with NUL bytes keeps them: exactly eight end the prelude."""
    stream, parts = b'{"statusCode":404}' + END + body, []
    for size in sizes:
        parts.append(stream[:size])
        stream = stream[size:]
    found = parsed(*parts, stream)
    assert found is not None
    assert (found[0].status, found[1]) == (404, body)


@pytest.mark.parametrize("part", [b"", b"{", b'{"statusCode":200}', b'{"statusCode":200}' + END[:7]])
def test_a_part_of_one_is_none_yet(part: bytes) -> None:
    assert PreludeParser().feed(part) is None


@pytest.mark.parametrize(
    ("prelude", "problem"),
    [
        (b"", "not JSON"),
        (b"[]", "is a list"),
        (b"{'statusCode': 200}", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b'{"statusCode":99}', "not an HTTP status"),
        (b'{"statusCode":101}', "not an HTTP status"),
        (b'{"statusCode":true}', "not an HTTP status"),
        (b'{"statusCode":null}', "not an HTTP status"),
        (b'{"statusCode":NaN}', "not JSON"),
        (b'{"headers":[]}', "headers is a list"),
        (b'{"headers":{"a b":"c"}}', "not a header name"),
        (b'{"headers":{"":"c"}}', "not a header name"),
        (b'{"headers":{"a":"b\\r\\nset-cookie: c=d"}}', "control character"),
        (b'{"headers":{"content-type":"b\\nc"}}', "control character"),
        (b'{"headers":{"a":{}}}', "header a is a dict"),
        (b'{"multiValueHeaders":{"a":"b"}}', "multiValueHeaders.a is a str"),
        (b'{"cookies":"a=1"}', "cookies is a str"),
        (b'{"cookies":["a=1\\u0000"]}', "control character"),
    ],
)
def test_what_is_wrong_with_one_is_said(prelude: bytes, problem: str) -> None:
    with pytest.raises(UnmappableResult, match=problem):
        PreludeParser().feed(prelude + END)


@pytest.mark.parametrize("size", [1, 4096, LIMIT_BYTES + 8])
def test_a_stream_without_one_is_given_up_after_16_kib(size: int) -> None:
    """However it comes; the node does not hold more of it."""
    parser = PreludeParser()
    for _ in range((LIMIT_BYTES + 7) // size):
        assert parser.feed(b" " * size) is None
    with pytest.raises(UnmappableResult, match="no prelude in the first 16384 bytes"):
        parser.feed(b" " * size)


def test_the_largest_one_is_accepted() -> None:
    padded = b'{"statusCode":200}'.ljust(LIMIT_BYTES)
    assert PreludeParser().feed(padded + END) is not None
    with pytest.raises(UnmappableResult):
        PreludeParser().feed(padded + b" " + END)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["statusCode", "headers", "multiValueHeaders", "cookies", "other"]), json_values)
)
def test_any_object_is_a_head_or_refused(fields: dict[str, Any]) -> None:
    """Nothing else is raised, and no header that gets through could break out of its line."""
    try:
        found = PreludeParser().feed(json.dumps(fields).encode() + END)
    except UnmappableResult:
        return
    assert found is not None
    head, _ = found
    assert 200 <= head.status <= 599
    for text in (head.content_type, *(part for header in head.headers for part in header)):
        assert not set(text) & set("\r\n\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    try:
        PreludeParser().feed(data + END)
    except UnmappableResult:
        return
