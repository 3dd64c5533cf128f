"""The MPS supervisor against a daemon that is a real process and misbehaves as documented. No GPU is involved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glowplug.snapshot.cuda import mps
from glowplug.snapshot.cuda.mps import Action, Control, Mps, Phase
from glowplug.snapshot.errors import MpsUnavailable


class World:
    """A directory with a fake daemon's scenario, the supervisor over it, and client processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "mps"
        self.directory.mkdir(mode=0o755)
        self.program = directory / mps.PROGRAM
        shutil.copy(Path(__file__).parent / "fake_mps.py", self.program)
        self.program.chmod(0o755)
        self.clients: list[subprocess.Popen[bytes]] = []
        self.ended: list[tuple[int, ...] | None] = []
        self.heedless = False
        self.set()
        self.control = Control(str(self.program), self.directory, {"PATH": os.environ["PATH"]}, multiuser=True)
        self.mps = Mps(self.control, end_clients=self.end)

    def up(self) -> None:
        self.mps.start(0.0)
        assert Action.NOTHING is self.mps.look(0.0)
        assert self.mps.welcome

    def set(self, **scenario: Any) -> None:
        (self.directory / "scenario").write_text(json.dumps(scenario))

    def client(self) -> int:
        self.clients.append(subprocess.Popen(["sleep", "600"]))
        return self.clients[-1].pid

    def end(self, pids: tuple[int, ...] | None) -> None:
        self.ended.append(pids)
        for client in self.clients:
            if not self.heedless and (pids is None or client.pid in pids):
                client.kill()
                client.wait()

    def daemon(self) -> int:
        return int((self.control.pipe / "nvidia-cuda-mps-control.pid").read_text())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.heedless = False
    made.end(None)
    made.mps.stop()


def test_a_started_daemon_takes_clients_and_a_stopped_one_is_gone(world: World) -> None:
    world.mps.start(0.0)
    assert (Action.NOTHING, Phase.READY, True) == (world.mps.look(0.0), world.mps.phase, world.mps.welcome)
    assert "-d -multiuser-server" == (world.directory / "arguments").read_text()
    pid = world.daemon()
    world.mps.stop()
    with pytest.raises(MpsUnavailable, match="get_server_list' failed with status 1"):
        world.control.command("get_server_list")
    assert not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()
    assert Action.NOTHING is world.mps.look(1.0)


def test_a_fault_ends_every_client_before_new_ones_are_welcome(world: World) -> None:
    world.up()
    first, second = world.client(), world.client()
    world.set(server=4242, state="FAULT", clients=[first, second])
    assert (Action.END_CLIENTS, Phase.DRAINING, False) == (world.mps.look(1.0), world.mps.phase, world.mps.welcome)
    assert [(first, second)] == world.ended
    assert "2 clients have to exit" in world.mps.why
    assert (Action.NOTHING, True) == (world.mps.look(2.0), world.mps.welcome)
    assert (0, "") == (world.mps.restarts, world.mps.why)


def test_clients_that_do_not_exit_cost_the_daemon_its_life(world: World) -> None:
    world.up()
    world.heedless = True
    world.set(server=4242, state="FAULT", clients=[world.client()])
    assert [Action.END_CLIENTS, Action.END_CLIENTS] == [world.mps.look(1.0), world.mps.look(1.0 + mps.DRAIN_S - 0.1)]
    before = world.daemon()
    assert (Action.RESTART, False) == (world.mps.look(1.0 + mps.DRAIN_S), world.mps.welcome)
    world.set()
    assert (Action.NOTHING, True) == (world.mps.look(1.0 + mps.DRAIN_S), world.mps.welcome)
    assert before != world.daemon()


def test_a_server_that_does_not_recover_is_replaced(world: World) -> None:
    world.up()
    world.set(server=4242, state="FAULT", stuck=True)
    assert (Action.NOTHING, Phase.RECOVERING) == (world.mps.look(1.0), world.mps.phase)
    assert Action.RESTART is world.mps.look(1.0 + mps.RECOVER_S)


def test_a_dead_daemon_is_started_again_and_its_clients_end(world: World) -> None:
    world.up()
    world.client()
    os.kill(world.daemon(), signal.SIGKILL)
    assert (Action.RESTART, [None], False) == (world.mps.look(1.0), world.ended, world.mps.welcome)
    assert (Action.NOTHING, True, 1) == (world.mps.look(1.0), world.mps.welcome, world.mps.restarts)


def test_a_hung_daemon_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "COMMAND_S", 0.5)
    world.up()
    before = world.daemon()
    world.set(hang=True)
    assert Action.RESTART is world.mps.look(1.0)
    assert ") Z " in (Path(f"/proc/{before}/stat").read_text() if Path(f"/proc/{before}").exists() else ") Z ")
    world.set()
    monkeypatch.setattr(mps, "COMMAND_S", 5.0)
    assert Phase.READY is (world.mps.look(1.0), world.mps.phase)[1]


def test_a_daemon_that_cannot_be_started_is_tried_again_ever_more_rarely(world: World) -> None:
    world.set(refuse=True)
    world.mps.start(0.0)
    assert (Phase.RESTARTING, "-d -multiuser-server' failed" in world.mps.why) == (world.mps.phase, True)
    tried = [at for at in range(30) if world.mps.look(float(at)) is Action.RESTART]
    assert [0, 2, 6, 14] == tried
    world.set()
    assert (Action.RESTART, Action.NOTHING) == (world.mps.look(30.0), world.mps.look(62.0))
    assert world.mps.welcome


def test_an_answer_that_is_none_counts_as_no_answer(world: World) -> None:
    world.mps.start(0.0)
    world.set(server=4242, state="Server not found")
    assert not world.control.seen().answers


@pytest.mark.parametrize("made", ["link", "mode"])
def test_a_directory_that_somebody_else_made_is_refused(world: World, tmp_path: Path, made: str) -> None:
    """It lies where functions may write: what one of them prepared must not become the daemon's."""
    if made == "link":
        world.control.pipe.symlink_to(tmp_path)
    else:
        world.control.pipe.mkdir()
        world.control.pipe.chmod(0o777)
    with pytest.raises(MpsUnavailable, match="not a directory that only this user may change"):
        world.control.start()
    if made == "mode":
        world.control.pipe.chmod(0o755)


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    control = Control(str(tmp_path / "none"), tmp_path, {}, multiuser=False)
    with pytest.raises(MpsUnavailable, match="cannot be run"):
        control.start()
    assert "" == mps.program(str(tmp_path))
