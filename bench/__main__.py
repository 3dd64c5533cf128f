"""``python -m bench``: measure everything once, print it as a table and as JSON.

``--only`` takes section names, or ``cache`` for all of the cache's; ``--keep DIR`` uses (and keeps) a state directory,
so that the engine is baked once. ``--work DIR`` is where the cache's benches put (and remove) their files, 5 GB on the
disk that is to be measured; ``--scale 0.1`` makes those files smaller, to try whether the benches work: such figures
are shown and not kept. Exit code 1 when a figure misses its target.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from . import asynchronous, coldstart, contract, engines, events, inprocess, memory, queues, startup, throughput
from .cache_files import workspace
from .cache_sections import CACHE_SECTIONS
from .figures import Figure, show
from .served import ROOT, Node, serve, wait_until_answers

NODE_SECTIONS = ("coldstart", "throughput", "memory", "idle", "startup", "many", "engines")
CONTRACT, QUEUE, EVENTS = "contract", "queue", "events"
SECTIONS = (*NODE_SECTIONS, CONTRACT, QUEUE, EVENTS, *CACHE_SECTIONS)
ALL_OF_CACHE = "cache"


def main() -> int:
    """Run the chosen sections and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*SECTIONS, ALL_OF_CACHE), default=SECTIONS)
    parser.add_argument("--keep", type=Path, help="state directory to use and keep")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="directory for the cache's files")
    parser.add_argument("--scale", type=_scale, default=1.0, help="size of the cache's files, 0 to 1")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that directories are removed
    chosen = set(options.only) | (set(CACHE_SECTIONS) if ALL_OF_CACHE in options.only else set())
    rows: list[Figure] = []
    if chosen.intersection(NODE_SECTIONS):
        rows += _of_a_node(chosen, options.keep)
    if CONTRACT in chosen:
        rows += contract.figures()
    if QUEUE in chosen:
        with tempfile.TemporaryDirectory(prefix="glowplug-queue-", dir=options.work) as scratch:
            rows += queues.figures(Path(scratch))
            rows += asynchronous.figures(Path(scratch))
    if EVENTS in chosen:
        with tempfile.TemporaryDirectory(prefix="glowplug-events-", dir=options.work) as scratch:
            rows += events.figures(Path(scratch))
    if chosen.intersection(CACHE_SECTIONS):
        with workspace(options.work, options.scale) as space:
            for name, measure in CACHE_SECTIONS.items():
                if name in chosen:
                    print(f"cache: {name} …", flush=True)
                    rows += measure(space)
    whole = options.scale == 1
    remark = "" if whole else f"; cache at scale {options.scale:g}: not the figures that are claimed"
    show(rows, ROOT / "bench" / "results" if whole else None, remark)
    return 1 if any(row.met is False for row in rows) else 0


def _scale(text: str) -> float:
    scale = float(text)
    if not 0 < scale <= 1:
        raise argparse.ArgumentTypeError("between 0 and 1")
    return scale


def _of_a_node(chosen: set[str], keep: Path | None) -> list[Figure]:
    """Run the sections that need a node; ``many`` has one of its own."""
    rows: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="glowplug-bench-") as scratch:
        state = (keep or Path(scratch) / "state").absolute()
        state.parent.mkdir(parents=True, exist_ok=True)
        with serve(state) as node:
            _wait_for_engine(node)
            if "coldstart" in chosen:
                plain_s = startup.plain_script_s()
                with inprocess.in_process(state) as baseline:
                    rows += coldstart.figures(node, baseline, plain_s)
            if "throughput" in chosen:
                rows += throughput.figures(node)
            if "memory" in chosen:
                rows += memory.instance_and_parked(node)
            if "idle" in chosen:
                rows += throughput.idle(node)
        if "startup" in chosen:
            rows += startup.figures(state)
        if "many" in chosen:
            rows += memory.many_parked(Path(scratch))
        if "engines" in chosen:
            rows += engines.restores(state) + engines.choices(Path(scratch))
    return rows


def _wait_for_engine(node: Node, limit_s: float = 600.0) -> None:
    """Wait until ``embed`` is served by the engine that its bake has chosen."""
    wait_until_answers(node, "/_url/embed/", coldstart.SIXTEEN_TOKENS)
    print("baking the engine of embed …", flush=True)
    node.admin("POST", "functions/embed/bake", {"wait": True})
    end = time.monotonic() + limit_s
    while (row := node.function("embed"))["engines"][0]["state"] != "ready":
        if time.monotonic() > end:
            raise RuntimeError(f"embed is not baked: {row}")
        time.sleep(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
