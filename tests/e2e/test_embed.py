"""The main job on real input: all-MiniLM-L6-v2 from the project's own template, by every way to call it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bakes import TEXTS, BakedEmbed
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from nodes import ServedNode, served

ROOT = Path(__file__).resolve().parents[2]
FOX, OTHER_FOX, RATES = TEXTS
pytestmark = pytest.mark.timeout(600)  # the first to come here may have to bake


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, baked_embed: BakedEmbed) -> Iterator[ServedNode]:
    """A node that serves the project's own template: ``echo`` and ``embed`` with its real model and its best engine."""
    state = tmp_path_factory.mktemp("shipped") / "state"
    baked_embed.give_to(state)
    with served(ROOT / "template.yaml", state) as node:
        yield node


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def check_embeddings(embeddings: list[list[float]]) -> None:
    assert [384] * 3 == [len(embedding) for embedding in embeddings]
    for embedding in embeddings:
        assert math.isclose(1.0, cosine(embedding, embedding), abs_tol=1e-5)
    assert cosine(embeddings[0], embeddings[1]) == pytest.approx(0.6996, abs=0.001)
    assert cosine(embeddings[0], embeddings[2]) == pytest.approx(0.1056, abs=0.001)


def test_embeddings_over_the_function_url(shipped: Any) -> None:
    status, headers, answer = shipped.request("POST", "/_url/embed/", {"texts": [FOX, OTHER_FOX, RATES]})
    assert 200 == status
    assert headers["content-type"] == "application/json"
    assert "server-timing" in headers
    check_embeddings(answer["embeddings"])


def test_one_text_by_host_name(shipped: Any) -> None:
    host = {"Host": f"embed.lambda-url.us-east-1.localhost:{shipped.port}", "Content-Type": "application/json"}
    status, _, text = shipped.request_raw("POST", "/", json.dumps({"text": FOX}).encode(), host)
    assert 200 == status
    assert len(json.loads(text)["embedding"]) == 384


def test_embeddings_through_boto3(shipped: Any) -> None:
    payload = json.dumps({"texts": [FOX, OTHER_FOX, RATES]})
    answer = shipped.lambda_client().invoke(FunctionName="embed", Payload=payload)
    assert "FunctionError" not in answer
    assert "$LATEST" == answer["ExecutedVersion"]
    check_embeddings(json.loads(answer["Payload"].read())["embeddings"])


def test_embedding_through_the_aws_cli(shipped: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [
        sys.executable, "-m", "awscli", "--endpoint-url", shipped.endpoint, "--region", "us-east-1",
        "lambda", "invoke", "--function-name", "embed", "--payload", json.dumps({"text": FOX}), str(out),
    ]  # fmt: skip
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_PAGER": ""}
    ran = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert json.loads(ran.stdout)["StatusCode"] == 200
    assert len(json.loads(out.read_text())["embedding"]) == 384


def test_bad_input_is_told_to_the_caller(shipped: Any) -> None:
    status, _, answer = shipped.request("POST", "/_url/embed/", {"txt": FOX})
    assert 400 == status
    assert "text" in json.dumps(answer)


def test_a_hundred_requests_on_parked_embed_start_at_most_as_many_instances_as_cores(shipped: Any) -> None:
    shipped.request("POST", "/_url/embed/", {"text": FOX})
    shipped.admin("POST", "functions/embed/cool", {"to": "parked"})
    before = len([start for start in shipped.admin("GET", "starts")["starts"] if start["function"] == "embed"])
    with ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(shipped.request, "POST", "/_url/embed/", {"text": FOX}) for _ in range(100)]
        assert [200] * 100 == [call.result()[0] for call in calls]
    after = len([start for start in shipped.admin("GET", "starts")["starts"] if start["function"] == "embed"])
    assert 1 <= after - before <= len(os.sched_getaffinity(0))


