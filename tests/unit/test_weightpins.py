"""Pins of snapshots: made once, dropped with the digests or with the last user, never somebody else's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from glowplug.cache import pins
from glowplug.runtime.weightpins import WeightPins

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def snapshots(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "snapshots" / name for name in ("one", "two")]
    for path in made:
        path.mkdir(parents=True)
    return made


def test_a_pin_is_written_once_per_life_of_the_node(
    tmp_path: Path, snapshots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, written = WeightPins(tmp_path, tmp_path / "snapshots"), list[str]()
    real = pins.pin

    def pin(root: Path, owner: str, digests: Iterable[str]) -> None:
        written.append(owner)
        real(root, owner, digests)

    monkeypatch.setattr(pins, "pin", pin)
    for _ in range(3):
        weights.keep(snapshots[0], [A, B])
    assert ([str(snapshots[0])], {A, B}) == (written, set(pins.pinned(tmp_path)))


def test_dropping_digests_drops_every_pin_of_ours_that_names_one_and_no_other(
    tmp_path: Path, snapshots: list[Path]
) -> None:
    weights = WeightPins(tmp_path, tmp_path / "snapshots")
    weights.keep(snapshots[0], [A, B])
    weights.keep(snapshots[1], [C])
    pins.pin(tmp_path, "operator:x", [A])
    weights.drop([A])
    assert {"operator:x", str(snapshots[1])} == set(pins.owners(tmp_path))
    weights.keep(snapshots[0], [A, B])
    assert (str(snapshots[0]),) == pins.pinned(tmp_path)[B]


def test_what_nobody_uses_any_more_is_unpinned_but_not_another_nodes(tmp_path: Path, snapshots: list[Path]) -> None:
    weights = WeightPins(tmp_path, tmp_path / "snapshots")
    weights.keep(snapshots[0], [A])
    weights.keep(snapshots[1], [B])
    other = tmp_path / "other" / "snapshots" / "one"
    other.mkdir(parents=True)
    pins.pin(tmp_path, str(other), [C])
    WeightPins(tmp_path, tmp_path / "snapshots").only([snapshots[1]])
    assert {str(other), str(snapshots[1])} == set(pins.owners(tmp_path))
