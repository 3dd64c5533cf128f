"""Records and the sweep, with a ``/proc`` made of files where a real process is not needed."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from glowplug.runtime.process.sweep import ProcessStatus, Records, boot_id, process_status, sweep

STAT = "{pid} (odd ) name (x) S {parent} {group} 30 0 -1 4194304 100 0 0 0 1 2 3 4 20 0 1 0 {ticks} 1000 200"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    root = tmp_path / "proc"
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text("b00t\n")
    return root


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "processes"


def describe(proc: Path, pid: int, *, ticks: int, group: int = 1) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(STAT.format(pid=pid, parent=7, group=group, ticks=ticks))


def test_a_status_is_read_past_any_name(proc: Path) -> None:
    describe(proc, 40, ticks=1234, group=39)
    assert ProcessStatus("S", parent=7, group=39, start_ticks=1234) == process_status(40, proc=proc)
    assert process_status(41, proc=proc) is None


def test_a_record_holds_start_time_boot_and_kind_and_goes_with_the_process(proc: Path, records: Path) -> None:
    describe(proc, 40, ticks=1234)
    kept = Records(records, proc=proc)
    kept.add(40, "worker")
    kept.add(41, "worker")  # dead already
    assert {"40": "1234 b00t worker\n"} == {file.name: file.read_text() for file in records.iterdir()}
    kept.remove(40)
    kept.remove(40)
    assert [] == list(records.iterdir())


@pytest.mark.parametrize(
    "text",
    ["{ticks_before} {boot} worker\n", "{ticks} another-boot worker\n", "", "garbage", "x y z"],
    ids=["another start", "another boot", "empty", "one word", "no number"],
)
def test_a_process_that_is_not_the_recorded_one_is_left_alone(records: Path, text: str) -> None:
    process = subprocess.Popen(["sleep", "600"])
    status = process_status(process.pid)
    assert status is not None
    records.mkdir()
    values = {"ticks": status.start_ticks, "ticks_before": status.start_ticks - 1, "boot": boot_id()}
    (records / str(process.pid)).write_text(text.format(**values))
    assert ([], []) == (sweep(records), list(records.iterdir()))
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", ["1", "0", "-5", "notes.txt", str(2**22 + 1)])
def test_a_record_that_cannot_be_of_a_child_is_removed(records: Path, name: str) -> None:
    records.mkdir()
    (records / name).write_text(f"1 {boot_id()} worker\n")
    assert ([], []) == (sweep(records), list(records.iterdir()))


def test_a_process_that_is_left_over_dies_with_its_group(records: Path) -> None:
    program = "import os, subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    leader = subprocess.Popen(
        ["python3", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    assert leader.stdin is not None
    member = os.pidfd_open(int(leader.stdout.readline()))
    Records(records).add(leader.pid, "worker")
    assert [leader.pid] == sweep(records)
    assert (-9, []) == (leader.wait(), list(records.iterdir()))
    assert [(member, select.POLLIN)] == _poll(member)
    os.close(member)
    leader.stdin.close()
    leader.stdout.close()


def test_the_sweeper_never_kills_itself(records: Path) -> None:
    Records(records).add(os.getpid(), "worker")
    assert ([], []) == (sweep(records), list(records.iterdir()))


def test_a_dead_process_that_nobody_reaped_is_not_left_over(records: Path) -> None:
    process = subprocess.Popen(["sleep", "600"])
    Records(records).add(process.pid, "worker")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ([], []) == (sweep(records), list(records.iterdir()))
    process.wait()


def test_no_directory_is_nothing_to_sweep(records: Path) -> None:
    assert [] == sweep(records)


def test_a_record_that_cannot_be_written_is_no_error(
    proc: Path, records: Path, caplog: pytest.LogCaptureFixture
) -> None:
    describe(proc, 40, ticks=1234)
    kept = Records(records, proc=proc)
    records.rmdir()
    kept.add(40, "worker")
    assert "process 40 (worker) has no record" in caplog.text


def _poll(pidfd: int) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return poll.poll(5000)
