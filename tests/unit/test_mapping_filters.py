"""FilterCriteria of a mapping are read when it is made."""

from __future__ import annotations

import pytest

from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.management.mappings import check_filters


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{", "Invalid filter pattern definition. it is not JSON"),
        (
            '{"body": {"price": [{"numeric": [">", "1"]}]}}',
            "Invalid filter pattern definition. body.price[0].numeric: '1' is",
        ),
        (
            '{"body": [{"starts-with": "x"}]}',
            "Invalid filter pattern definition. body[0].starts-with: there is no such operator",
        ),
    ],
)
def test_a_filter_that_is_no_pattern_is_refused_in_aws_s_words_and_with_the_place(pattern: str, message: str) -> None:
    good = {"Pattern": '{"body": {"kind": ["a"]}}'}
    with pytest.raises(InvalidParameter) as raised:
        check_filters({"FilterCriteria": {"Filters": [good, {"Pattern": pattern}]}})
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "criteria", [None, {}, {"Filters": []}, {"Filters": [{"Pattern": '{"body": [{"exists": true}]}'}]}]
)
def test_criteria_that_are_taken(criteria: object) -> None:
    check_filters({"FilterCriteria": criteria})
