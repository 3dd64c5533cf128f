"""The coldest tiers on real weights: gone and fetched again, and on disk but out of memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache import pins, residency

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a bake takes minutes on a busy machine

FOX = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def embed(shipped: Any) -> Any:
    """The node with ``embed`` baked: a bake has the weights open."""
    shipped.bake("embed", "aot_inductor")
    return shipped


def ask(node: Any) -> tuple[str, list[float], str]:
    """Return the tier that was found, the answer, and the start in words."""
    status, headers, answer = node.request("POST", "/_url/embed/", {"text": FOX})
    assert 200 == status, answer
    told = node.request("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")[2]
    return headers["x-glowplug-tier"], answer["embedding"], told


def blobs(node: Any) -> list[Path]:
    return sorted(path for path in (node.state / "cache" / "blobs").glob("*/*") if path.stat().st_size > 1_000_000)


def test_remote_and_back_gives_the_same_answer(embed: Any) -> None:
    _, hot, _ = ask(embed)
    [weights] = blobs(embed)
    embed.cool("embed", "remote")
    assert ([], {}) == (blobs(embed), pins.owners(embed.state / "cache"))
    assert "remote" == embed.function("embed")["tier"]
    tier, cold, told = ask(embed)
    assert ("remote", [weights]) == (tier, blobs(embed))
    assert cold == pytest.approx(hot, abs=1e-5)
    assert re.search(r"^Fetched \d+\.\d MB from package://\w+ at \d+\.\d+ [GM]B/s\.$", told, re.MULTILINE)


def test_engines_stay_when_the_weights_go_and_their_pins_come_back(embed: Any) -> None:
    embed.cool("embed", "remote")
    _, _, told = ask(embed)
    assert "Engine aot_inductor." in told
    [owner] = pins.owners(embed.state / "cache")
    assert (embed.state / "snapshots") == Path(owner).parent


def test_weights_that_have_left_memory_are_read_ahead_in_the_order_of_an_earlier_start(embed: Any) -> None:
    ask(embed)
    orders = list((embed.state / "readahead").iterdir())
    assert 1 == len(orders)
    paths = [path for path, _, _ in json.loads(orders[0].read_text())["extents"]]
    assert any(path.startswith(str(embed.state / "code")) for path in paths)
    embed.cool("embed", "stored")
    [weights] = blobs(embed)
    if residency.drop(weights) > 0.1 * weights.stat().st_size:
        pytest.skip("this file system keeps what it was asked to drop")
    tier, _, told = ask(embed)
    assert "stored" == tier
    assert re.search(r"^Read \d+\.\d MB from disk at \d+\.\d+ [GM]B/s", told, re.MULTILINE), told
