"""The comparison with recorded answers of AWS notices what it should."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from replays.matching import Matcher

ONE, OTHER = "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"
DIGEST = "335zrcQMDoybVGs/m8XMKNtX4X1j57SjQd/kHvTAo70="
TIME = "2026-01-02T03:04:05.678+0000"

EQUAL: list[tuple[Any, Any]] = [
    ({"RevisionId": "<uuid:1>", "Also": "<uuid:1>"}, {"RevisionId": ONE, "Also": ONE}),
    ({"RevisionId": "<uuid:1>", "Also": "<uuid:2>"}, {"RevisionId": ONE, "Also": OTHER}),
    ({"Name": "<function-name:1>", "Also": "<resource:1>"}, {"Name": "a", "Also": "a"}),
    ("arn:<partition>:lambda:<region>:1:function:<function-name:1>", "arn:aws:lambda:us-east-1:1:function:f"),
    ({"LastModified": "date"}, {"LastModified": TIME}),
    ({"CreationDateTime": "datetime"}, {"CreationDateTime": datetime.datetime(2026, 1, 2)}),
    ({"CodeSize": "<code-size>"}, {"CodeSize": 12}),
    ({"CodeSha256": "<code-sha256:1>"}, {"CodeSha256": DIGEST}),
    ("'<a:len(3)>' is long", "'aaa' is long"),
]
UNEQUAL: list[tuple[Any, Any]] = [
    ({"RevisionId": "<uuid:1>", "Also": "<uuid:1>"}, {"RevisionId": ONE, "Also": OTHER}),
    ({"RevisionId": "<uuid:1>", "Also": "<uuid:2>"}, {"RevisionId": ONE, "Also": ONE}),
    ({"RevisionId": "<uuid:1>"}, {"RevisionId": "1"}),
    ({"Name": "<function-name:1>"}, {"Name": "two words"}),
    ("arn:<partition>:lambda:<region>:1", "arn:aws:lambda:eu-central-1:1"),
    ({"LastModified": "date"}, {"LastModified": "yesterday"}),
    ({"LastModified": "date"}, {"LastModified": datetime.datetime(2026, 1, 2)}),
    ({"LastModified": "date"}, {}),
    ({"CreationDateTime": "datetime"}, {"CreationDateTime": TIME}),
    ({"CodeSize": "<code-size>"}, {"CodeSize": "12"}),
    ({"CodeSize": "<code-size>"}, {"CodeSize": 0}),
    ({"CodeSize": "<code-size>"}, {}),
    ({"CodeSha256": "<code-sha256:1>"}, {"CodeSha256": ""}),
    ({"FunctionUrl": "lambda-url"}, {"FunctionUrl": "/_url/f/"}),
    ({"RuntimeVersionConfig": {"RuntimeVersionArn": "a"}}, {}),
    ({}, {"CodeSize": 1}),
    ({"Enabled": True}, {"Enabled": 1}),
    ([], ["more"]),
]


@pytest.mark.parametrize(("recorded", "answered"), EQUAL)
def test_what_stands_for_something_of_its_kind_is_equal(recorded: Any, answered: Any) -> None:
    assert [] == Matcher(partition="aws", region="us-east-1").differences(recorded, answered)


@pytest.mark.parametrize(("recorded", "answered"), UNEQUAL)
def test_every_difference_is_told(recorded: Any, answered: Any) -> None:
    assert 1 == len(Matcher(partition="aws", region="us-east-1").differences(recorded, answered))
