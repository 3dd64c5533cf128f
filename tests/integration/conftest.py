"""The node's side of the process protocol, in plain blocking code: real zygotes and workers, no event loop."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from glowplug.runtime.process import wire
from glowplug.runtime.process.view import Place

PATIENCE_S = 30.0


class Channel:
    """Our end of one socket to a child; ``theirs`` is to be passed on."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE_S)
        self._decoder = wire.Decoder()
        self._messages: list[Any] = []
        self.pidfds: list[int] = []

    def send(self, message: wire.Message, descriptors: tuple[int, ...] = ()) -> None:
        frame = wire.encode(message, descriptors)
        socket.send_fds(self._ours, [frame.data], list(frame.descriptors))
        for descriptor in frame.spilled:
            os.close(descriptor)

    def send_bytes(self, data: bytes) -> None:
        self._ours.sendall(data)

    def receive(self) -> Any:
        while not self._messages:
            data, descriptors, _, _ = socket.recv_fds(self._ours, 65536, 16)
            if not data:
                raise EOFError
            self._messages += self._decoder.feed(data, descriptors)
        message = self._messages.pop(0)
        if isinstance(message, wire.Spawned):
            self.pidfds += self._decoder.take_descriptors()
        return message

    def ask(self, message: wire.Message) -> Any:
        self.send(message)
        return self.receive()

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()
        for pidfd in self.pidfds:
            os.close(pidfd)
        self.pidfds.clear()


class Process:
    """A zygote or worker: control channel, log pipe, and a data channel for a worker."""

    def __init__(self, *, data: bool = False) -> None:
        self.control = Channel()
        self.data = Channel() if data else None
        self._log, self.their_log = os.pipe()
        os.set_blocking(self._log, False)
        self.pid = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self.forked: list[Process] = []
        self.loaded: wire.Loaded | None = None
        self.ready: wire.Ready | None = None
        self.base: Process  # of a function zygote
        self.zygote: Process  # of a worker

    def descriptors(self) -> tuple[int, ...]:
        data = (self.data.theirs.fileno(),) if self.data else ()
        return (self.control.theirs.fileno(), self.their_log, *data)

    def passed(self) -> None:
        self.control.theirs.close()
        os.close(self.their_log)
        if self.data:
            self.data.theirs.close()

    def log(self) -> str:
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._log, 65536):
                parts.append(part)
        return b"".join(parts).decode()

    def spawn(self, role: str, child_id: str = "child", uid: int = -1, place: Place | None = None) -> Process:
        child = Process(data=role == "worker")
        self.forked.append(child)
        self.control.send(wire.Spawn(child_id, role, uid, uid, *(place or Place())), child.descriptors())
        spawned = self.control.receive()
        assert isinstance(spawned, wire.Spawned), spawned
        child.passed()
        child.pid = spawned.pid
        return child

    def worker(self, child_id: str = "w", **start: Any) -> Process:
        """Fork a worker and start it."""
        worker = self.spawn("worker", child_id)
        ready = worker.control.ask(start_frame(**start))
        assert isinstance(ready, wire.Ready), ready
        worker.ready = ready
        return worker

    def call(self, event: str = "{}", request_id: str = "r-1", **changes: Any) -> wire.Outcome:
        assert self.data is not None
        outcome = self.data.ask(invoke_frame(event, request_id, **changes))
        assert isinstance(outcome, wire.Outcome), outcome
        return outcome

    def result(self, event: str = "{}", **changes: Any) -> str:
        outcome = self.call(event, **changes)
        assert not outcome.failed, outcome
        return outcome.results[0].decode()

    def close(self) -> None:
        for child in self.forked:
            child.close()
        self.control.close()
        if self.data:
            self.data.close()
        os.close(self._log)


def start_frame(
    *, restored: bool = True, memory_bytes: int = 0, environment: dict[str, str] | None = None
) -> wire.Start:
    return wire.Start(
        instance_id="i-1",
        environment={"AWS_LAMBDA_LOG_STREAM_NAME": "stream", **(environment or {})},
        restored=restored,
        memory_bytes=memory_bytes,
        memory_mb=128,
        function_version="$LATEST",
        log_group="/aws/lambda/f",
        log_stream="stream",
        threads=1,
    )


