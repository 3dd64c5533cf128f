"""Events and results as AWS' Python runtime reads and writes them."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pytest

from glowplug.runtime.worker.faults import MarshalError, UnmarshalError
from glowplug.runtime.worker.marshal import read_event, write_result


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a": [1, 2.5, true]}'),
        (float("nan"), "NaN"),
        ((1, 2), "[1, 2]"),
        (Decimal("12345678901234567890.12345678901234567890"), "12345678901234567890.12345678901234567890"),
        ({"a": Decimal("1E+3"), "b": 'a "quoted" text'}, '{"a": 1E+3, "b": "a \\"quoted\\" text"}'),
    ],
)
def test_results(value: Any, text: Any) -> None:
    assert text.encode() == write_result(value)


def test_text_is_escaped_where_aws_escapes_it() -> None:
    expected = '"\\u00e9"' if sys.version_info < (3, 12) else '"é"'

    assert expected.encode() == write_result("é")


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), {(1, 2): 3}, [Decimal(1), object()]])
def test_what_json_cannot_hold_is_a_marshal_error(value: Any) -> None:
    with pytest.raises(MarshalError, match="Unable to marshal response: "):
        write_result(value)


def test_a_result_that_holds_itself_is_a_marshal_error() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(MarshalError, match="Circular"):
        write_result(value)


def test_events() -> None:
    assert {"a": ["é", None]} == read_event(json.dumps({"a": ["é", None]}, ensure_ascii=False).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_an_event_that_is_not_json_is_an_unmarshal_error(text: Any) -> None:
    with pytest.raises(UnmarshalError, match="Unable to unmarshal input: "):
        read_event(text)
