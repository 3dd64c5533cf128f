"""Python's logging in Lambda's text format."""

from __future__ import annotations

import logging

import pytest

from glowplug.runtime.worker.requestlog import RequestLog


def test_a_record_has_level_time_request_and_message_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    handler = RequestLog()
    handler.request_id = "r-1"
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "told %s", (1,), None)
    record.created, record.msecs = 1767225600.007, 7.0

    handler.emit(record)

    assert "[ERROR]\t2026-01-01T00:00:00.007Z\tr-1\ttold 1\n" == capsys.readouterr().out


def test_an_exception_follows_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    handler = RequestLog()
    try:
        raise ValueError("boom")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)

    handler.emit(logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", None, info))

    printed = capsys.readouterr().out
    assert "\t\tfailed\nTraceback (most recent call last):\n" in printed
    assert printed.endswith("ValueError: boom\n")
