"""Work in a forked child: its answer, its errors, its crash, its hanging."""

from __future__ import annotations

import os
import select
import signal
from typing import NoReturn

import pytest

from glowplug.snapshot.apart import Died, Reported, apart, descendants
from glowplug.snapshot.errors import CompileFailed

SOON = 30.0


def test_the_answer_comes_back() -> None:
    assert {"a": [1, 2.5, None]} == apart(lambda: {"a": [1, 2.5, None]}, seconds=SOON)


def test_an_answer_larger_than_a_pipe_comes_back_whole() -> None:
    assert 300_000 == len(apart(lambda: "x" * 300_000, seconds=SOON))


def test_it_is_another_process_with_what_this_one_has_made() -> None:
    made = [os.getpid()]
    pid, parents = apart(lambda: (os.getpid(), made), seconds=SOON)
    assert pid != os.getpid()
    assert [os.getpid()] == parents


def test_an_error_is_told_by_class_and_words() -> None:
    def fail() -> NoReturn:
        raise CompileFailed("no compiler")

    with pytest.raises(Reported, match="CompileFailed: no compiler"):
        apart(fail, seconds=SOON)


def test_an_unexpected_error_is_told_as_well() -> None:
    with pytest.raises(Reported, match="ZeroDivisionError"):
        apart(lambda: 1 // 0, seconds=SOON)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crashed with SIGKILL"),
        (lambda: os._exit(3), "exited with status 3"),
    ],
)
def test_a_child_that_ends_without_an_answer_says_how(end: object, words: str) -> None:
    with pytest.raises(Died, match=words):
        apart(end, seconds=SOON)  # type: ignore[arg-type]


def test_one_that_hangs_is_killed_with_what_it_started() -> None:
    started = os.pipe()

    def hang() -> None:
        if os.fork() == 0:
            os.write(started[1], str(os.getpid()).encode())
        signal.pause()

    with pytest.raises(Died, match="no answer within 1 s"):
        apart(hang, seconds=1.0)
    grandchild = int(os.read(started[0], 20))
    assert _ended(grandchild)
    for descriptor in started:
        os.close(descriptor)


def _ended(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], SOON)[0])
    finally:
        os.close(pidfd)


def test_no_process_is_left_behind() -> None:
    before = descendants(os.getpid())
    apart(lambda: None, seconds=SOON)
    assert before == descendants(os.getpid())
