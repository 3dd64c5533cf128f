"""Event patterns: what matches, what is refused and where, and moto's matcher as oracle where it says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.events.models import EventPattern

from glowplug.runtime.errors import InvalidPattern
from glowplug.runtime.events.patterns import DEPTH, compile_pattern

EVENT: dict[str, Any] = {
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "time": "2017-10-02T16:24:49Z",
    "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-0", "second"],
    "detail": {
        "c-count": 5,
        "x-limit": 301.8,
        "source-ip": "10.0.0.33",
        "ip6": "2001:db8::1",
        "state": "running",
        "nothing": None,
        "empty": "",
        "yes": True,
        "none": [],
        "path": "dir/lib/a*b\\c.png",
        "matrix": [[1, 2], [3, [4]]],
        "object": {"inner": 1},
    },
    "employees": [
        {"first": "Anna", "last": "Smith"},
        [{"first": "Peter", "last": "Jones", "middle": "K", "tags": ["x", "y"]}],
    ],
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({}, True),
        ({"source": ["aws.ec2"]}, True),
        ({"source": ["AWS.ec2"]}, False),
        ({"source": ["aws.s3", "aws.ec2"]}, True),
        ({"source": ["aws.ec2"], "detail": {"state": ["stopped"]}}, False),
        ({"resources": ["second"]}, True),
        ({"resources": ["third"]}, False),
        ({"source": {"deeper": ["aws.ec2"]}}, False),
        ({"detail": ["running"]}, False),
        # values and their types
        ({"detail": {"nothing": [None]}}, True),
        ({"detail": {"nothing": [""]}}, False),
        ({"detail": {"empty": [""]}}, True),
        ({"detail": {"empty": [None]}}, False),
        ({"detail": {"missing": [None]}}, False),
        ({"detail": {"c-count": [5.0]}}, True),
        ({"detail": {"x-limit": [3.018e2]}}, True),
        ({"detail": {"c-count": ["5"]}}, False),
        ({"detail": {"yes": [True]}}, True),
        ({"detail": {"yes": [1]}}, False),
        ({"detail": {"yes": ["true"]}}, False),
        ({"detail": {"matrix": [4]}}, True),
        ({"detail": {"matrix": [5]}}, False),
        # prefix, suffix, case
        ({"time": [{"prefix": "2017-10-02"}]}, True),
        ({"time": [{"prefix": "2018"}]}, False),
        ({"detail": {"c-count": [{"prefix": "5"}]}}, False),
        ({"source": [{"suffix": "ec2"}]}, True),
        ({"source": [{"suffix": "EC2"}]}, False),
        ({"source": [{"prefix": {"equals-ignore-case": "AWS."}}]}, True),
        ({"source": [{"suffix": {"equals-ignore-case": "EC2"}}]}, True),
        ({"source": [{"prefix": {"equals-ignore-case": "WS."}}]}, False),
        ({"source": [{"suffix": {"equals-ignore-case": "EC"}}]}, False),
        (
            {"detail": {"c-count": [{"prefix": {"equals-ignore-case": "5"}}, {"suffix": {"equals-ignore-case": "5"}}]}},
            False,
        ),
        ({"detail": {"c-count": [{"suffix": "5"}, {"equals-ignore-case": "5"}]}}, False),
        ({"source": [{"equals-ignore-case": "Aws.Ec2"}]}, True),
        ({"source": [{"equals-ignore-case": "Aws"}]}, False),
        # wildcard
        ({"source": [{"wildcard": "aws.*"}]}, True),
        ({"source": [{"wildcard": "*"}]}, True),
        ({"source": [{"wildcard": "a*s*2"}]}, True),
        ({"source": [{"wildcard": "aws.ec2*"}]}, True),
        ({"source": [{"wildcard": "aws.ec2.*"}]}, False),
        ({"source": [{"wildcard": "*aws.ec2aws.ec2*"}]}, False),
        ({"source": [{"wildcard": "aws.ec*c2"}]}, False),  # the ends must not overlap
        ({"detail": {"path": [{"wildcard": "*/lib/*"}]}}, True),
        ({"detail": {"path": [{"wildcard": "*a\\*b\\\\c.png"}]}}, True),
        ({"detail": {"path": [{"wildcard": "*a\\*\\*b*"}]}}, False),
        ({"detail": {"c-count": [{"wildcard": "*"}]}}, False),
        # anything-but
        ({"detail": {"state": [{"anything-but": "initializing"}]}}, True),
        ({"detail": {"state": [{"anything-but": "running"}]}}, False),
        ({"detail": {"state": [{"anything-but": ["stopped", "running"]}]}}, False),
        ({"detail": {"x-limit": [{"anything-but": [100, 200]}]}}, True),
        ({"detail": {"c-count": [{"anything-but": 5}]}}, False),
        ({"detail": {"c-count": [{"anything-but": "5"}]}}, True),
        ({"detail": {"nothing": [{"anything-but": "x"}]}}, True),
        ({"detail": {"missing": [{"anything-but": "x"}]}}, False),
        ({"detail": {"object": [{"anything-but": "x"}]}}, False),
        ({"detail": {"state": [{"anything-but": {"prefix": "run"}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"prefix": ["init", "stop"]}}]}}, True),
        ({"detail": {"state": [{"anything-but": {"suffix": "ing"}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"equals-ignore-case": ["RUNNING"]}}]}}, False),
        ({"detail": {"path": [{"anything-but": {"wildcard": "*/lib/*"}}]}}, False),
        ({"detail": {"c-count": [{"anything-but": {"prefix": "5"}}]}}, True),
        ({"resources": [{"anything-but": "second"}]}, True),
        # numeric
        ({"detail": {"c-count": [{"numeric": [">", 0, "<=", 5]}]}}, True),
        ({"detail": {"c-count": [{"numeric": [">=", 0, "<", 5]}]}}, False),
        ({"detail": {"x-limit": [{"numeric": ["=", 3.018e2]}]}}, True),
        ({"detail": {"state": [{"numeric": ["<", 10]}]}}, False),
        ({"detail": {"yes": [{"numeric": ["=", 1]}]}}, False),
        ({"detail": {"c-count": [{"numeric": ["<", 10**400]}]}}, True),
        # cidr
        ({"detail": {"source-ip": [{"cidr": "10.0.0.0/24"}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.0.77/24"}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.1.0/24"}]}}, False),
        ({"detail": {"ip6": [{"cidr": "2001:db8::/32"}]}}, True),
        ({"detail": {"ip6": [{"cidr": "10.0.0.0/8"}]}}, False),
        ({"detail": {"state": [{"cidr": "10.0.0.0/8"}]}}, False),
        ({"detail": {"c-count": [{"cidr": "0.0.0.0/0"}]}}, False),
        # exists
        ({"detail": {"c-count": [{"exists": True}]}}, True),
        ({"detail": {"c-count": [{"exists": False}]}}, False),
        ({"detail": {"missing": [{"exists": False}]}}, True),
        ({"detail": {"missing": [{"exists": True}]}}, False),
        ({"detail": {"nothing": [{"exists": True}]}}, True),
        ({"detail": {"object": [{"exists": False}]}}, True),
        ({"detail": {"object": [{"exists": True}]}}, False),
        ({"detail": {"none": [{"exists": False}]}}, True),
        ({"detail": {"none": [{"exists": True}]}}, False),
        ({"no": {"such": {"field": [{"exists": False}]}}}, True),
        ({"source": {"below": [{"exists": False}]}}, True),
        ({"detail": {"state": [{"exists": False}, "running"]}}, True),
        ({"detail": {"missing": [{"exists": False}, "running"]}}, True),
        ({"detail": {"state": [{"exists": False}, "stopped"]}}, False),
        # $or
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [5]}}]}, True),
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [6]}}]}, False),
        ({"source": ["x"], "$or": [{"source": ["aws.ec2"]}, {"time": ["y"]}]}, False),
        ({"detail": {"$or": [{"state": ["x"]}, {"yes": [True], "$or": [{"empty": [""]}, {"empty": ["z"]}]}]}}, True),
        ({"$or": {"source": ["aws.ec2"]}}, False),  # a field of that name
        ({"$or": [{"prefix": "a"}, {"suffix": "b"}]}, False),  # likewise
        # lists of objects
        ({"employees": {"first": ["Anna"]}}, True),
        ({"employees": {"first": ["Anna"], "last": ["Jones"]}}, False),
        ({"employees": {"first": ["Peter"], "last": ["Jones"], "tags": ["y"]}}, True),
        ({"employees": {"first": ["Anna"], "middle": [{"exists": False}]}}, True),
        ({"employees": {"first": ["Peter"], "middle": [{"exists": False}]}}, False),
        ({"employees": {"middle": [{"exists": False}]}}, False),
        ({"employees": {"salary": [{"exists": False}]}}, True),
        ({"employees": {"$or": [{"first": ["x"]}, {"last": ["Jones"]}], "first": ["Anna"]}}, False),
    ],
)
def test_matching(pattern: dict[str, Any], expected: bool) -> None:
    assert expected == compile_pattern(json.dumps(pattern)).matches(EVENT)
    assert expected == compile_pattern(pattern).matches(EVENT)


@pytest.mark.parametrize(
    ("pattern", "place", "problem"),
    [
        ("", "", "not JSON"),
        ("{", "", "not JSON"),
        ("[]", "", "has to be an object"),
        ('"x"', "", "has to be an object"),
        ('{"a": [NaN]}', "", "NaN is no JSON number"),
        ('{"a": [1e999]}', "a[0]", "too large"),
        ('{"a": "x"}', "a", "a list of what matches, or an object"),
        ('{"a": {"b": null}}', "a.b", "a list of what matches"),
        ('{"a": []}', "a", "an empty list"),
        ('{"a": {}}', "a", "an empty object"),
        ('{"a": ["x", []]}', "a[1]", "a list in a list"),
        ('{"a": [{}]}', "a[0]", "one operator"),
        ('{"a": [{"prefix": "x", "suffix": "y"}]}', "a[0]", "one operator"),
        ('{"a": {"b": ["x", {"starts": "y"}]}}', "a.b[1].starts", "no such operator; there are prefix"),
        ('{"a": [{"prefix": 1}]}', "a[0].prefix", "takes a string"),
        ('{"a": [{"prefix": ["x"]}]}', "a[0].prefix", "takes a string"),
        ('{"a": [{"suffix": {"x": "y"}}]}', "a[0].suffix", "equals-ignore-case alone"),
        ('{"a": [{"equals-ignore-case": null}]}', "a[0].equals-ignore-case", "takes a string"),
        ('{"a": [{"wildcard": "a**b"}]}', "a[0].wildcard", "two '*' in a row"),
        ('{"a": [{"wildcard": "a\\\\b"}]}', "a[0].wildcard", "a backslash stands before"),
        ('{"a": [{"wildcard": "a\\\\"}]}', "a[0].wildcard", "a backslash stands before"),
        ('{"a": [{"anything-but": []}]}', "a[0].anything-but", "takes a string, a number"),
        ('{"a": [{"anything-but": ["x", 1]}]}', "a[0].anything-but", "takes a string, a number"),
        ('{"a": [{"anything-but": true}]}', "a[0].anything-but", "takes a string, a number"),
        ('{"a": [{"anything-but": {"numeric": [">", 1]}}]}', "a[0].anything-but.numeric", "no other operator"),
        ('{"a": [{"anything-but": {"prefix": ""}}]}', "a[0].anything-but.prefix", "not empty"),
        ('{"a": [{"anything-but": {"prefix": []}}]}', "a[0].anything-but.prefix", "excludes nothing"),
        ('{"a": [{"anything-but": {"prefix": "a", "suffix": "b"}}]}', "a[0].anything-but", "one operator"),
        ('{"a": [{"numeric": []}]}', "a[0].numeric", "one comparison"),
        ('{"a": [{"numeric": [">", 1, "<"]}]}', "a[0].numeric", "one comparison"),
        ('{"a": [{"numeric": ["!=", 1]}]}', "a[0].numeric", "'!=' is no comparison"),
        ('{"a": [{"numeric": [">", "1"]}]}', "a[0].numeric", "'1' is no number"),
        ('{"a": [{"numeric": [">", true]}]}', "a[0].numeric", "True is no number"),
        ('{"a": [{"numeric": ["<", 5, ">", 1]}]}', "a[0].numeric", "lower end first"),
        ('{"a": [{"numeric": [">", 5, "<", 1]}]}', "a[0].numeric", "less than the upper one"),
        ('{"a": [{"exists": "yes"}]}', "a[0].exists", "true or false"),
        ('{"a": [{"cidr": "10.0.0.0"}]}', "a[0].cidr", "length of the prefix"),
        ('{"a": [{"cidr": "10.0.0.0/33"}]}', "a[0].cidr", "no block of addresses"),
        ('{"a": [{"cidr": 10}]}', "a[0].cidr", "takes a string"),
        ('{"$or": [{"a": ["x"]}, {"b": "y"}]}', "$or[1].b", "a list of what matches"),
        ('{"$or": [{"a": ["x"]}]}', "$or[0].a", "no such operator"),
        ('{"$or": [{"a": ["x"]}, {}]}', "$or[1]", "an empty object"),
    ],
)
def test_an_error_names_the_place(pattern: str, place: str, problem: str) -> None:
    with pytest.raises(InvalidPattern) as raised:
        compile_pattern(pattern)
    assert (place, True) == (raised.value.place, problem in raised.value.problem), str(raised.value)


def nested(levels: int) -> str:
    return '{"a":' * levels + '["x"]' + "}" * levels


def test_a_pattern_is_refused_before_it_is_too_deep_to_match() -> None:
    assert not compile_pattern(nested(DEPTH)).matches({})
    for levels in (DEPTH + 2, 100_000):
        with pytest.raises(InvalidPattern, match="too deeply"):
            compile_pattern(nested(levels))


def test_an_event_of_any_depth_is_matched() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    assert compile_pattern({"a": ["x"]}).matches({"a": deep})
    assert not compile_pattern({"a": {"b": ["x"]}}).matches({"a": deep})


def test_a_wildcard_takes_no_time_for_a_text_that_is_made_for_backtracking() -> None:
    pattern = compile_pattern({"a": [{"wildcard": "*a" * 500 + "*c*b"}]})
    assert not pattern.matches({"a": "a" * 200_000 + "b"})


NAMES = st.sampled_from("abc")
TEXTS = st.text("ab*.", max_size=4)
NUMBERS = st.integers(-3, 3)
SCALARS = st.one_of(TEXTS, NUMBERS, st.none())
VALUES = st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=3))
EVENTS = st.recursive(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.one_of(VALUES, inner), min_size=1, max_size=3),
    max_leaves=6,
)
PLAIN = TEXTS.filter(lambda text: text and "*" not in text)
ENTRIES = st.one_of(
    SCALARS,
    TEXTS.map(lambda text: {"prefix": text}),
    TEXTS.map(lambda text: {"suffix": text}),
    TEXTS.map(lambda text: {"equals-ignore-case": text.upper()}),
    TEXTS.filter(lambda text: "**" not in text).map(lambda text: {"wildcard": text}),
    TEXTS.map(lambda text: {"anything-but": text}),
    st.lists(NUMBERS, min_size=1, max_size=2).map(lambda some: {"anything-but": some}),
    PLAIN.map(lambda text: {"anything-but": {"prefix": text}}),
    NUMBERS.map(lambda number: {"numeric": [">=", number, "<", number + 2]}),
    st.booleans().map(lambda there: {"exists": there}),
)
LEAVES = st.lists(ENTRIES, min_size=1, max_size=2)
PATTERNS = st.recursive(
    st.dictionaries(NAMES, LEAVES, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.dictionaries(NAMES, st.one_of(LEAVES, inner), min_size=1, max_size=2),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: {"$or": some}),
    ),
    max_leaves=5,
)


@given(PATTERNS, EVENTS)
def test_moto_agrees(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """On events without lists of objects, booleans and empty lists, which it sees otherwise."""
    theirs = EventPattern.load(json.dumps(pattern)).matches_event(event)  # type: ignore[arg-type]
    assert theirs == compile_pattern(pattern).matches(event)


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3) | st.just("$or"), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(ANY_JSON, st.dictionaries(st.text(max_size=3), ANY_JSON, max_size=3))
def test_anything_is_a_pattern_or_an_invalid_one_and_matches_or_does_not(pattern: Any, event: dict[str, Any]) -> None:
    try:
        compiled = compile_pattern(json.dumps(pattern))
    except InvalidPattern:
        return
    assert compiled.matches(event) in (True, False)


@given(PATTERNS, EVENTS, EVENTS)
def test_a_list_of_one_object_is_that_object_and_more_objects_never_hide_a_match(
    pattern: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    compiled = compile_pattern({"x": pattern})
    alone = compiled.matches({"x": one})
    assert alone == compiled.matches({"x": [one]}) == compiled.matches({"x": [[one]]})
    both = compiled.matches({"x": [one, other]})
    assert both == compiled.matches({"x": [other, one]})
    assert both in (alone or compiled.matches({"x": other}), alone and compiled.matches({"x": other}))
