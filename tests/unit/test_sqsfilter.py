"""FilterCriteria on a queue's messages: the guide's table of formats, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.events.patterns import compile_pattern
from glowplug.runtime.events.sqsfilter import kept, sqs_verdict

TEXT_PATTERN = {"body": [{"prefix": "yes"}]}
JSON_PATTERN = {"body": {"code": ["BBBB"]}}
NO_BODY = {"messageAttributes": {"kind": {"stringValue": ["a"]}}}
ABSENCE = {"body": {"code": [{"exists": False}]}}
NOT_THIS = {"body": [{"anything-but": "no"}]}
EITHER = {"$or": [TEXT_PATTERN, JSON_PATTERN]}


def record(body: str, kind: str = "a") -> dict[str, Any]:
    return {
        "messageId": "m-1",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {"kind": {"stringValue": kind, "dataType": "String"}},
        "eventSource": "aws:sqs",
    }


@pytest.mark.parametrize(
    ("pattern", "body", "keeps"),
    [
        (TEXT_PATTERN, "yes, please", True),
        (TEXT_PATTERN, "no", False),
        (NO_BODY, "anything", True),
        (JSON_PATTERN, "BBBB", False),
        (ABSENCE, "a text has no code", False),
        (TEXT_PATTERN, '{"yes": 1}', False),
        (NOT_THIS, '{"yes": 1}', False),
        (NOT_THIS, "[1]", False),
        (NO_BODY, '{"code": "AAAA"}', True),
        (JSON_PATTERN, '{"code": "BBBB"}', True),
        (JSON_PATTERN, ' \n{"code": "AAAA"}', False),
        (ABSENCE, '{"other": 1}', True),
        (JSON_PATTERN, '[{"code": "AAAA"}, {"code": "BBBB"}]', True),
        (JSON_PATTERN, '{"code": "BBBB"', False),  # no JSON, so text
        (TEXT_PATTERN, '"yes"', False),  # text that begins with a quotation mark
        ({"body": ["123"]}, "123", True),
        ({"body": [123]}, "123", False),
        (NOT_THIS, "[" * 100_000, True),  # text: nothing reads that as JSON
        (JSON_PATTERN, '{"code": ' + "1" * 5000 + "}", False),
        (EITHER, "yes", True),
        (EITHER, '{"code": "BBBB"}', True),
        (EITHER, '{"code": "AAAA"}', False),
        ({**JSON_PATTERN, **NO_BODY}, '{"code": "BBBB"}', True),
    ],
)
def test_the_formats_of_body_and_pattern(pattern: dict[str, Any], body: str, keeps: bool) -> None:
    assert keeps == sqs_verdict(compile_pattern(pattern), record(body))


def test_the_rest_of_the_record_is_compared_too() -> None:
    assert not sqs_verdict(compile_pattern(NO_BODY), record("x", kind="b"))
    assert not sqs_verdict(compile_pattern({**JSON_PATTERN, **NO_BODY}), record('{"code": "BBBB"}', kind="b"))


def test_one_of_several_patterns_keeps_a_message_and_none_keep_all() -> None:
    patterns = [compile_pattern(TEXT_PATTERN), compile_pattern(JSON_PATTERN)]
    assert [True, True, False] == [kept(patterns, record(body)) for body in ("yes", '{"code": "BBBB"}', "no")]
    assert kept([], record("no"))


def test_the_record_is_left_as_it_was() -> None:
    one = record('{"code": "BBBB"}')
    assert sqs_verdict(compile_pattern(JSON_PATTERN), one)
    assert record('{"code": "BBBB"}') == one
