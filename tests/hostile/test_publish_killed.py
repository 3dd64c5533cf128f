"""Whoever publishes a snapshot is killed at any moment, or its disk is full: no half of one is ever served."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glowplug.snapshot.assignments import Assignments
from glowplug.snapshot.errors import SnapshotStoreFailed
from glowplug.snapshot.store import SnapshotStore

DISK_SIZE = "2m"
KILLS = 25
SECRET = b"k" * 32
PUBLISHER = """
import hashlib, json, sys
from pathlib import Path
from glowplug.snapshot.assignments import Assignment, Assignments
from glowplug.snapshot.store import SnapshotStore

root = Path(sys.argv[1])
store, assignments = SnapshotStore(root / "snapshots", b"k" * 32), Assignments(root / "snapshots")
engine = b"\\x7fELF" * 50_000
print("ready", flush=True)
for turn in range(10_000):
    key = hashlib.sha256(str(turn % 3).encode()).hexdigest()
    staging = root / "staging" / sys.argv[2] / str(turn)
    staging.mkdir(parents=True)
    (staging / "model.so").write_bytes(engine)
    entry = {"sha256": hashlib.sha256(engine).hexdigest(), "size": len(engine)}
    (staging / "manifest.json").write_text(json.dumps({"key": key, "turn": turn, "artefacts": {"model.so": entry}}))
    store.publish(staging)
    assignments.set("revision", "", Assignment("aot_inductor", key, str(turn), "auto", "f"))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_kills_at_any_moment_leave_whole_snapshots_or_none(tmp_path: Path) -> None:
    """Each publisher replaces three snapshots again and again, and goes on with what the one before it left."""
    chance = random.Random(20)
    found = set()
    for kill in range(KILLS):
        program = [sys.executable, "-c", PUBLISHER, str(tmp_path), str(kill)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as publisher:
            assert publisher.stdout is not None
            assert "ready\n" == publisher.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.06))
            publisher.kill()
        store = SnapshotStore(tmp_path / "snapshots", SECRET)
        store.sweep()
        published = store.keys()
        assert published == [store.open(key).key for key in published]
        found.update(published)
        left = {entry.name for entry in store.root.iterdir()} if store.root.exists() else set()
        assert left <= {*published, "assigned"}
        assignment = Assignments(store.root).get("revision", "")
        assert assignment is None or assignment.engine == "aot_inductor"
    assert 3 == len(found), "they were killed before they had done anything"


def stage(directory: Path, size: int) -> tuple[Path, str]:
    directory.mkdir(parents=True)
    engine = b"e" * size
    key = hashlib.sha256(directory.name.encode()).hexdigest()
    entry = {"sha256": hashlib.sha256(engine).hexdigest(), "size": size}
    (directory / "model.so").write_bytes(engine)
    (directory / "manifest.json").write_text(json.dumps({"key": key, "artefacts": {"model.so": entry}}))
    return directory, key


def test_a_snapshot_that_does_not_fit_is_typed_and_the_one_before_it_stays(
    small_disk: Path, tmp_path: Path, fill: Callable[[Path], Path]
) -> None:
    store = SnapshotStore(small_disk / "snapshots", SECRET)
    before, key = stage(tmp_path / "before", 100_000)
    store.publish(before)
    large, _ = stage(tmp_path / "large", 3_000_000)
    with pytest.raises(SnapshotStoreFailed, match="No space left"):
        store.publish(large)
    assert [key] == [entry.name for entry in store.root.iterdir()]
    filler = fill(small_disk)
    small, later = stage(tmp_path / "small", 100)
    with pytest.raises(SnapshotStoreFailed, match="No space left"):
        store.publish(small)
    assert key == store.open(key).key
    assert [key] == [entry.name for entry in store.root.iterdir()]
    filler.unlink()
    store.publish(small)
    assert sorted([key, later]) == store.keys()