def invoke_frame(event: str = "{}", request_id: str = "r-1", **changes: Any) -> wire.Invoke:
    fields: dict[str, Any] = {
        "deadline_ms": int(time.time() * 1000) + 3000,
        "function_arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
        "trace_id": "",
        "client_context": b"",
        "identity": b"",
        "threads": 1,
    }
    return wire.Invoke(request_id, [event.encode()], **(fields | changes))


def wait_gone(pid: int) -> bool:
    """Wait until ``pid`` is no process any more, a zombie included; False after the patience is over."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                os.waitpid(pid, os.WNOHANG)  # an orphan that came here because another test made this a subreaper
        except (FileNotFoundError, ProcessLookupError):
            return True
        select.select([], [], [], 0.005)
    return False


class Programs:
    """Starts zygotes and workers as the node does, and ends them with the test."""

    environment: ClassVar[dict[str, str]] = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "GOMP_SPINCOUNT": "1000",
    }

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.started: list[Process] = []
        self.wait_gone = wait_gone
        self.start_frame = start_frame
        self.invoke_frame = invoke_frame

    def base(self, preload: str = "lean", *, users: bool = False) -> Process:
        """Exec a base zygote and wait for its Hello."""
        arguments = ["--preload", preload, "--expose", str(self.root)] + ([] if users else ["--no-users"])
        process = self._exec("glowplug.runtime.process.zygote", arguments)
        self.hello = process.control.receive()
        assert isinstance(self.hello, wire.Hello), self.hello
        return process

    def exec_worker(self, *arguments: str) -> Process:
        """Exec a worker and wait for its Hello."""
        process = self._exec("glowplug.runtime.worker", list(arguments), data=True)
        assert isinstance(process.control.receive(), wire.Hello)
        return process

    def own_zygote(self, *arguments: str, preload: str = "lean") -> Process:
        """Exec the zygote of one function and wait for its Hello."""
        process = self._exec("glowplug.runtime.process.zygote", ["--own", "--preload", preload, *arguments])
        assert isinstance(process.control.receive(), wire.Hello)
        return process

    def load_frame(self, source: str, handler: str = "app.handler", **changes: Any) -> wire.Load:
        """Write ``source`` as app.py and return the frame that loads it."""
        (self.root / "app.py").write_text(source)
        names = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": ":UTC", "HOME": "/tmp"}
        fields: dict[str, Any] = {
            "function_name": "f",
            "handler": handler,
            "task_root": str(self.root),
            "import_paths": [str(self.root)],
            "environment": names | changes.pop("environment", {}),
            "models": [],
            "initialization_type": "on-demand",
            "parked": True,
            "observe": False,
        }
        return wire.Load(**(fields | changes))

    def function_zygote(self, source: str, preload: str = "lean", *, users: bool = False, **changes: Any) -> Process:
        """Return a function zygote that has imported ``source``."""
        base = self.base(preload, users=users)
        zygote = base.spawn("zygote", "z", uid=210_001 if users else -1)
        loaded = zygote.control.ask(self.load_frame(source, **changes))
        assert isinstance(loaded, wire.Loaded), loaded
        zygote.loaded = loaded
        zygote.base = base
        return zygote

    def _exec(self, module: str, arguments: list[str], *, data: bool = False) -> Process:
        process = Process(data=data)
        sockets = (process.descriptors()[0], *process.descriptors()[2:])
        words = ["--control-fd", str(sockets[0])] + (["--data-fd", str(sockets[1])] if data else [])
        process.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *words, *arguments],
            pass_fds=sockets,
            env={**self.environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src"))},
            stdin=subprocess.DEVNULL,
            stdout=process.their_log,
            stderr=process.their_log,
            cwd="/",
            start_new_session=True,
        )
        process.passed()
        process.pid = process.popen.pid
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            process.close()
        for process in self.started:
            assert process.popen is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(PATIENCE_S)
            process.popen.kill()
            process.popen.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Start zygotes and workers; all of them are gone when the test is over."""
    programs = Programs(tmp_path / "code")
    yield programs
    programs.close()


@pytest.fixture
def worker_of(programs: Programs) -> Callable[..., Process]:
    """Return a started worker of a handler's source, forked from its function zygote."""

    def build(source: str, **changes: Any) -> Process:
        start = changes.pop("start", {})
        zygote = programs.function_zygote(source, **changes)
        worker = zygote.worker(**start)
        worker.zygote = zygote
        return worker

    return build
