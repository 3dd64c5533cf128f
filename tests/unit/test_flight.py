"""Single flight: one leader, waiters that see its progress, and what is left of a leader that died."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glowplug.cache.errors import StoreUnwritable
from glowplug.cache.flight import LINE_BYTES, POLL_S, Line, alone


class Waiting:
    """A clock that only sleeping moves; ``at`` runs functions when a sleep has reached their time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []
        self.at: dict[int, Callable[[], None]] = {}

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        assert len(self.slept) < 100, "the lock is never freed"
        self.at.get(len(self.slept), lambda: None)()


def unexpected(argument: object) -> None:
    pytest.fail(f"called with {argument}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "0"


@contextlib.contextmanager
def held(path: Path) -> Iterator[tuple[Callable[[Line], None], Callable[[], None]]]:
    """Somebody else's lock: how he says something, and how he dies (without cleaning up)."""
    path.parent.mkdir(parents=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    dead = []

    def say(line: Line) -> None:
        os.pwrite(descriptor, json.dumps(line).encode().ljust(LINE_BYTES), 0)

    def die() -> None:
        dead.append(True)
        os.close(descriptor)

    yield say, die
    if not dead:
        os.close(descriptor)


def test_a_free_lock_is_taken_without_waiting(path: Path) -> None:
    with alone(path, sleep=unexpected) as lead:
        assert 0.0 == lead.waited_s
    with alone(path, sleep=unexpected):
        pass


def test_a_waiter_reports_the_leaders_progress_and_takes_over_when_it_dies(path: Path) -> None:
    seen: list[Line] = []
    waiting = Waiting()
    with held(path) as (say, die):
        waiting.at = {2: lambda: say({"done_bytes": 1}), 4: lambda: say({"done_bytes": 2}), 6: die}
        with alone(path, follow=seen.append, clock=waiting.clock, sleep=waiting.sleep) as lead:
            assert [{"done_bytes": 1}] * 2 + [{"done_bytes": 2}] * 2 == seen
            assert sum(waiting.slept) == lead.waited_s
    assert POLL_S[0] == waiting.slept[0]
    assert POLL_S[0] < waiting.slept[1] <= waiting.slept[-1] <= POLL_S[1]


def test_what_a_dead_leader_said_last_is_not_the_next_ones_progress(path: Path) -> None:
    with held(path) as (say, die):
        say({"done_bytes": 1})
        die()
    with alone(path):
        assert b"" == path.read_bytes()


def test_a_leader_is_read_while_it_leads_and_leaves_nothing(path: Path) -> None:
    with alone(path) as lead:
        lead.say({"file": "long" * 100, "done_bytes": 10**12})
        lead.say({"file": "ß", "done_bytes": 1})
        assert {"file": "ß", "done_bytes": 1} == json.loads(path.read_bytes())
        assert LINE_BYTES == path.stat().st_size
    assert 0 == path.stat().st_size


def test_the_longest_name_fits_a_line(path: Path) -> None:
    with alone(path) as lead:
        lead.say({"file": "\U0001f600" * 1024, "done_bytes": 2**62, "total_bytes": 2**62, "fetched_bytes": 2**62})
        with pytest.raises(ValueError, match="progress line"):
            lead.say({"file": "x" * LINE_BYTES})


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"3", b'{"a": 1}{', b"\xff", b" " * LINE_BYTES])
def test_half_a_line_is_skipped(path: Path, text: bytes) -> None:
    waiting = Waiting()
    with held(path) as (_, die):
        path.write_bytes(text)
        waiting.at = {3: die}
        with alone(path, follow=unexpected, clock=waiting.clock, sleep=waiting.sleep):
            pass


def test_an_error_in_the_block_frees_the_lock(path: Path) -> None:
    with pytest.raises(RuntimeError), alone(path):
        raise RuntimeError
    with alone(path, sleep=unexpected):
        pass


def test_the_lock_is_not_inherited_by_programs(path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with alone(path):
        for name in set(os.listdir("/proc/self/fd")) - before:
            with contextlib.suppress(OSError):  # the descriptor that listed the directory
                assert not os.get_inheritable(int(name))


def test_a_store_that_cannot_be_written_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreUnwritable, match=str(path)), alone(path):
        pass
