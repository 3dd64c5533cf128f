"""The Lambda contract's figures, each on a node of its own: what calls cost, many functions, an alias that moves."""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import contract_alias, contract_calls, contract_many
from .figures import Figure


def figures() -> list[Figure]:
    """Measure all three."""
    rows: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="glowplug-bench-") as scratch:
        for part in (contract_calls, contract_alias, contract_many):
            print(f"contract: {part.__name__.rpartition('_')[2]} …", flush=True)
            rows += part.figures(Path(scratch))
    return rows
