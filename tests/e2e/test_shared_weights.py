"""Several models in one function, and one checkpoint under several functions: its pages are in memory once.

What the kernel says of each mapping of a blob (``/proc/<pid>/smaps``) is compared: Rss counts a page for every process
that has it, Pss divides it among them, and private pages are copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

FUNCTIONS = Path(__file__).parent / "functions"
SIZE_KB = 2048 * 1024 * 4 // 1024


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("shared-weights")
    for name, value in (("a", 1.0), ("b", 2.0)):
        (home / name).mkdir()
        save_file({"weight": torch.full((2048, 1024), value)}, home / name / "model.safetensors")
    models = f"left: {{Source: 'file://{home}/a', Engine: eager}}, right: {{Source: 'file://{home}/b', Engine: eager}}"
    lines = ["AWSTemplateFormatVersion: '2010-09-09'", "Transform: AWS::Serverless-2016-10-31", "Resources:"]
    for name in ("one", "two"):
        lines.append(
            f"  {name.title()}:\n    Type: AWS::Serverless::Function\n"
            f"    Metadata: {{Glowplug: {{Model: {{{models}}}, MaxInstances: 1}}}}\n"
            f"    Properties: {{FunctionName: {name}, Handler: pair.handler, Runtime: python3.11, CodeUri: {FUNCTIONS},"
            f" Timeout: 30, MemorySize: 512}}"
        )
    (home / "template.yaml").write_text("\n".join(lines) + "\n")
    with serving(home / "template.yaml", home / "state", GLOWPLUG_FILE_ROOTS=str(home)) as running:
        yield running


def answer(node: Any, name: str) -> dict[str, Any]:
    status, headers, said = node.request("POST", f"/2015-03-31/functions/{name}/invocations", {})
    assert (200, None) == (status, headers.get("x-amz-function-error")), said
    return dict(said)


def pages_of(pid: int, path: str) -> dict[str, int]:
    """Return the kernel's figures for all mappings of a file in a process, in kB."""
    total: dict[str, int] = {}
    counted = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counted = line.endswith(path)
        elif counted and line.endswith(" kB"):
            name, _, value = line.partition(":")
            total[name] = total.get(name, 0) + int(value.split()[0])
    return total


def test_each_model_of_a_function_has_its_own_weights(node: Any) -> None:
    said = answer(node, "one")
    assert [2048 * 1024 * 1.0, 2048 * 1024 * 2.0] == said["sums"]
    assert 2 == len(set(said["files"]))
    assert ["left", "right"] == [engine["model"] for engine in node.function("one")["engines"]]


def test_two_functions_map_the_pages_of_one_checkpoint_and_copy_none(node: Any) -> None:
    said = [answer(node, name) for name in ("one", "two")]
    assert said[0]["files"] == said[1]["files"], "one blob, whoever deployed it"
    for path in said[0]["files"]:
        figures = [pages_of(one["pid"], path) for one in said]
        for own in figures:
            assert own["Rss"] >= SIZE_KB, "all of it was read"
            assert own["Shared_Clean"] >= SIZE_KB
            assert 0 == own["Private_Dirty"] + own["Private_Clean"] + own["Anonymous"]
        assert sum(own["Pss"] for own in figures) <= SIZE_KB + 64, "together they take it once"
