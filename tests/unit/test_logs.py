"""Lambda's log lines to the character, and files that never hold a request up."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.logs import FLUSH_S, Logs, of_request
from glowplug.runtime.routing.ports import InvocationLog
from glowplug.runtime.testing import ManualClock

REQUEST = "8f3c0d6e-0b1a-4d5c-9e8f-000000000001"


def lines(request_id: str = REQUEST, *, output: bytes = b"", **changes: object) -> InvocationLog:
    given = {"version": "$LATEST", "duration_ms": 12.341, "memory_mb": 128, "max_memory_mb": 45, **changes}
    return InvocationLog(request_id, output=output, **given)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def logs(tmp_path: Path, clock: ManualClock) -> Logs:
    return Logs(tmp_path, max_bytes=10_000, region="eu-west-1", clock=clock)


def report_of(logs: Logs, **changes: Any) -> str:
    return logs.of("f").invocation(lines(**changes)).decode().splitlines(keepends=True)[-1]


def test_an_invocation_is_start_output_end_report_with_real_tabs(logs: Logs) -> None:
    assert (
        logs.of("f").invocation(lines(output=b"hello\nworld"))
        == (
            f"START RequestId: {REQUEST} Version: $LATEST\n"
            "hello\n"
            "world\n"
            f"END RequestId: {REQUEST}\n"
            f"REPORT RequestId: {REQUEST}\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\t"
            "Max Memory Used: 45 MB\t\n"
        ).encode()
    )


def test_the_first_report_after_an_import_has_its_duration_and_bills_it(logs: Logs) -> None:
    assert report_of(logs, init_ms=250.12).endswith("Max Memory Used: 45 MB\tInit Duration: 250.12 ms\t\n")
    assert "Billed Duration: 264 ms\t" in report_of(logs, init_ms=250.12)


def test_the_first_report_of_a_forked_instance_has_its_restore_duration(logs: Logs) -> None:
    ending = "45 MB\tRestore Duration: 18.30 ms\tBilled Restore Duration: 19 ms\t\n"
    assert report_of(logs, restore_ms=18.3).endswith(ending)


def test_a_timeout_adds_its_line_and_its_status(logs: Logs) -> None:
    text = logs.of("f").invocation(lines(status="timeout", timeout_s=3.0)).decode()
    assert f"\n2026-01-01T00:00:00.000Z {REQUEST} Task timed out after 3.00 seconds\n\nEND " in text
    assert text.endswith("Max Memory Used: 45 MB\tStatus: timeout\t\n")


def test_a_crash_is_named_in_the_report(logs: Logs) -> None:
    report = report_of(logs, status="error", error_type="Runtime.ExitError")
    assert report.endswith("45 MB\tStatus: error\tError Type: Runtime.ExitError\t\n")


async def test_starts_have_the_lines_of_snapstart(logs: Logs) -> None:
    log = logs.of("f")
    log.init_start("python3.11")
    log.output(b"imported")
    log.output(b"")
    log.init_report(9.996, status="error", error_type="Runtime.ImportModuleError")
    log.restore_start("python3.11")
    log.restore_report(18.3)
    init, output, report, restore, restored = (await logs.read("f")).splitlines()
    runtime = (
        r"Runtime Version: python:3\.11\.v\d+\tRuntime Version ARN: arn:aws:lambda:eu-west-1::runtime:[0-9a-f]{64}"
    )
    assert re.fullmatch(f"INIT_START {runtime}", init)
    assert re.fullmatch(f"RESTORE_START {runtime}", restore)
    assert ("imported", "RESTORE_REPORT Restore Duration: 18.30 ms\t") == (output, restored)
    expected = (
        "INIT_REPORT Init Duration: 10.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ImportModuleError\t"
    )
    assert expected == report


async def test_lines_are_written_together_and_not_at_once(logs: Logs, clock: ManualClock, tmp_path: Path) -> None:
    for number in range(3):
        logs.of("f").invocation(lines(f"r{number}"))
    assert [] == os.listdir(tmp_path)
    await clock.advance(FLUSH_S)
    assert 3 == (tmp_path / "f.log").read_text().count("REPORT")
    assert "FunctionLog(f.log, buffered=0, lost=0)" == repr(logs.of("f"))


async def test_close_writes_what_is_left(logs: Logs, tmp_path: Path) -> None:
    logs.of("f").output(b"last")
    logs.close()
    assert "last\n" == (tmp_path / "f.log").read_text()


async def test_a_file_over_its_limit_makes_room_for_a_new_one(logs: Logs, tmp_path: Path) -> None:
    for number in range(3):
        logs.of("f").output(f"{number}".encode() * 6000)
        logs.of("f").flush()
    assert {"f.log": 6001, "f.log.1": 12002} == {
        name: os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path)
    }
    assert ["0" * 6000, "1" * 6000, "2" * 6000] == (await logs.read("f")).split()


async def test_reading_finds_one_request_or_the_last_lines(logs: Logs) -> None:
    for number in range(12):
        logs.of("f").invocation(lines(f"r{number}", output=f"from {number}\n".encode()))
    found = (await logs.read("f", request_id="r1")).splitlines()
    assert ("START RequestId: r1 Version: $LATEST", "from 1", 4) == (found[0], found[1], len(found))
    assert ["from 11", "END RequestId: r11"] == (await logs.read("f", last=3)).splitlines()[:2]
    assert ("", "", "") == (
        await logs.read("f", request_id="nobody"),
        await logs.read("f", last=0),
        await logs.read("no-such-function"),
    )


async def test_a_log_that_cannot_be_written_costs_the_lines_only(
    logs: Logs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "f.log").mkdir()
    for _ in range(2):
        logs.of("f").output(b"lost")
        logs.of("f").flush()
    assert (10, 1) == (logs.of("f").lost_bytes, caplog.text.count("cannot be written"))
    (tmp_path / "f.log").rmdir()
    logs.of("f").output(b"kept")
    assert "kept\n" == await logs.read("f")


def test_what_a_handler_prints_does_not_pass_for_another_request() -> None:
    printed = b"say START RequestId: other $LATEST\n"
    text = b"START RequestId: r1 Version: 1\n" + printed + b"END RequestId: r1\nREPORT RequestId: r1\tx\t\nnext\n"
    assert b"" == of_request(text, "other")
    assert text.removesuffix(b"next\n") == of_request(text, "r1")


def test_a_request_that_has_not_ended_is_shown_as_far_as_it_got() -> None:
    assert b"START RequestId: r1 Version: 1\nhello\n" == of_request(b"x\nSTART RequestId: r1 Version: 1\nhello\n", "r1")
