"""Nodes that files of the end-to-end tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bakes import BakedEmbed
from nodes import ServedNode, served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node with every misbehaving function, and no torch: nothing in that template needs it."""
    state = tmp_path_factory.mktemp("misbehaving") / "state"
    with served(Path(__file__).parent / "misbehaving.yaml", state, GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield node


@pytest.fixture(scope="session")
def misbehaving_lambda(misbehaving: ServedNode) -> Any:
    """The boto3 client of that node."""
    return misbehaving.lambda_client()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, baked_embed: BakedEmbed) -> Iterator[ServedNode]:
    """A node whose ``embed`` is served by ``aot_inductor``, whichever engine was measured to be the best."""
    home = tmp_path_factory.mktemp("compiled")
    shutil.copytree(ROOT / "handlers", home / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "template.yaml").read_text()
    assert text.count("Engine: auto") == 1
    (home / "template.yaml").write_text(text.replace("Engine: auto", "Engine: aot_inductor"))
    baked_embed.give_to(home / "state")
    with served(home / "template.yaml", home / "state") as node:
        node.bake("embed")  # which takes what is there
        yield node
