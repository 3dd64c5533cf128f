"""Python's logging in Lambda's two formats."""

from __future__ import annotations

import json
import logging

import pytest

from glowplug.runtime.worker.faults import Fault
from glowplug.runtime.worker.requestlog import JsonFormatter, RequestLog, install, text_formatter


def test_a_record_has_level_time_request_and_message_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    handler = RequestLog(text_formatter())
    handler.request_id = "r-1"
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "told %s", (1,), None)
    record.created, record.msecs = 1767225600.007, 7.0

    handler.emit(record)

    assert "[ERROR]\t2026-01-01T00:00:00.007Z\tr-1\ttold 1\n" == capsys.readouterr().out


def test_an_exception_follows_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    handler = RequestLog(text_formatter())
    try:
        raise ValueError("boom")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)

    handler.emit(logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", None, info))

    printed = capsys.readouterr().out
    assert "\t\tfailed\nTraceback (most recent call last):\n" in printed
    assert printed.endswith("ValueError: boom\n")


def json_of(**fields: object) -> dict[str, object]:
    values = {"levelname": "INFO", "name": "mine", "created": 1767225600.007, "aws_request_id": "r-1", **fields}
    found: dict[str, object] = json.loads(JsonFormatter().format(logging.makeLogRecord(values)))
    return found


def test_json_has_lambdas_keys_and_the_authors() -> None:
    about = {"timestamp": "2026-01-01T00:00:00Z", "level": "INFO", "logger": "mine", "requestId": "r-1"}
    assert about | {"message": "told 1"} == json_of(msg="told %s", args=(1,))
    assert about | {"message": {"a": 1}} == json_of(msg={"a": 1})
    assert about | {"message": "x", "order": "{1}"} == json_of(msg="x", order={1}), "no JSON has sets"


def test_json_of_an_exception() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    found = json_of(msg="failed", exc_info=info, pathname="/var/task/x.py", funcName="f", lineno=3)
    assert ("ValueError", "boom", "/var/task/x.py:f:3") == (
        found["errorType"],
        found["errorMessage"],
        found["location"],
    )
    assert "test_json_of_an_exception" in str(found["stackTrace"])


@pytest.mark.parametrize(
    ("given", "level"), [("", logging.WARNING), ("INFO", logging.INFO), ("TRACE", logging.DEBUG), ("FATAL", 50)]
)
def test_the_level_is_the_functions(monkeypatch: pytest.MonkeyPatch, given: str, level: int) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.WARNING)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setenv("AWS_LAMBDA_LOG_FORMAT", "JSON")
    monkeypatch.setenv("AWS_LAMBDA_LOG_LEVEL", given)
    handler = install()
    assert (level, JsonFormatter) == (root.level, type(handler.formatter))


def test_an_unhandled_error_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_LAMBDA_LOG_FORMAT", "JSON")
    Fault("ValueError", "boom", ["  File …\n"]).log("r-1")
    printed = json.loads(capsys.readouterr().out)
    assert ("ERROR", "boom", "ValueError", "r-1") == (
        printed["level"], printed["errorMessage"], printed["errorType"], printed["requestId"],
    )  # fmt: skip