def test_scaled_to_zero_and_back_gives_the_same_answer(shipped: Any) -> None:
    _, _, hot = shipped.request("POST", "/_url/embed/", {"text": FOX})
    for tier in ("parked", "stored"):
        shipped.admin("POST", "functions/embed/cool", {"to": tier})
        assert shipped.function("embed")["instances"] == 0
        status, headers, cold = shipped.request("POST", "/_url/embed/", {"text": FOX})
        assert (200, tier) == (status, headers["x-glowplug-tier"])
        assert cold["embedding"] == pytest.approx(hot["embedding"], abs=1e-5)


def test_echo_returns_what_it_was_sent(shipped: Any) -> None:
    status, _, answer = shipped.request("POST", "/_url/echo/", {"hello": "world"})
    assert (200, {"hello": "world"}) == (status, answer)


def test_the_engine_is_baked_in_the_background_and_then_serves(shipped: Any, baked_embed: BakedEmbed) -> None:
    """Eager serves from the first second; the bake moves the function to its engine, and a restart to no other."""
    before, after = baked_embed.before, baked_embed.after
    assert before["engine"]["state"] in ("queued", "baking")
    assert ["eager"] == before["answered"]
    engine = after["engine"]
    assert "ready" == engine["state"], engine
    assert engine["engine"] in after["answered"]
    measured = {row["engine"]: row["refused"] for row in engine["measurements"]}
    assert "" == measured[engine["engine"]]  # whichever was measured to be the best
    assert {"eager": "", "aot_inductor": "", "onnxruntime": "", "onnxruntime-unpacked": ""}.items() <= measured.items()
    for told in (before, after):
        check_embeddings(told["answer"]["embeddings"])
    (found,) = shipped.function("embed")["engines"]
    assert ("ready", engine["measurements"]) == (found["state"], found["measurements"])


def test_the_report_shows_what_each_engine_was_measured_at(shipped: Any) -> None:
    engine = shipped.function("embed")["engines"][0]["engine"]
    printed = glowplug("bake", "embed", "--report", "--endpoint", shipped.endpoint).stdout.splitlines()
    assert printed[0].startswith(f"embed is served by {engine} (")
    assert printed[1].split() == ["ENGINE", "PARKED", "COLD", "WARM", "OWN", "SHARED", "ERROR"]
    assert any(line.startswith(f"{engine} * ") for line in printed)


def glowplug(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glowplug.deploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=300, check=False)


def test_its_snapshot_serves_on_another_node_that_has_no_compiler(
    shipped: Any, baked_embed: BakedEmbed, serving: Any, tmp_path: Path
) -> None:
    engine = baked_embed.after["engine"]["engine"]
    signing, trusted, moved = (tmp_path / name for name in ("signing.pem", "trusted.pem", "embed.glowplug"))
    key = Ed25519PrivateKey.generate()
    signing.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    arguments = ("bake", "embed", "--export", str(moved), "--endpoint", shipped.endpoint)
    exported = glowplug(*arguments, GLOWPLUG_SIGNING_KEY=str(signing))
    assert (0, "") == (exported.returncode, exported.stderr)
    assert moved.stat().st_size < 10_000_000, "the weights are not in it"
    refused = glowplug("bake", "--import", str(moved), "--endpoint", shipped.endpoint)
    assert 1 == refused.returncode
    assert "GLOWPLUG_TRUSTED_KEYS names no public key" in refused.stderr
    with serving(
        ROOT / "template.yaml", tmp_path / "B", PATH="/var/empty", GLOWPLUG_TRUSTED_KEYS=str(trusted)
    ) as other:
        imported = glowplug("bake", "--import", str(moved), "--json", "--endpoint", other.endpoint)
        assert 0 == imported.returncode, imported.stderr
        assert ["embed"] == [row["function"] for row in json.loads(imported.stdout)["models"]]
        other.bake("embed")  # which takes what is there
        assert engine == other.function("embed")["engines"][0]["engine"]
        status, headers, answer = other.request("POST", "/_url/embed/", {"texts": [FOX, OTHER_FOX, RATES]})
        assert 200 == status
        check_embeddings(answer["embeddings"])
        told = other.request("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")[2]
        assert other.function("embed")["engines"][0]["engine"] == engine, told
