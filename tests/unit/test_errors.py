"""The exception tree: drawn, complete, and each class ready for the edge."""

from __future__ import annotations

import json
import re

import pytest

from glowplug.cache import errors as cache_errors
from glowplug.runtime import errors
from glowplug.snapshot import errors as snapshot_errors


def tree(base: type[Exception]) -> list[type[Exception]]:
    """Return every class below ``base`` that was defined beside it."""
    found = []
    for child in base.__subclasses__():
        if child.__module__ == base.__module__:
            found += [child, *tree(child)]
    return found


@pytest.mark.parametrize(
    ("module", "base"),
    [
        (errors, errors.GlowplugError),
        (cache_errors, cache_errors.CacheError),
        (snapshot_errors, snapshot_errors.SnapshotError),
    ],
    ids=["runtime", "cache", "snapshot"],
)
def test_the_docstring_draws_every_class(module: object, base: type[Exception]) -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", module.__doc__ or ""))
    assert drawn == {cls.__name__ for cls in tree(base)}


@pytest.mark.parametrize("cls", tree(errors.GlowplugError), ids=lambda cls: cls.__name__)
def test_every_class_carries_status_code_and_message_key(cls: type[errors.GlowplugError]) -> None:
    assert 200 <= cls.status < 600
    assert re.fullmatch(r"\w+Exception", cls.code)
    assert cls.message_key in ("message", "Message")
    if issubclass(cls, errors.FunctionFault):
        assert (200, True) == (cls.status, bool(cls.error_type))


def test_platform_errors_put_the_type_first_and_have_no_stack_trace() -> None:
    body = errors.HandlerTimeout("RequestId: r Error: Task timed out after 3.00 seconds").body()
    assert body.startswith(b'{"errorType":"Sandbox.Timedout","errorMessage":')
    assert {"errorType", "errorMessage"} == set(json.loads(body))


def test_import_errors_have_an_empty_request_id() -> None:
    body = json.loads(errors.LoadFailed("ValueError", "boom", ["  File …"]).body())
    assert {"errorMessage": "boom", "errorType": "ValueError", "requestId": "", "stackTrace": ["  File …"]} == body
