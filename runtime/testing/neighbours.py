"""Doubles of what else routing talks to: models, logs, memory."""

from __future__ import annotations

import math
from pathlib import Path

from glowplug.runtime.routing.ports import EnginePlan, InvocationLog, Worker
from glowplug.runtime.spec import FunctionSpec


class FakeModels:
    """Cache, snapshots and code in one: every file exists; ``engine`` is what ``plan`` gives until it is distrusted."""

    def __init__(self, engine: str = "eager", code: Path = Path("/code")) -> None:
        self.engine = engine
        self.code = code
        self.distrusted: list[tuple[str, str, str]] = []
        self.bakes: list[str] = []
        self.files_error: Exception | None = None
        self.plan_error: Exception | None = None

    async def files(self, spec: FunctionSpec) -> dict[str, dict[str, str]]:
        """Return a path for each file."""
        if self.files_error is not None:
            raise self.files_error
        return {model.name: {file.name: f"/blobs/{file.sha256}" for file in model.files} for model in spec.models}

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return the engine for every model."""
        if self.plan_error is not None:
            raise self.plan_error
        reason = "" if self.engine != "eager" else "not baked yet"
        return [EnginePlan(model.name, self.engine, "/snapshots/key", b"{}", reason) for model in spec.models]

    def distrust(self, spec: FunctionSpec, model_name: str, engine: str, reason: str) -> None:
        """Go back to eager."""
        self.distrusted.append((model_name, engine, reason))
        self.engine = "eager"

    def request_bake(self, spec: FunctionSpec) -> None:
        """Note it."""
        self.bakes.append(spec.name)

    def path(self, digest: str) -> Path:
        """Return the same directory for every digest."""
        return self.code


class FakeLog:
    """A function's log as a list of entries, a word and its values."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, object]] = []

    def words(self) -> list[str]:
        """Return what was written, without values."""
        return [word for word, _ in self.entries]

    def init_start(self, runtime: str) -> None:
        """Note INIT_START."""
        self.entries.append(("INIT_START", runtime))

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Note INIT_REPORT."""
        self.entries.append(("INIT_REPORT", error_type or status or init_ms))

    def restore_start(self, runtime: str) -> None:
        """Note RESTORE_START."""
        self.entries.append(("RESTORE_START", runtime))

    def restore_report(self, restore_ms: float) -> None:
        """Note RESTORE_REPORT."""
        self.entries.append(("RESTORE_REPORT", restore_ms))

    def output(self, data: bytes) -> None:
        """Note output outside of an invocation."""
        self.entries.append(("output", data))

    def invocation(self, lines: InvocationLog, /) -> bytes:
        """Note an invocation and return its START and REPORT."""
        self.entries.append(("invocation", lines))
        return f"START RequestId: {lines.request_id}\nREPORT RequestId: {lines.request_id}\t\n".encode()


class FakeLogs:
    """The logs of all functions."""

    def __init__(self) -> None:
        self.logs: dict[str, FakeLog] = {}

    def of(self, function: str) -> FakeLog:
        """Return one log."""
        return self.logs.setdefault(function, FakeLog())


class FakeMemory:
    """Every worker is admitted and uses ``peak`` bytes; ``available`` bytes are free."""

    def __init__(self, *, peak: int = 0, available: float = math.inf) -> None:
        self.peak = peak
        self.available = available
        self.admitted: list[tuple[str, int]] = []

    def admit(self, worker: Worker, limit_bytes: int, /) -> None:
        """Note it."""
        self.admitted.append((worker.worker_id, limit_bytes))

    def peak_bytes(self, worker: Worker, /) -> int:
        """Return the same for every worker."""
        return self.peak

    def available_bytes(self) -> int:
        """Return what is free."""
        return 1 << 50 if math.isinf(self.available) else int(self.available)
