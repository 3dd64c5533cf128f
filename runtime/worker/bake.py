"""The baker: a process of its own that imports the author's module and makes a snapshot of one of its models.

    python -P -m glowplug.runtime.worker.bake [--events-fd 3] < job.json

The job, one JSON object on standard input:

    {"load": {…the fields of wire.Load…}, "model": "", "engine": "auto",
     "staging": "/…/bake/17", "snapshots": "/…/snapshots", "again": "<key of a snapshot to measure again>"}

Events, one JSON object a line, on descriptor 3 (1 and 2 are the author's, whose module may print):

    {"event": "progress", "phase": "import" | "export" | "compile" | "measure" | "check", "fraction": 0.15}
    {"event": "done", "key": "…", "reused": false, "verdict": "aot_inductor", "reason": "…", "measured": {…}}
    {"event": "failed", "error_type": "ExportFailed", "message": "…"}                               exit status 1

Each engine is measured by the same program in a further fresh process, whose job has ``measure`` (an engine's name),
``manifest`` as well and which answers ``{"event": "measured", …}``. TMPDIR and the compiler's caches are those of the
environment that the node starts this in; the author's module sees the function's environment.

Whoever reads the events is who the work is for. When that end is closed, because the node was killed, the bake ends at
once with all that it started: compilers too, which is why a thread watches the pipe and PR_SET_PDEATHSIG does not do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glowplug.runtime.process.wire import Load
from glowplug.snapshot.bake import Baked, Job, Measurement, bake
from glowplug.snapshot.errors import CheckFailed, EngineUnavailable
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.measure import measure

from . import models, shadow
from .loader import enter, find_handler, roots_of, top_level

MEASURE_TIMEOUT_S = 180.0
"""A measuring process imports torch and the handler, then runs for about WARM_S; beyond this the engine hangs."""

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
    text = sys.stdin.buffer.read()
    try:
        job = json.loads(text)
        events.progress("import", 0.0)
        own = dict(os.environ)
        model = _import(job, own)
        if "measure" in job:
            events("measured", **_measure_here(job, model))
        else:
            events("done", **_bake(job, model, own, events))
    except Exception as error:  # the seam to the node: whatever went wrong becomes an event, with its trace in the log
        sys.excepthook(type(error), error, error.__traceback__)
        events("failed", error_type=type(error).__name__, message=str(error))
        return 1
    return 0


def _import(job: Mapping[str, Any], own: Mapping[str, str]) -> models.Model:
    """Import the handler as a worker would, and return the job's model."""
    load = Load(**job["load"])
    enter(load)
    _make_way(load)
    os.environ.update({name: own[name] for name in _KEPT if name in own})
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(own.get("TMPDIR") or tempfile.gettempdir(), "inductor")))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else a pool of processes outlives the compile
    models.declare(load.models)
    find_handler(load.handler)
    return models.find(job["model"])


def _make_way(load: Load) -> None:
    """Let the module import its own copies of what only this program needs.

    Raises ``EngineUnavailable`` where it brings a torch: no engine of this process's torch can be loaded with that.
    """
    brought = shadow.brought(roots_of(load))
    if "torch" in brought:
        raise EngineUnavailable("the code brings its own torch; engines are made with the node's")
    for name in {"msgpack", top_level(load.handler)}.intersection(brought):
        shadow.forget(name)


def _bake(job: Mapping[str, Any], model: models.Model, own: Mapping[str, str], events: Events) -> dict[str, Any]:
    staging = Path(job["staging"])

    def measured(draft: Manifest, engine: str) -> Measurement:
        return _measure_apart({**job, "measure": engine, "manifest": draft.to_bytes().decode()}, own)

    baked = bake(
        Job(
            model.definition,
            model.files,
            staging,
            Path(job["snapshots"]),
            engine=job.get("engine", "auto"),
            again=job.get("again", ""),
        ),
        progress=events.progress,
        measure=measured,
    )
    return _summary(baked)


def _summary(baked: Baked) -> dict[str, Any]:
    def figures(record: EngineRecord) -> dict[str, Any]:
        return {name: getattr(record, name) for name in ("cold_ms", "warm_ms", "worst_error", "refused")}

    return {
        "key": baked.manifest.key,
        "reused": baked.reused,
        "verdict": baked.verdict,
        "reason": baked.reason,
        "measured": {name: figures(record) for name, record in baked.manifest.engines.items()},
    }


def _measure_here(job: Mapping[str, Any], model: models.Model) -> dict[str, Any]:
    manifest = Manifest.from_bytes(job["manifest"].encode())
    threads = len(os.sched_getaffinity(0))
    found = measure(model.definition, model.files, Path(job["staging"]), manifest, job["measure"], threads)
    return dataclasses.asdict(found)


def _measure_apart(job: Mapping[str, Any], own: Mapping[str, str]) -> Measurement:
    """Measure in a fresh process. One that dies or hangs refuses the engine, and says how."""
    receive, send = os.pipe()
    command = [sys.executable, "-P", "-m", "glowplug.runtime.worker.bake", "--events-fd", str(send)]
    with os.fdopen(receive, "rb") as events:
        try:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(send,), env=dict(own), cwd="/")
        finally:
            os.close(send)
        try:
            child.communicate(json.dumps(job).encode(), timeout=MEASURE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return Measurement(0.0, 0.0, 0.0, refused=f"no answer within {MEASURE_TIMEOUT_S:.0f} s")
        lines = [json.loads(line) for line in events.read().splitlines()]
    last = lines[-1] if lines else {}
    if last.get("event") == "measured":
        return Measurement(**{name: value for name, value in last.items() if name != "event"})
    if last.get("event") == "failed":
        if job["measure"] == "eager":
            raise CheckFailed(f"eager in a fresh process: {last['error_type']}: {last['message']}")
        return Measurement(0.0, 0.0, 0.0, refused=f"{last['error_type']}: {last['message']}")
    return Measurement(0.0, 0.0, 0.0, refused=_death(child.returncode))


def _death(status: int) -> str:
    return f"crashed with {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


if __name__ == "__main__":
    sys.exit(main())
