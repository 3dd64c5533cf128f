"""``Spawner`` against a zygote driven by hand: what it believes, and what becomes of forks that nobody waits for."""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from glowplug.runtime.errors import StartError
from glowplug.runtime.process import wire
from glowplug.runtime.process.channel import Channel
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.process.roster import Roster
from glowplug.runtime.process.spawner import Spawner
from glowplug.runtime.process.sweep import Records
from glowplug.runtime.process.workers import Worker


class Zygote:
    """The zygote's end of a spawner's channel. The test's own process plays the zygote, so its children are ours."""

    def __init__(self, records: Path) -> None:
        ours, self.control = socket.socketpair()
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.roster = Roster(Records(records))
        self.channel = Channel(ours, on_message=self._on_message, on_closed=self.closed.set_result)
        self.spawner = Spawner("z1", os.getpid(), self.channel, self.roster)
        self.received: list[int] = []

    def _on_message(self, message: wire.Message, descriptors: list[int]) -> None:
        if not self.spawner.handle(message, descriptors):
            raise wire.WireError(f"{type(message).__name__} is not about a child")

    async def asked(self) -> wire.Spawn:
        """Take the request for a fork, with the child's descriptors."""
        data, ancillary, _, _ = await asyncio.to_thread(self.control.recvmsg, 65536, 64)
        given = array.array("i", ancillary[0][2])
        self.received += given
        decoder = wire.Decoder()
        (message,) = decoder.feed(data, given)
        decoder.take_descriptors()
        assert isinstance(message, wire.Spawn)
        return message

    def answer(self, message: wire.Message, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.control.sendmsg([wire.encode(message, descriptors).data], rights)

    def close(self) -> None:
        self.channel.close()
        self.control.close()
        for descriptor in self.received:
            os.close(descriptor)


@pytest.fixture
async def zygote(tmp_path: Path) -> AsyncIterator[Zygote]:
    made = Zygote(tmp_path)
    yield made
    made.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def ask(zygote: Zygote, worker_id: str = "w1") -> asyncio.Task[Worker]:
    return asyncio.create_task(zygote.spawner.worker(worker_id, uid=-1, gid=-1))


def announce(zygote: Zygote, pid: int, *, of: int | None = None, worker_id: str = "w1") -> None:
    pidfd = os.pidfd_open(of or pid)
    zygote.answer(wire.Spawned(worker_id, pid, 0.5), pidfd)
    os.close(pidfd)


async def test_a_fork_becomes_a_worker_and_its_end_is_passed_on(
    zygote: Zygote, sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task = ask(zygote)
    assert wire.Spawn("w1", "worker", -1, -1) == await zygote.asked()
    announce(zygote, sleeper.pid)
    worker = await task
    await asyncio.sleep(0)
    assert (sleeper.pid, True, [worker]) == (worker.pid, worker.forked, zygote.spawner.children)
    assert [str(sleeper.pid)] == os.listdir(tmp_path)
    zygote.answer(wire.Exited("w1", sleeper.pid, 7 << 8, 4096))
    assert Exit(7 << 8, 4096) == await worker.exited
    await asyncio.sleep(0)
    assert ([], []) == (zygote.spawner.children, os.listdir(tmp_path))


async def test_spawned_and_exited_in_one_read_are_a_worker_that_died(
    zygote: Zygote, sleeper: subprocess.Popen[bytes]
) -> None:
    task = ask(zygote)
    await zygote.asked()
    pidfd = os.pidfd_open(sleeper.pid)
    frames = wire.encode(wire.Spawned("w1", sleeper.pid, 0.5), (pidfd,)).data
    frames += wire.encode(wire.Exited("w1", sleeper.pid, 9, 0)).data
    zygote.control.sendmsg([frames], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))])
    os.close(pidfd)
    assert "signal: killed" == (await (await task).exited).describe()


async def test_a_fork_that_nobody_waits_for_any_more_is_killed(
    zygote: Zygote, sleeper: subprocess.Popen[bytes]
) -> None:
    task = ask(zygote)
    await zygote.asked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    announce(zygote, sleeper.pid)
    assert -signal.SIGKILL == await asyncio.to_thread(sleeper.wait)
    zygote.answer(wire.Exited("w1", sleeper.pid, 9, 0))


