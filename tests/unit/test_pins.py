"""Pins: who keeps what, until when, and that a damaged pin is never taken for none."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.errors import SourceInvalid, StoreError
from glowplug.cache.pins import forget_gone, owners, pin, pinned, unpin

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def place(root: Path, owner: str) -> Path:
    return root / "pins" / hashlib.sha256(owner.encode()).hexdigest()


def test_a_blob_is_pinned_by_each_of_its_owners(tmp_path: Path) -> None:
    assert {} == pinned(tmp_path)
    pin(tmp_path, "operator:s3://models/x", [B, A, A])
    pin(tmp_path, "operator:second", [A])
    assert {A: ("operator:s3://models/x", "operator:second"), B: ("operator:s3://models/x",)} == pinned(tmp_path)
    assert {"operator:s3://models/x": {A, B}, "operator:second": {A}} == owners(tmp_path)


def test_pinning_again_replaces_and_unpinning_says_whether_there_was_one(tmp_path: Path) -> None:
    pin(tmp_path, "operator:x", [A, B])
    pin(tmp_path, "operator:x", [C])
    assert {C: ("operator:x",)} == pinned(tmp_path)
    assert unpin(tmp_path, "operator:x")
    assert not unpin(tmp_path, "operator:x")
    assert {} == pinned(tmp_path)


def test_a_path_pins_only_while_it_exists(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "s1"
    pin(tmp_path, str(snapshot), [A])
    assert {} == pinned(tmp_path)
    snapshot.mkdir(parents=True)
    assert {A: (str(snapshot),)} == pinned(tmp_path)
    snapshot.rmdir()
    assert {} == pinned(tmp_path)


def test_pins_of_paths_that_are_gone_are_forgotten_once_they_are_old(tmp_path: Path) -> None:
    pin(tmp_path, str(tmp_path / "gone"), [A])
    pin(tmp_path, str(tmp_path), [B])
    pin(tmp_path, "operator:x", [C])
    written_s = place(tmp_path, str(tmp_path / "gone")).stat().st_mtime
    assert 0 == forget_gone(tmp_path, before_s=written_s)
    assert 1 == forget_gone(tmp_path, before_s=written_s + 1)
    assert {str(tmp_path), "operator:x"} == set(owners(tmp_path))
    assert 2 == len(list((tmp_path / "pins").iterdir()))


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64])
def test_only_digests_are_pinned(tmp_path: Path, digest: str) -> None:
    with pytest.raises(SourceInvalid):
        pin(tmp_path, "operator:x", [A, digest])
    assert {} == pinned(tmp_path)


def test_a_pin_has_an_owner(tmp_path: Path) -> None:
    with pytest.raises(SourceInvalid):
        pin(tmp_path, "", [A])


@pytest.mark.parametrize(
    "document",
    [
        {"owner": "operator:x", "blobs": ["../../etc/passwd"]},
        {"owner": "operator:x", "blobs": A},
        {"owner": "operator:x", "blobs": [1]},
        {"owner": "operator:y", "blobs": [A]},
        {"owner": "", "blobs": [A]},
        {"blobs": [A]},
        [],
        None,
    ],
    ids=lambda document: json.dumps(document)[:50],
)
def test_a_damaged_pin_is_an_error_that_names_it_and_can_be_removed(tmp_path: Path, document: Any) -> None:
    pin(tmp_path, "operator:x", [A])
    path = place(tmp_path, "operator:x")
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=str(path)):
        pinned(tmp_path)
    assert unpin(tmp_path, "operator:x")
    assert {} == pinned(tmp_path)


def test_what_is_no_pin_by_its_name_is_left_alone(tmp_path: Path) -> None:
    pin(tmp_path, "operator:x", [A])
    (tmp_path / "pins" / "README").write_text("not JSON")
    os.mkfifo(tmp_path / "pins" / "fifo")
    assert [A] == list(pinned(tmp_path))


def test_a_fifo_in_the_place_of_a_pin_hangs_nobody(tmp_path: Path) -> None:
    pin(tmp_path, "operator:x", [A])
    path = place(tmp_path, "operator:x")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        pinned(tmp_path)


def test_a_pin_removed_while_pins_are_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(tmp_path, "operator:x", [A])
    names = os.listdir(tmp_path / "pins")
    unpin(tmp_path, "operator:x")
    monkeypatch.setattr(os, "listdir", lambda path: names)
    assert {} == pinned(tmp_path)
