"""From ``glowplug up`` on a warm state directory to first answers; and the script that people run instead."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from .coldstart import SIXTEEN_TOKENS
from .figures import Figure, at_most, median
from .served import ROOT, serve, wait_until_answers


def figures(state: Path) -> list[Figure]:
    """Start the node anew on ``state``, which must hold a deployed stack and a baked engine."""
    section = "glowplug up on a warm state directory"
    rows = []
    with serve(state) as node:
        echo_s = wait_until_answers(node, "/_url/echo/", {"hello": "world"}) - node.listening_s
        embed_s = wait_until_answers(node, "/_url/embed/", SIXTEEN_TOKENS)
        rows += [
            Figure(section, "listener up", node.listening_s, "s"),
            at_most(section, "first answer of echo after the listener is up", echo_s, "s", 1.0),
            at_most(section, "first answer of embed", embed_s, "s", 6.0),
        ]
    return rows


def plain_script_s(runs: int = 3) -> float:
    """Return the median wall time of ``plain_script.py``, page cache warm."""
    spent = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "bench" / "plain_script.py")], check=True, capture_output=True)
        spent.append(time.perf_counter() - begun)
    return median(spent[1:])
