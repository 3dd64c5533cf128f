"""Measuring for a bake: a process that imports the author's module once and measures candidates in forks of itself.

Workers are forks of a process that has imported torch and the handler, so that is what is measured; and the import,
which takes seconds, is paid once and not for each of a dozen measurements. The process is started by the baker with the
same program (a job with ``"measures": true``) and answers one line per request:

    {"manifest": "<JSON text of the draft>", "label": "aot_inductor"}
    {"event": "measured", …fields of snapshot.measure.Measurement…}
    {"event": "failed", "error_type": …, "message": …}              eager itself cannot be measured: nothing can be said
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from glowplug.runtime.process.wire import Load
from glowplug.snapshot.apart import Died, Reported, apart
from glowplug.snapshot.candidates import EAGER
from glowplug.snapshot.definition import OnnxDefinition
from glowplug.snapshot.errors import CheckFailed
from glowplug.snapshot.manifest import Manifest
from glowplug.snapshot.rounds import Measurement

MEASURE_TIMEOUT_S = 180.0
"""A measurement takes some seconds; beyond this the engine hangs."""

_START_TIMEOUT_S = 300.0  # imports torch and the handler, on a machine that serves meanwhile


class Say(Protocol):
    """Writes an event."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Write one line."""


class Measuring:
    """The baker's end. Entered, it measures; the process is started by the first measurement."""

    def __init__(self, job: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._job = job
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end()

    def __call__(self, draft: Manifest, label: str) -> Measurement:
        """Measure one candidate. One that dies or hangs is refused, and says how.

        Raises ``CheckFailed`` when eager cannot be measured.
        """
        fresh = self._process is None
        if fresh:
            self._start()
        answer = self._ask({"manifest": draft.to_bytes().decode(), "label": label}, fresh)
        if answer.get("event") == "measured":
            return Measurement(**{name: value for name, value in answer.items() if name != "event"})
        if answer.get("event") == "failed":
            raise CheckFailed(f"eager in a fresh process: {answer['error_type']}: {answer['message']}")
        return Measurement(refused=f"the measuring process {self._end()}")

    def _start(self) -> None:
        receive, send = os.pipe()
        command = [sys.executable, "-P", "-m", "glowplug.runtime.worker.bake", "--events-fd", str(send)]
        self._answers = os.fdopen(receive, "rb")
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, pass_fds=(send,), env=dict(self._environment), cwd="/"
            )
        finally:
            os.close(send)
        self._write({**self._job, "measures": True})

    def _ask(self, request: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """Return the answer; nothing when there is none in time."""
        self._write(request)
        assert self._answers is not None  # noqa: S101 - started just before
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        wait_s = MEASURE_TIMEOUT_S + (_START_TIMEOUT_S if fresh else 10.0)  # the child's own limit strikes first
        line = self._answers.readline() if poll.poll(wait_s * 1e3) else b""
        return dict(json.loads(line)) if line else {}

    def _write(self, value: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None  # noqa: S101, PT018 - started just before
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it died; that it does not answer says so
            pass

    def _end(self) -> str:
        """End the process; returns how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "was not started"
        process.kill()
        process.communicate()
        if self._answers is not None:
            self._answers.close()
        status = process.returncode
        return f"ended with status {status}" if status >= 0 else "hung or was killed"


def serve(job: Mapping[str, Any], model: Any, requests: IO[bytes], say: Say) -> None:
    """Answer measuring requests until their end. ``model`` is the imported one."""
    measure = _measure_of(model, Load(**job["load"]).device)
    gc.collect()
    gc.freeze()  # as in a zygote: a collection over all of torch's objects takes a tenth of a second
    staging, threads = Path(job["staging"]), len(os.sched_getaffinity(0))
    for line in requests:
        request = json.loads(line)
        manifest, label = Manifest.from_bytes(request["manifest"].encode()), request["label"]
        work = partial(_figures, measure, model.definition, model.files, staging, manifest, label, threads)
        try:
            say("measured", **apart(work, seconds=MEASURE_TIMEOUT_S))
        except (Reported, Died) as error:
            if label == EAGER:
                kind = error.error_type if isinstance(error, Reported) else "Died"
                say("failed", error_type=kind, message=error.args[0])
            else:
                say("measured", **dataclasses.asdict(Measurement(refused=str(error))))


def _figures(measure: Callable[..., Measurement], *what: Any) -> dict[str, Any]:
    return dataclasses.asdict(measure(*what))


def _measure_of(model: Any, device: str) -> Callable[..., Measurement]:
    """Return what measures a model of its kind on ``device``, with this process made ready for it; only one kind needs
    torch, and only that has devices."""
    if isinstance(model.definition, OnnxDefinition):
        from glowplug.snapshot.onnx.measure import measure as measure_onnx  # late, both: one of them imports torch

        return measure_onnx
    from glowplug.snapshot.measure import measure, prepare

    prepare()
    return partial(measure, device=device)
