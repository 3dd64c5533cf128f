"""``python -m bench``: measure everything once, print it as a table and as JSON.

``--only`` takes section names; ``--keep DIR`` uses (and keeps) a state directory, so that the engine is baked once.
Exit code 1 when a figure misses its target.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from . import coldstart, inprocess, memory, startup, throughput
from .figures import Figure, show
from .served import ROOT, Node, serve, wait_until_answers

SECTIONS = ("coldstart", "throughput", "memory", "idle", "startup", "many")


def main() -> int:
    """Run the chosen sections against one node and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--keep", type=Path, help="state directory to use and keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glowplug-bench-") as scratch:
        state = (options.keep or Path(scratch) / "state").absolute()
        state.parent.mkdir(parents=True, exist_ok=True)
        rows: list[Figure] = []
        with serve(state) as node:
            _wait_for_engine(node)
            if "coldstart" in options.only:
                plain_s = startup.plain_script_s()
                with inprocess.in_process(state) as baseline:
                    rows += coldstart.figures(node, baseline, plain_s)
            if "throughput" in options.only:
                rows += throughput.figures(node)
            if "memory" in options.only:
                rows += memory.instance_and_parked(node)
            if "idle" in options.only:
                rows += throughput.idle(node)
        if "startup" in options.only:
            rows += startup.figures(state)
        if "many" in options.only:
            rows += memory.many_parked(Path(scratch))
    show(rows, ROOT / "bench" / "results")
    return 1 if any(row.met is False for row in rows) else 0


def _wait_for_engine(node: Node, limit_s: float = 600.0) -> None:
    """Wait until ``embed`` is served by its baked engine rather than by eager."""
    wait_until_answers(node, "/_url/embed/", coldstart.SIXTEEN_TOKENS)
    print("baking the engine of embed …", flush=True)
    node.admin("POST", "functions/embed/bake", {"wait": True})
    end = time.monotonic() + limit_s
    while (row := node.function("embed"))["engine"] != "aot_inductor":
        if time.monotonic() > end:
            raise RuntimeError(f"embed is still served by another engine: {row}")
        time.sleep(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
