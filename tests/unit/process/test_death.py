"""How a process ended, in Lambda's words; reaping; orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from glowplug.runtime.process.death import Exit, WorkerDied, become_subreaper, is_dead, reap, reap_strays, send_signal


@pytest.mark.parametrize(
    ("status", "described", "code", "number"),
    [
        (0, "exit status 0", 0, None),
        (127 << 8, "exit status 127", 127, None),
        (signal.SIGKILL, "signal: killed", None, signal.SIGKILL),
        (signal.SIGSEGV | 0x80, "signal: segmentation fault", None, signal.SIGSEGV),
        (signal.SIGABRT, "signal: aborted", None, signal.SIGABRT),
        (None, "exit status unknown", None, None),
    ],
)
def test_an_exit_is_described_as_lambda_does(
    status: int | None, described: str, code: int | None, number: int | None
) -> None:
    ended = Exit(status)
    assert (described, code, number) == (ended.describe(), ended.code, ended.signal)


def test_the_error_of_a_death_says_who_and_why() -> None:
    assert "w1: signal: killed (killed: memory)" == str(WorkerDied("w1", Exit(9), killed_for="memory"))


def test_reaping_a_child_kills_its_group_and_returns_its_status() -> None:
    program = "import os, subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); os._exit(5)"
    leader = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    member = os.pidfd_open(int(leader.stdout.readline()))
    pidfd = os.pidfd_open(leader.pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert (True, False) == (is_dead(pidfd), is_dead(member))
    ended = reap(pidfd, leader.pid)
    leader.returncode = 5
    assert ended is not None
    assert (5, True) == (ended.code, ended.max_rss_kib > 0)
    assert reap(pidfd, leader.pid) is None
    while not is_dead(member):
        pass
    send_signal(pidfd, signal.SIGKILL)  # to a process that is gone: no error
    leader.stdout.close()
    os.close(member)
    os.close(pidfd)


@pytest.fixture
def programs() -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], int]]:
    """Two programs of the node's own, one in a session of its own, and the pid of an orphan of a dead session."""
    become_subreaper()
    mine, apart = subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "600"], start_new_session=True)
    orphaning = "subprocess.Popen(['sleep', '600'], process_group=0, stdout=subprocess.DEVNULL).pid"
    program = f"import os, subprocess; print({orphaning}, flush=True); os._exit(0)"
    leader = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, check=True)
    yield mine, apart, int(leader.stdout)
    for process in (mine, apart):
        process.kill()
        process.wait()


async def test_orphans_of_a_dead_session_are_reaped_and_the_nodes_own_programs_are_not(
    programs: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], int],
) -> None:
    mine, apart, orphan = programs
    await asyncio.wait(reap_strays())
    with pytest.raises(ProcessLookupError):
        os.kill(orphan, 0)
    assert (None, None) == (mine.poll(), apart.poll())
