"""An engine that was damaged on disk, on a real node. Its snapshot has to be made again, so no test with it comes later."""

from __future__ import annotations

from typing import Any

import pytest

FOX = "The quick brown fox jumps over the lazy dog."


@pytest.mark.timeout(600)
def test_a_snapshot_with_one_flipped_byte_is_retired_and_the_function_still_answers(compiled: Any) -> None:
    assert "aot_inductor" == compiled.function("embed")["engines"][0]["engine"]
    _, _, hot = compiled.request("POST", "/_url/embed/", {"text": FOX})
    compiled.cool("embed", "stored")  # first: no process has the engine mapped any more
    (engine,) = (compiled.state / "snapshots").glob("*/model.so")
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.chmod(0o644)
    engine.write_bytes(data)
    status, headers, answer = compiled.request("POST", "/_url/embed/", {"text": FOX})
    assert (200, "stored") == (status, headers["x-glowplug-tier"])
    assert answer["embedding"] == pytest.approx(hot["embedding"], abs=1e-5)
    told = compiled.request("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")[2]
    assert "Engine eager; not a better one: " in told
    assert list((compiled.state / "snapshots").glob(".retired-*"))
    compiled.stop()  # it has begun to bake again, and would do so beside all other tests
