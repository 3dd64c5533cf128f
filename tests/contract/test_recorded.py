"""Recorded exchanges with AWS (239 tests' worth) made again on a node: what is equal, and what is not and why.

The recordings are data that is not part of this repository. Where they are not, the tests are skipped, except in CI.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import replays.access
import replays.functions
import replays.settings
import replays.versions  # noqa: F401
from replays.harness import ACCOUNT, REGION, REPLAYS, Stage
from replays.matching import Matcher, plain

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "recorded"
RECORDED = Path(os.environ.get("LAMBDA_RECORDINGS", ROOT.parent / "shared" / "conformance"))
DIFFERENT: dict[str, str] = json.loads((HERE / "differences.json").read_text())
"""Ids that are not equal, with the reason; docs/lambda-api.md lists them."""
TESTS: list[str] = json.loads((HERE / "tests.json").read_text())
"""The ids of tests of tier-1 and tier-2 operations: what the share of equal ones is of."""


def recordings() -> dict[str, Any]:
    """Return what was recorded, by the id of the test."""
    file = RECORDED / "lambda_api.recorded.json"
    if not file.exists():
        message = f"the recorded exchanges are not here ({file}); LAMBDA_RECORDINGS says where else they are"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    found = json.loads(file.read_text())
    return {name.split("::", 1)[1]: recorded["recorded-content"] for name, recorded in found.items()}


@pytest.fixture(scope="session")
def queue_and_bucket() -> Iterator[str]:
    """A server that speaks S3 and SQS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def node(serving: Any, queue_and_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node of the account that was recorded, with an account's limits, that stores functions of all runtimes."""
    state = tmp_path_factory.mktemp("contract") / "state"
    environ = {
        "AWS_ENDPOINT_URL": queue_and_bucket, "AWS_ACCESS_KEY_ID": "test", "AWS_DEFAULT_REGION": REGION,
        "GLOWPLUG_ACCOUNT_ID": ACCOUNT, "GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_FOREIGN_RUNTIMES": "store",
        "GLOWPLUG_LIMIT_ACCOUNT_CONCURRENCY": "1000", "GLOWPLUG_LIMIT_UNRESERVED_CONCURRENCY": "100",
    }  # fmt: skip
    with serving(None, state, **environ) as node:
        yield node
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def replayed(node: Any, queue_and_bucket: str) -> dict[str, list[str]]:
    """Every replay, made once: how its answers differ from what was recorded, by id."""
    recorded = recordings()
    s3 = boto3.client(
        "s3", endpoint_url=queue_and_bucket, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )
    s3.create_bucket(Bucket="code")
    found = {}
    for test in TESTS:
        found[test] = _replay(test, recorded[test], Stage(node.endpoint, s3, "code"))
    return found


def _replay(test: str, recorded: Any, stage: Stage) -> list[str]:
    make = REPLAYS.get(test)
    if make is None:
        return ["is not replayed"]
    try:
        make(stage)
    except Exception as error:  # whatever a replay trips over is how it differs
        return [f"the replay ended with {type(error).__name__}: {error}"]
    finally:
        stage.clear()
    matcher = Matcher(**stage.known)
    answers = plain(stage.answers)
    for key in ("list_all", "list_default"):  # this node has nobody else's functions; AWS's account had
        if key in answers and "Functions" in answers[key]:
            answers[key]["Functions"].sort(key=lambda one: one["FunctionArn"])
    return matcher.differences(recorded, answers)


@pytest.mark.timeout(600)
def test_at_least_nine_in_ten_recorded_exchanges_are_equal(replayed: dict[str, list[str]]) -> None:
    equal = [test for test, differences in replayed.items() if not differences]
    assert len(equal) >= 0.9 * len(TESTS), f"{len(equal)} of {len(TESTS)}"


@pytest.mark.timeout(600)
def test_what_is_not_equal_is_what_the_table_says(replayed: dict[str, list[str]]) -> None:
    different = {test: lines for test, lines in replayed.items() if lines}
    unexpected = {test: lines for test, lines in different.items() if test not in DIFFERENT}
    assert {} == unexpected, json.dumps(unexpected, indent=1)
    assert set(DIFFERENT) == set(different)


def test_the_docs_list_what_is_not_equal_and_how_many_are() -> None:
    text = (ROOT / "docs" / "lambda-api.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+::[^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert DIFFERENT == rows
    assert f"Of {len(TESTS)} that are about operations answered here, {len(TESTS) - len(DIFFERENT)} get" in text
