"""The coldest tiers on real weights: gone and fetched again, and on disk but out of memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache import pins, residency

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first to come here may have to bake

FOX = "The quick brown fox jumps over the lazy dog."


def ask(node: Any) -> tuple[str, list[float], str]:
    """Return the tier that was found, the answer, and the start in words."""
    status, headers, answer = node.request("POST", "/_url/embed/", {"text": FOX})
    assert 200 == status, answer
    told = node.request("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")[2]
    return headers["x-glowplug-tier"], answer["embedding"], told


def blobs(node: Any) -> list[Path]:
    return sorted(path for path in (node.state / "cache" / "blobs").glob("*/*") if path.stat().st_size > 1_000_000)


def test_remote_and_back_gives_the_same_answer(compiled: Any) -> None:
    _, hot, _ = ask(compiled)
    [weights] = blobs(compiled)
    compiled.cool("embed", "remote")
    assert ([], {}) == (blobs(compiled), pins.owners(compiled.state / "cache"))
    assert "remote" == compiled.function("embed")["tier"]
    tier, cold, told = ask(compiled)
    assert ("remote", [weights]) == (tier, blobs(compiled))
    assert cold == pytest.approx(hot, abs=1e-5)
    assert re.search(r"^Fetched \d+\.\d MB from package://\w+ at \d+\.\d+ [GM]B/s\.$", told, re.MULTILINE)


def test_engines_stay_when_the_weights_go_and_their_pins_come_back(compiled: Any) -> None:
    compiled.cool("embed", "remote")
    _, _, told = ask(compiled)
    assert "Engine aot_inductor." in told
    [owner] = pins.owners(compiled.state / "cache")
    assert (compiled.state / "snapshots") == Path(owner).parent


def test_weights_that_have_left_memory_are_read_ahead_in_the_order_of_an_earlier_start(compiled: Any) -> None:
    ask(compiled)
    orders = list((compiled.state / "readahead").iterdir())
    assert 1 == len(orders)
    paths = [path for path, _, _ in json.loads(orders[0].read_text())["extents"]]
    assert any(path.startswith(str(compiled.state / "code")) for path in paths)
    compiled.cool("embed", "stored")
    [weights] = blobs(compiled)
    if residency.drop(weights) > 0.1 * weights.stat().st_size:
        pytest.skip("this file system keeps what it was asked to drop")
    tier, _, told = ask(compiled)
    assert "stored" == tier
    assert re.search(r"^Read \d+\.\d MB from disk at \d+\.\d+ [GM]B/s", told, re.MULTILINE), told
