"""How many instances run, on a real node: many sleepers at once, a chain on one node, tiers on timers and by hand."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def test_a_hundred_one_second_sleepers_finish_within_five_seconds(misbehaving: Any) -> None:
    misbehaving.admin("POST", "functions/sleeps/warm")

    def call(number: int) -> Any:
        path = "/2015-03-31/functions/sleeps/invocations"
        return misbehaving.request("POST", path, {"seconds": 1, "n": number})

    begun = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(call, range(100)))
    spent = time.monotonic() - begun
    assert [200] * 100 == [status for status, _, _ in answers]
    assert list(range(100)) == [answer["n"] for _, _, answer in answers]
    assert spent < 5.0


def test_a_chain_of_three_functions_that_call_each_other(misbehaving: Any) -> None:
    path = "/2015-03-31/functions/chain-a/invocations"
    status, _, answer = misbehaving.request("POST", path, {"chain": ["chain-b", "chain-c"]})
    assert (200, ["chain-a", "chain-b", "end"]) == (status, answer)


def test_module_state_is_made_once_and_shared_by_later_forks(misbehaving: Any) -> None:
    """A parked function forks from the state after its import: each new instance counts from one again."""
    path = "/2015-03-31/functions/answers/invocations"
    misbehaving.admin("POST", "functions/answers/cool", {"to": "stored"})
    misbehaving.request("POST", path, {})
    _, _, second = misbehaving.request("POST", path, {})
    assert second["calls"] == 2
    misbehaving.admin("POST", "functions/answers/cool", {"to": "parked"})
    _, headers, again = misbehaving.request("POST", path, {})
    assert again["calls"] == 1
    assert again["pid"] != second["pid"]
    assert headers["x-glowplug-tier"] == "parked"


def test_cooling_to_parked_leaves_no_instance_and_to_stored_no_process(misbehaving: Any) -> None:
    misbehaving.admin("POST", "functions/answers/warm")
    assert misbehaving.function("answers")["tier"] == "hot"
    misbehaving.admin("POST", "functions/answers/cool", {"to": "parked"})
    row = misbehaving.function("answers")
    assert ("parked", 0) == (row["tier"], row["instances"])
    misbehaving.admin("POST", "functions/answers/cool", {"to": "stored"})
    assert misbehaving.function("answers")["tier"] == "stored"


def test_every_start_is_in_the_ledger_with_its_phases(misbehaving: Any) -> None:
    misbehaving.admin("POST", "functions/answers/cool", {"to": "parked"})
    _, headers, _ = misbehaving.request("POST", "/_url/answers/", {})
    request_id = headers["x-amzn-requestid"]
    starts = misbehaving.admin("GET", "starts")["starts"]
    record = next(start for start in starts if start["request_id"] == request_id)
    assert ("answers", "parked") == (record["function"], record["tier"])
    names = [phase["name"] if isinstance(phase, dict) else phase[0] for phase in record["phases"]]
    assert "fork" in names
    _, _, told = misbehaving.request("GET", f"/_glowplug/explain/{request_id}")
    assert "parked" in json.dumps(told)
    assert "fork" in json.dumps(told)


def test_metrics_name_what_lambda_names(misbehaving: Any) -> None:
    misbehaving.request("POST", "/_url/answers/", {})
    misbehaving.request("POST", "/_url/raises/", {})
    _, headers, text = misbehaving.request("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert 'Invocations_total{function_name="answers"' in text
    assert 'Errors_total{function_name="raises"' in text
