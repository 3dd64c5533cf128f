"""Lambda's log lines to the character, and files that never hold a request up."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.loglines import of_request
from glowplug.runtime.logs import FLUSH_S, Logs
from glowplug.runtime.routing.ports import InvocationLog
from glowplug.runtime.testing import ManualClock, a_spec

SPEC = a_spec()
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
    return logs.of(SPEC).invocation(lines(**changes)).decode().splitlines(keepends=True)[-1]


def test_an_invocation_is_start_output_end_report_with_real_tabs(logs: Logs) -> None:
    assert (
        logs.of(SPEC).invocation(lines(output=b"hello\nworld"))
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
    text = logs.of(SPEC).invocation(lines(status="timeout", notice="Task timed out after 3.00 seconds")).decode()
    assert f"\n2026-01-01T00:00:00.000Z {REQUEST} Task timed out after 3.00 seconds\n\nEND " in text
    assert text.endswith("Max Memory Used: 45 MB\tStatus: timeout\t\n")


def test_a_crash_is_named_in_the_report(logs: Logs) -> None:
    report = report_of(logs, status="error", error_type="Runtime.ExitError")
    assert report.endswith("45 MB\tStatus: error\tError Type: Runtime.ExitError\t\n")


async def test_starts_have_the_lines_of_snapstart(logs: Logs) -> None:
    log = logs.of(SPEC)
    log.init_start()
    log.output(b"imported")
    log.output(b"")
    log.init_report(9.996, status="error", error_type="Runtime.ImportModuleError")
    log.restore_start()
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
        logs.of(SPEC).invocation(lines(f"r{number}"))
    assert [] == os.listdir(tmp_path)
    await clock.advance(FLUSH_S)
    assert 3 == (tmp_path / "f.log").read_text().count("REPORT")
    assert "FunctionLog(LogFile(f.log, buffered=0, lost=0), TextLines)" == repr(logs.of(SPEC))


async def test_close_writes_what_is_left(logs: Logs, tmp_path: Path) -> None:
    logs.of(SPEC).output(b"last")
    logs.close()
    assert "last\n" == (tmp_path / "f.log").read_text()


async def test_a_file_over_its_limit_makes_room_for_a_new_one(logs: Logs, tmp_path: Path) -> None:
    for number in range(3):
        logs.of(SPEC).output(f"{number}".encode() * 6000)
        logs.of(SPEC).file.flush()
    assert {"f.log": 6001, "f.log.1": 12002} == {
        name: os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path)
    }
    assert ["0" * 6000, "1" * 6000, "2" * 6000] == (await logs.read("f")).split()


async def test_reading_finds_one_request_or_the_last_lines(logs: Logs) -> None:
    for number in range(12):
        logs.of(SPEC).invocation(lines(f"r{number}", output=f"from {number}\n".encode()))
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
        logs.of(SPEC).output(b"lost")
        logs.of(SPEC).file.flush()
    assert (10, 1) == (logs.of(SPEC).file.lost_bytes, caplog.text.count("cannot be written"))
    (tmp_path / "f.log").rmdir()
    logs.of(SPEC).output(b"kept")
    assert "kept\n" == await logs.read("f")


def test_what_a_handler_prints_does_not_pass_for_another_request() -> None:
    printed = b"say START RequestId: other $LATEST\n"
    text = b"START RequestId: r1 Version: 1\n" + printed + b"END RequestId: r1\nREPORT RequestId: r1\tx\t\nnext\n"
    assert b"" == of_request(text, "other")
    assert text.removesuffix(b"next\n") == of_request(text, "r1")


def test_a_request_that_has_not_ended_is_shown_as_far_as_it_got() -> None:
    assert b"START RequestId: r1 Version: 1\nhello\n" == of_request(b"x\nSTART RequestId: r1 Version: 1\nhello\n", "r1")


class TestJson:
    """LogFormat JSON: one object a line, from the level that is asked for."""

    def objects(self, logs: Logs, level: str = "INFO", **changes: Any) -> list[dict[str, Any]]:
        spec = a_spec(log_format="JSON", system_log_level=level)
        text = logs.of(spec).invocation(lines(output=b'{"mine": 1}', **changes)).decode()
        return [json.loads(line) for line in text.splitlines()]

    def test_an_invocation_is_start_output_report(self, logs: Logs) -> None:
        start, output, report = self.objects(logs, init_ms=250.12, restore_ms=None)
        assert {
            "time": "2025-12-31T23:59:59.987Z",
            "type": "platform.start",
            "record": {"requestId": REQUEST, "version": "$LATEST"},
        } == start
        assert {"mine": 1} == output
        metrics = {"durationMs": 12.341, "billedDurationMs": 264, "memorySizeMB": 128, "maxMemoryUsedMB": 45}
        assert {"requestId": REQUEST, "status": "success", "metrics": metrics | {"initDurationMs": 250.12}} == report[
            "record"
        ]
        assert ("2026-01-01T00:00:00.000Z", "platform.report") == (report["time"], report["type"])

    @pytest.mark.parametrize(
        ("level", "changes", "types"),
        [
            ("DEBUG", {}, ["start", "runtimeDone", "report"]),
            ("WARN", {}, []),
            ("WARN", {"failed": True}, ["runtimeDone", "report"]),
            ("INFO", {"failed": True}, ["start", "runtimeDone", "report"]),
        ],
    )
    def test_levels(self, logs: Logs, level: str, changes: dict[str, Any], types: list[str]) -> None:
        found = [one["type"] for one in self.objects(logs, level, **changes) if "type" in one]
        assert [f"platform.{kind}" for kind in types] == found

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"failed": True}, "error"),
            ({"failed": True, "status": "error", "error_type": "Runtime.ExitError"}, "failure"),
            ({"failed": True, "status": "timeout", "notice": "It timed out"}, "timeout"),
        ],
    )
    def test_statuses(self, logs: Logs, changes: dict[str, Any], status: str) -> None:
        *_, report = self.objects(logs, **changes)
        assert (status, changes.get("error_type")) == (report["record"]["status"], report["record"].get("errorType"))

    def test_a_timeout_has_its_line(self, logs: Logs) -> None:
        told = self.objects(logs, status="timeout", notice="Task timed out after 3.00 seconds")[2]
        assert ("ERROR", f"{REQUEST} Task timed out after 3.00 seconds") == (told["level"], told["message"])

    async def test_starts(self, logs: Logs) -> None:
        log = logs.of(a_spec(log_format="JSON", snap_start=True))
        log.init_start()
        log.init_report(9.9964)
        log.restore_start()
        log.restore_report(18.3)
        start, report, restore, restored = map(json.loads, (await logs.read("f")).splitlines())
        about = {"functionName": "f", "functionVersion": "$LATEST"}
        assert about.items() <= start["record"].items() & restore["record"].items()
        assert {"initializationType": "snap-start", "phase": "init"}.items() <= start["record"].items()
        assert {"status": "success", "metrics": {"durationMs": 9.996}}.items() <= report["record"].items()
        assert ("platform.restoreReport", {"durationMs": 18.3}) == (restored["type"], restored["record"]["metrics"])

    async def test_one_request_is_found(self, logs: Logs) -> None:
        log = logs.of(a_spec(log_format="JSON"))
        for number in range(3):
            log.invocation(lines(f"r{number}", output=b"printed"))
        found = (await logs.read("f", request_id="r1")).splitlines()
        assert ("platform.start", "printed", "platform.report") == (
            json.loads(found[0])["type"],
            found[1],
            json.loads(found[2])["type"],
        )
