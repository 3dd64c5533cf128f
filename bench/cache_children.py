"""Child processes that take one JSON object a line and answer with one: what the benches time runs in them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from .served import ROOT


class Unavailable(Exception):
    """The child cannot do its work on this machine; the message is the reason it printed."""


class Child:
    """A running child. ``ask`` may be split into ``send`` and ``answer``, to have several work at once."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self._process = process
        self._name = name

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **order: object) -> dict[str, Any]:
        """Send an order and return the answer."""
        self.send(**order)
        return self.answer()

    def send(self, **order: object) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next answer. Raises ``RuntimeError`` when the child has died; it has said why on stderr."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name}: ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def child(module: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run ``python -m module`` until the block ends. Raises ``Unavailable`` when it says so instead of ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            running = Child(process, f"{module} {' '.join(arguments)}")
            first = running.answer()
            if "unavailable" in first:
                raise Unavailable(str(first["unavailable"]))
            yield running
        finally:
            process.kill()


class PeakMemory:
    """Samples the memory of its own that a process takes, beyond what it had: anonymous and shared memory, in bytes.

    Pages of a mapped file are not counted: they are the page cache's, there is one of each however many map it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._before = own_bytes(pid)
        self.extra_bytes = 0

    def __enter__(self) -> PeakMemory:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Sample once more and stop."""
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.002)
            self.extra_bytes = max(self.extra_bytes, own_bytes(self._pid) - self._before)


def own_bytes(pid: int) -> int:
    """Return RssAnon + RssShmem of /proc/PID/status, in bytes."""
    total = 0
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total
