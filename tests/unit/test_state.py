from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import StateError
from glowplug.runtime.state import HMAC_KEY_BYTES, StateDirectory, running_node


def config(state: Path) -> NodeConfig:
    return NodeConfig(state=state, cache=state / "cache")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_create_makes_the_layout_with_its_modes_whatever_the_umask(root: Path) -> None:
    old = os.umask(0o077)
    try:
        directory = StateDirectory(config(root))
        directory.create()
    finally:
        os.umask(old)
    assert mode(root) == 0o700
    assert {path.name: mode(path) for path in root.iterdir()} == {
        "code": 0o755,
        "cache": 0o755,
        "snapshots": 0o755,
        "logs": 0o700,
        "run": 0o700,
        "bake": 0o700,
        "readahead": 0o700,
    }
    assert [mode(directory.processes), mode(directory.hmac_key_file.parent)] == [0o700, 0o700]


def test_create_twice_keeps_what_is_there_and_closes_an_open_directory(root: Path) -> None:
    StateDirectory(config(root)).create()
    (root / "ledger.jsonl").write_text("{}\n")
    root.chmod(0o755)
    StateDirectory(config(root)).create()
    assert (root / "ledger.jsonl").read_text() == "{}\n"
    assert mode(root) == 0o700


def test_create_leaves_the_mode_of_a_shared_cache_alone(root: Path, tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    shared.mkdir()
    shared.chmod(0o750)
    StateDirectory(NodeConfig(state=root, cache=shared)).create()
    assert mode(shared) == 0o750


def test_create_below_a_file_names_the_path_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/state: Not a directory; .*--state"):
        StateDirectory(config(tmp_path / "file" / "state")).create()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "writable file system"), (errno.ENOSPC, "free some space"), (errno.EACCES, "run as its owner")],
)
def test_a_disk_that_refuses_is_reported_with_advice(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StateError, match=advice) as caught:
        StateDirectory(config(root)).create()
    assert str(root) in str(caught.value)


def test_a_full_disk_at_the_lock_gives_the_lock_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(config(root))
    directory.create()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StateError, match="No space left"):
            directory.lock()
    with directory:
        directory.lock()  # would be "in use" had the first attempt kept it


def test_the_lock_file_says_who_and_where_and_is_cleared_on_close(root: Path) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    with directory:
        directory.lock()
        directory.announce("http://127.0.0.1:9000")
        said = json.loads(directory.lock_file.read_text())
        assert (said["pid"], said["endpoint"]) == (os.getpid(), "http://127.0.0.1:9000")
        assert mode(directory.lock_file) == 0o600
    assert directory.lock_file.read_text() == ""
    directory.close()


def test_a_second_node_is_refused_with_the_first_ones_pid_and_endpoint(root: Path) -> None:
    first, second = StateDirectory(config(root)), StateDirectory(config(root))
    first.create()
    with first:
        first.lock()
        first.announce("http://127.0.0.1:9000")
        with pytest.raises(StateError) as caught:
            second.lock()
        second.close()  # must not clear the file of the first
        assert running_node(root) is not None
    assert str(caught.value) == (
        f"{root} is in use by the node with pid {os.getpid()} at http://127.0.0.1:9000;"
        " stop it or choose another --state"
    )
    with second:
        second.lock()


def test_a_node_that_starts_while_a_command_looks_is_not_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    directory.lock_file.touch()
    looking = os.open(directory.lock_file, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    monkeypatch.setattr("time.sleep", lambda _: os.close(looking))  # the command is done by the second attempt
    with directory:
        directory.lock()


def test_running_node_finds_the_node_that_runs_and_no_other(root: Path) -> None:
    assert running_node(root) is None
    directory = StateDirectory(config(root))
    directory.create()
    with directory:
        directory.lock()
        with pytest.raises(StateError, match="does not listen yet"):
            running_node(root)
        directory.announce("http://127.0.0.1:9000")
        found = running_node(root)
        assert found is not None
        assert (found.pid, found.endpoint) == (os.getpid(), "http://127.0.0.1:9000")
    assert running_node(root) is None


def test_a_killed_node_frees_the_directory_though_its_address_stays(root: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from glowplug.runtime.config import NodeConfig\n"
        "from glowplug.runtime.state import StateDirectory\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "directory = StateDirectory(NodeConfig(state=root, cache=root / 'cache'))\n"
        "directory.create(); directory.lock(); directory.announce('http://127.0.0.1:1')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert "127.0.0.1:1" in (root / "node.lock").read_text()
    assert running_node(root) is None
    with StateDirectory(config(root)) as directory:
        directory.lock()


def test_an_execed_child_does_not_inherit_the_lock(root: Path) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    directory.lock()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        directory.close()
        with StateDirectory(config(root)) as other:
            other.lock()
        assert child.stdin is not None
        child.stdin.close()


def test_the_key_is_made_once_private_and_read_back(root: Path) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    key = directory.hmac_key()
    assert len(key) == HMAC_KEY_BYTES
    assert directory.hmac_key() == key
    assert mode(directory.hmac_key_file) == 0o600
    assert [path.name for path in directory.hmac_key_file.parent.iterdir()] == ["hmac"]


def test_a_short_key_is_an_error_not_a_new_key(root: Path) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    directory.hmac_key_file.write_bytes(b"short")
    with pytest.raises(StateError, match="5 bytes, a key has 32"):
        directory.hmac_key()
    assert directory.hmac_key_file.read_bytes() == b"short"


def test_a_disk_that_fills_while_the_key_is_written_leaves_no_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(config(root))
    directory.create()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="free some space"):
        directory.hmac_key()
    assert list(directory.hmac_key_file.parent.iterdir()) == []


def test_sweep_staging_deletes_what_dead_bakes_left(root: Path, tmp_path: Path) -> None:
    directory = StateDirectory(config(root))
    directory.create()
    (tmp_path / "mine").mkdir()
    (directory.bake / "job" / "tmp").mkdir(parents=True)
    (directory.bake / "job" / "tmp" / "a.so").write_text("")
    (directory.bake / "note").write_text("")
    (directory.bake / "link").symlink_to(tmp_path / "mine")
    directory.sweep_staging()
    assert list(directory.bake.iterdir()) == []
    assert (tmp_path / "mine").is_dir()
