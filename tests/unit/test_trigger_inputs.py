"""What a target gets of an event: everything, a constant, a part, or a filled template."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.errors import DefinitionError, InvalidEntry
from glowplug.runtime.events.inputs import About, Input, input_of
from glowplug.runtime.reader import Reader

ABOUT = About("arn:aws:events:us-east-1:000000000000:rule/orders", "orders", datetime(2026, 1, 1, tzinfo=UTC))
EVENT: dict[str, Any] = {
    "source": "shop", "resources": ["one", "two"], "detail": {"name": 'a "b"', "count": 3, "deep": {"x": None}},
}  # fmt: skip


def read(**fields: Any) -> Input:
    return input_of(Reader(fields, "Targets.0"))


def got(**fields: Any) -> Any:
    return json.loads(read(**fields).payload(EVENT, ABOUT))


def transformed(template: str, **paths: str) -> Any:
    return got(InputTransformer={"InputPathsMap": paths, "InputTemplate": template})


def test_without_anything_the_target_gets_the_event() -> None:
    assert got() == EVENT


def test_a_constant_is_sent_as_it_was_written() -> None:
    assert b'{"a":  1}' == read(Input='{"a":  1}').payload(EVENT, ABOUT)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", EVENT),
        ("$.detail.count", 3),
        ("$.resources[1]", "two"),
        ("$['source']", "shop"),
        ("$.detail.deep.x", None),
        ("$.detail.count.none", None),
        ("$.resources[9]", None),
        ("$.source[0]", None),
    ],
)
def test_a_path_names_one_place_and_null_where_that_is_not(path: str, value: Any) -> None:
    assert value == got(InputPath=path)


def test_a_template_takes_values_as_json_and_inside_strings_as_text() -> None:
    template = '{"count": <count>, "name": <name>, "words": "it is <name>, <count> times of <deep>"}'
    filled = transformed(template, count="$.detail.count", name="$.detail.name", deep="$.detail.deep")
    assert filled == {"count": 3, "name": 'a "b"', "words": 'it is a "b", 3 times of {"x":null}'}
    assert "from shop" == transformed('"from <s>"', s="$.source")


def test_an_escaped_quote_does_not_end_a_string() -> None:
    assert 'say "shop" or \\3' == transformed(r'"say \"<s>\" or \\<n>"', s="$.source", n="$.detail.count")


def test_a_template_may_name_the_rule_and_the_event() -> None:
    filled = transformed(
        '{"rule": "<aws.events.rule-name>", "arn": <aws.events.rule-arn>, "at": <aws.events.event.ingestion-time>, '
        '"event": <aws.events.event>, "all": <aws.events.event.json>, "kept": "<unknown>"}'
    )
    assert {"source": "shop", "resources": ["one", "two"]} == filled["event"]
    assert (EVENT, "orders", ABOUT.rule_arn) == (filled["all"], filled["rule"], filled["arn"])
    assert ("2026-01-01T00:00:00Z", "<unknown>") == (filled["at"], filled["kept"])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"Input": "{", }, "Targets.0.Input: is not JSON"),
        ({"Input": {"a": 1}}, "Targets.0.Input: must be a string"),
        ({"Input": "1", "InputPath": "$"}, "Targets.0.InputPath: Input is given too"),
        ({"InputPath": "$.a[*]"}, "Targets.0.InputPath: '$.a[*]' is no path to one place"),
        ({"InputPath": "detail"}, "Targets.0.InputPath: 'detail' is no path"),
        ({"InputTransformer": {"InputPathsMap": {}}}, "Targets.0.InputTransformer.InputTemplate: must be a string"),
        ({"InputTransformer": {"InputTemplate": "hello <a>"}}, "InputTemplate: is not JSON once its placeholders"),
        (
            {"InputTransformer": {"InputPathsMap": {"aws.x": "$"}, "InputTemplate": "1"}},
            "InputPathsMap: 'aws.x' is no name of a placeholder",
        ),
        ({"InputTransformer": {"InputTemplate": "1", "Paths": 1}}, "InputTransformer.Paths: unknown key"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_with_its_place(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(**fields)
    assert problem in str(caught.value)


def test_a_filled_template_that_is_not_json_is_refused_when_it_is_filled() -> None:
    made = read(InputTransformer={"InputTemplate": '{"a": <aws.events.rule-name>}', "InputPathsMap": {}})
    assert b'{"a": "orders"}' == made.payload(EVENT, ABOUT)
    broken = read(InputTransformer={"InputPathsMap": {"k": "$.detail.name"}, "InputTemplate": '{"a": 1<k>}'})
    with pytest.raises(InvalidEntry):  # 10 is a number, 1"a" is not
        broken.payload(EVENT, ABOUT)


@given(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_whatever_is_filled_in_the_result_is_json_with_the_same_value(text: str, value: Any) -> None:
    made = read(InputTransformer={"InputPathsMap": {"t": "$.t", "v": "$.v"},
                                  "InputTemplate": '{"t": <t>, "s": "<t>", "v": <v>}'})  # fmt: skip
    assert json.loads(made.payload({"t": text, "v": value}, ABOUT)) == {"t": text, "s": text, "v": value}
