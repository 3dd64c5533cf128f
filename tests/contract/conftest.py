"""Contract tests that run against real nodes share the fixtures of the end-to-end tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

_END_TO_END = Path(__file__).resolve().parents[1] / "e2e" / "conftest.py"


@pytest.fixture(scope="session")
def serving() -> Any:
    """Run a node of the test's own: ``with serving(template, state, **environ) as node``."""
    spec = importlib.util.spec_from_file_location("end_to_end_nodes", _END_TO_END)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.served
