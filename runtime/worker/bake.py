"""The baker: a process of its own that imports the author's module and makes a snapshot of one of its models.

    python -P -m glowplug.runtime.worker.bake [--events-fd 3] < job.json

The job, one JSON object on standard input:

    {"load": {…the fields of wire.Load…}, "model": "", "wanted": {…what the template asks for…},
     "staging": "/…/bake/17", "snapshots": "/…/snapshots", "again": "<key of a snapshot to measure again>"}

Events, one JSON object a line, on descriptor 3 (1 and 2 are the author's, whose module may print):

    {"event": "progress", "phase": "import" | "export" | "compile LABEL" | "measure LABEL" | "check", "fraction": 0.15}
    {"event": "done", "key": "…", "reused": false, "verdict": "aot_inductor", "reason": "…", "measured": {…}}
    {"event": "failed", "error_type": "ExportFailed", "message": "…"}                               exit status 1

Candidates are measured by the same program in a further process (``measuring``). TMPDIR and the compiler's caches are
those of the environment that the node starts this in; the author's module sees the function's environment.

Whoever reads the events is who the work is for. When that end is closed, because the node was killed, the bake ends at
once with all that it started: compilers too, which is why a thread watches the pipe and PR_SET_PDEATHSIG does not do.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from glowplug.runtime.process.wire import Load
from glowplug.snapshot.assignments import figures
from glowplug.snapshot.choice import Wanted
from glowplug.snapshot.definition import OnnxDefinition
from glowplug.snapshot.errors import EngineUnavailable
from glowplug.snapshot.job import MAKING_S, Baked, Job

from . import models, shadow
from .loader import enter, find_handler, roots_of, top_level
from .measuring import Measuring, serve
from .model import Model

_KEPT = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CXX")
"""Names whose value stays the baker's own after the function's environment is in place: the compiler reads them."""


class Events:
    """Writes event lines to a descriptor that no child inherits."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor

    def watch(self) -> None:
        """End this process when nobody reads the events any more; with its group where it leads one.

        A measuring process is in the group of the bake that started it, which watches for itself.
        """
        threading.Thread(target=self._watch, name="glowplug-events-watch", daemon=True).start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, 0)  # POLLERR only, which is what the end of a pipe's last reader is
        poll.poll()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, event: str, **fields: Any) -> None:
        """Write one line."""
        os.write(self._descriptor, json.dumps({"event": event, **fields}).encode() + b"\n")

    def progress(self, phase: str, fraction: float) -> None:
        """Say how far the bake is; ``fraction`` of its usual duration."""
        self("progress", phase=phase, fraction=fraction)


def main(arguments: list[str] | None = None) -> int:
    """Run the job on standard input; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m glowplug.runtime.worker.bake")
    parser.add_argument("--events-fd", type=int, default=3)
    events = Events(parser.parse_args(arguments).events_fd)
    events.watch()
    try:
        job = json.loads(sys.stdin.buffer.readline())
        own = dict(os.environ)
        if job.get("measures"):
            serve(job, _import(job, own), sys.stdin.buffer, events)
        else:
            events.progress("import", 0.0)
            events("done", **_bake(job, _import(job, own), own, events))
    except Exception as error:  # the seam to the node: whatever went wrong becomes an event, with its trace in the log
        sys.excepthook(type(error), error, error.__traceback__)
        events("failed", error_type=type(error).__name__, message=str(error))
        return 1
    return 0


def _import(job: Mapping[str, Any], own: Mapping[str, str]) -> Model:
    """Import the handler as a worker would, and return the job's model."""
    load = Load(**job["load"])
    enter(load)
    _make_way(load)
    os.environ.update({name: own[name] for name in _KEPT if name in own})
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(own.get("TMPDIR") or tempfile.gettempdir(), "inductor")))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else a pool of processes outlives the compile
    models.declare(load.models, device=load.device)
    find_handler(load.handler)
    return models.find(job["model"])


def _make_way(load: Load) -> None:
    """Let the module import its own copies of what only this program needs.

    Raises ``EngineUnavailable`` where it brings a torch: no engine of this process's torch can be loaded with that.
    """
    roots = roots_of(load)
    brought = shadow.brought(roots)
    if PathFinder.find_spec("torch", roots) is not None:  # it need not be loaded yet, so ``brought`` would not tell
        raise EngineUnavailable("the code brings its own torch; engines are made with the node's")
    for name in {"msgpack", top_level(load.handler)}.intersection(brought):
        shadow.forget(name)


def _bake(job: Mapping[str, Any], model: Model, own: Mapping[str, str], events: Events) -> dict[str, Any]:
    definition, files = model.definition, model.files
    staging, published = Path(job["staging"]), Path(job["snapshots"])
    limits: dict[str, Any] = {
        "wanted": Wanted.from_json(job["wanted"]),
        "again": job.get("again", ""),
        "device": Load(**job["load"]).device,
        "making_s": job.get("making_s", MAKING_S),
    }
    with Measuring(job, own) as measure:
        if isinstance(definition, OnnxDefinition):
            from glowplug.snapshot.onnx.bake import bake as bake_onnx  # late, both: only the other one needs torch

            onnx_work = Job(definition, files, staging, published, **limits)
            return _summary(bake_onnx(onnx_work, progress=events.progress, measure=measure))
        from glowplug.snapshot.bake import bake

        work = Job(definition, files, staging, published, **limits)
        return _summary(bake(work, progress=events.progress, measure=measure))


def _summary(baked: Baked) -> dict[str, Any]:
    return {
        "key": baked.manifest.key,
        "reused": baked.reused,
        "verdict": baked.verdict,
        "reason": baked.reason,
        "measured": {label: figures(record) for label, record in baked.manifest.engines.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