async def test_a_failed_fork_is_the_callers_and_the_zygote_lives(zygote: Zygote) -> None:
    task = ask(zygote)
    await zygote.asked()
    zygote.answer(wire.Failed("spawn:w1", "BlockingIOError", "no more processes", []))
    with pytest.raises(StartError, match="z1 could not fork: no more processes") as caught:
        await task
    assert ("BlockingIOError", False) == (caught.value.reported_type, zygote.closed.done())


async def test_the_death_of_the_zygote_fails_who_waits_and_leaves_its_workers_to_the_node(
    zygote: Zygote, sleeper: subprocess.Popen[bytes]
) -> None:
    first = ask(zygote)
    await zygote.asked()
    announce(zygote, sleeper.pid)
    worker = await first
    second = ask(zygote, "w2")
    await zygote.asked()
    zygote.spawner.zygote_died(Exit(9))
    with pytest.raises(WorkerDied, match="z1: signal: killed"):
        await second
    with pytest.raises(StartError, match="takes no more requests"):
        await zygote.spawner.worker("w3", uid=-1, gid=-1)
    assert worker.alive
    sleeper.terminate()
    assert "signal: terminated" == (await worker.exited).describe()
    sleeper.returncode = -15


async def test_a_zygote_that_announces_a_process_of_somebody_else_is_not_believed(zygote: Zygote) -> None:
    task = ask(zygote)
    await zygote.asked()
    announce(zygote, os.getpid())  # the node itself: not a child of the zygote
    assert "is not its child" in str(await zygote.closed)
    with pytest.raises(StartError, match="is not its child"):
        await task


async def test_a_pidfd_of_another_process_is_not_believed(zygote: Zygote, sleeper: subprocess.Popen[bytes]) -> None:
    task = ask(zygote)
    await zygote.asked()
    announce(zygote, sleeper.pid, of=os.getpid())
    assert "is not the pidfd of" in str(await zygote.closed)
    with pytest.raises(StartError):
        await task


async def test_a_descriptor_that_is_no_pidfd_is_not_believed(zygote: Zygote, sleeper: subprocess.Popen[bytes]) -> None:
    task = ask(zygote)
    await zygote.asked()
    descriptor = os.open(os.devnull, os.O_RDONLY)
    zygote.answer(wire.Spawned("w1", sleeper.pid, 0.5), descriptor)
    assert "is not the pidfd of" in str(await zygote.closed)
    os.close(descriptor)
    with pytest.raises(StartError):
        await task


@pytest.mark.parametrize(
    "message",
    [
        wire.Spawned("never", 1, 0.5),
        wire.Exited("never", 1, 0, 0),
        wire.Failed("spawn:never", "OSError", "", []),
    ],
    ids=["Spawned", "Exited", "Failed"],
)
async def test_news_of_a_child_that_was_never_asked_for_are_refused(zygote: Zygote, message: wire.Message) -> None:
    zygote.answer(message)
    assert "never" in str(await zygote.closed)


async def test_an_id_is_not_given_twice(zygote: Zygote) -> None:
    task = ask(zygote)
    await zygote.asked()
    with pytest.raises(StartError, match="was asked for it already"):
        await zygote.spawner.worker("w1", uid=-1, gid=-1)
    zygote.spawner.zygote_died(Exit(9))
    with pytest.raises(WorkerDied):
        await task


async def test_gone_kills_those_that_stay(zygote: Zygote, sleeper: subprocess.Popen[bytes]) -> None:
    task = ask(zygote)
    await zygote.asked()
    announce(zygote, sleeper.pid)
    worker = await task
    leaving = asyncio.create_task(zygote.spawner.gone(0.01))
    assert -signal.SIGKILL == await asyncio.to_thread(sleeper.wait)
    zygote.answer(wire.Exited("w1", sleeper.pid, 9, 0))
    await leaving
    assert "z1 retires" == worker.killed_for
