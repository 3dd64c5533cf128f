"""Error bodies, error lines and exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glowplug.runtime.worker.faults import Fault, HandlerNotFound, exit_status


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_body_has_lambdas_keys_in_lambdas_order() -> None:
    fault = Fault("ValueError", "boom é", ["  File ...\n"])

    assert ["errorMessage", "errorType", "requestId", "stackTrace"] == list(json.loads(fault.body("r-1")))
    assert '"boom é"'.encode() in fault.body("r-1")


def test_a_lone_surrogate_in_a_message_does_not_break_the_body() -> None:
    assert "a?b" == json.loads(Fault("E", "a\udc80b", []).body(""))["errorMessage"]


def test_fault_of_an_exception_names_class_message_and_frames() -> None:
    fault = Fault.of(raised(ValueError("boom")))

    assert ("ValueError", "boom") == (fault.error_type, fault.error_message)
    assert fault.stack_trace[-1].endswith("in raised\n    raise error\n"), "one line per frame, no carets"


def test_fault_of_a_handler_error_keeps_lambdas_type_and_no_frames() -> None:
    assert Fault("Runtime.HandlerNotFound", "absent", []) == Fault.of(raised(HandlerNotFound("absent")))


def test_a_given_type_moves_the_class_into_the_message() -> None:
    fault = Fault.of(raised(OSError("no")), "Runtime.BeforeSnapshotError")

    assert ("Runtime.BeforeSnapshotError", "OSError: no") == (fault.error_type, fault.error_message)


def test_an_exception_whose_text_raises_is_still_reported() -> None:
    assert "<Unprintable whose text raised RuntimeError>" == Fault.of(Unprintable()).error_message


def test_endless_recursion_makes_a_short_trace() -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()

    trace = "".join(Fault.of(caught.value).stack_trace)
    assert "Previous line repeated" in trace
    assert len(trace) < 4000


def test_log_is_one_line_joined_by_cr_with_hard_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    Fault("ValueError", "boom", ['  File "a.py", line 1, in f\n    g()\n']).log()

    assert (
        "[ERROR] ValueError: boom\rTraceback (most recent call last):\r"
        '\u00a0\u00a0File "a.py", line 1, in f\r\u00a0\u00a0\u00a0\u00a0g()\n'
    ) == capsys.readouterr().out


@pytest.mark.parametrize(("code", "status"), [(None, 0), (3, 3), (-1, 255), (True, 1)])
def test_exit_status(code: Any, status: Any) -> None:
    assert status == exit_status(SystemExit(code))


def test_exit_with_a_text_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == exit_status(SystemExit("why"))
    assert "why\n" == capsys.readouterr().err
