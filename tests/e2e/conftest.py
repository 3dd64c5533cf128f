"""Nodes that files of the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node that serves the project's own template: ``echo`` and ``embed`` with its real model."""
    state = tmp_path_factory.mktemp("shipped") / "state"
    with served(ROOT / "template.yaml", state) as node:
        yield node
