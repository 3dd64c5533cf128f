"""Doubles of what else routing talks to: models, logs, memory, the watch of engines."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from glowplug.runtime.events.accepting import Accepted, NewEvent
from glowplug.runtime.queue.steps import Step
from glowplug.runtime.routing.distrust import Kind
from glowplug.runtime.routing.ports import EnginePlan, InvocationLog, Weights, Worker
from glowplug.runtime.routing.records import Fetch, ReadAhead, StartRecord
from glowplug.runtime.spec import FunctionSpec

from .clock import ManualClock


class FakeReading:
    """What is read ahead for one start. One that ``goes_on`` is over when the test sets the result of ``ended``."""

    def __init__(self, told: ReadAhead | None, *, goes_on: bool = False) -> None:
        self.ended: asyncio.Future[ReadAhead | None] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        if not goes_on:
            self.ended.set_result(told)

    def cancel(self) -> None:
        """Note it."""
        self.cancelled = True


class FakePages:
    """Reads nothing, and remembers who asked. ``told`` is what every reading tells, at once unless it ``goes_on``."""

    def __init__(self) -> None:
        self.told: ReadAhead | None = None
        self.goes_on = False
        self.begun: list[FakeReading] = []
        self.known: set[str] = set()
        self.learnt: list[tuple[str, list[list[object]]]] = []

    def begin(self, spec: FunctionSpec, weights: Weights, /, *, imported: bool = False) -> FakeReading:
        """Return a reading that has nothing to do."""
        self.begun.append(FakeReading(self.told, goes_on=self.goes_on))
        return self.begun[-1]

    def unknown(self, spec: FunctionSpec, /) -> bool:
        """Return whether ``learn`` has not been called for the revision."""
        return spec.revision not in self.known

    def learn(self, spec: FunctionSpec, reads: Sequence[Sequence[object]], /) -> None:
        """Note it."""
        self.known.add(spec.revision)
        self.learnt.append((spec.name, [list(row) for row in reads]))


class FakeWatch:
    """Notes what routing hears of engines: ``heard`` has ("called", [way, *row]) and ("verified", row)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, list[object]]] = []

    def called(self, spec: FunctionSpec, start: StartRecord, rows: Sequence[Sequence[Any]], /) -> None:
        """Note the calls of one invocation."""
        self.heard += [("called", [start.way, *row]) for row in rows]

    def verified(self, spec: FunctionSpec, rows: Sequence[Sequence[Any]], /) -> None:
        """Note what came of a check."""
        self.heard += [("verified", list(row)) for row in rows]


class FakeModels:
    """Cache, snapshots and code in one. ``engine`` is what ``plan`` gives until it is given up; then come those of
    ``ladder``, then eager.

    Every file exists but those whose digests are in ``missing``; a fetch takes ``fetch_s`` of the test's clock and
    brings them. ``holds`` counts the holds on each digest, and ``discard`` keeps what is held, as the store does.
    """

    def __init__(self, engine: str = "eager", code: Path = Path("/code"), *, clock: ManualClock | None = None) -> None:
        self.engine = engine
        self.code = code
        self.ladder: list[str] = []
        self.given_up: list[tuple[str, str, str]] = []
        self.kinds: list[Kind] = []
        self.bakes: list[str] = []
        self.files_error: Exception | None = None
        self.plan_error: Exception | None = None
        self.missing: set[str] = set()
        self.holds: Counter[str] = Counter()
        self.fetches = 0
        self.fetch_s = 0.0
        self._clock = clock or ManualClock()

    async def files(self, spec: FunctionSpec) -> Weights:
        """Return a path for each file."""
        if self.files_error is not None:
            raise self.files_error
        digests = {file.sha256 for model in spec.models for file in model.files}
        fetch = None
        if digests & self.missing:
            self.fetches += 1
            await self._clock.sleep(self.fetch_s)
            self.missing -= digests
            fetch = Fetch("s3://bucket", 1_000_000, self.fetch_s)
        self.holds.update(digests)
        paths = {model.name: {file.name: f"/blobs/{file.sha256}" for file in model.files} for model in spec.models}
        return Weights(paths, self._releaser(digests), fetch)

    def _releaser(self, digests: set[str]) -> Callable[[], None]:
        held = [digests]

        def close() -> None:
            if held:
                self.holds.subtract(held.pop())

        return close

    def held(self) -> set[str]:
        """Return the digests that somebody holds."""
        return {digest for digest, count in self.holds.items() if count > 0}

    def present(self, spec: FunctionSpec) -> bool:
        """Return whether nothing of it is missing."""
        return not any(file.sha256 in self.missing for model in spec.models for file in model.files)

    async def discard(self, digests: Collection[str]) -> dict[str, str]:
        """Let everything be missing that nobody holds."""
        await asyncio.sleep(0)
        kept = self.held() & set(digests)
        self.missing |= set(digests) - kept
        return dict.fromkeys(kept, "a process has them open")

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return the engine for every model."""
        if self.plan_error is not None:
            raise self.plan_error
        reason = "; ".join(f"{engine} was given up: {why}" for _, engine, why in self.given_up)
        if not reason and self.engine == "eager":
            reason = "not baked yet"
        return [EnginePlan(model.name, self.engine, "/snapshots/key", b"{}", reason) for model in spec.models]

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind) -> bool:
        """Go on with the next engine."""
        if engine != self.engine:
            return False
        self.given_up.append((model_name, engine, reason))
        self.kinds.append(kind)
        self.engine = self.ladder.pop(0) if self.ladder else "eager"
        return True

    def request_bake(self, spec: FunctionSpec) -> None:
        """Note it."""
        self.bakes.append(spec.name)

    def path(self, digest: str) -> Path:
        """Return the same directory for every digest."""
        return self.code

    def opt(self, digests: Sequence[str]) -> Path | None:
        """Return a directory for any layers."""
        return Path("/opt") / "-".join(digests)


class FakeLog:
    """A function's log as a list of entries, a word and its values."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, object]] = []

    def words(self) -> list[str]:
        """Return what was written, without values."""
        return [word for word, _ in self.entries]

    def init_start(self) -> None:
        """Note INIT_START."""
        self.entries.append(("INIT_START", None))

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Note INIT_REPORT."""
        self.entries.append(("INIT_REPORT", error_type or status or init_ms))

    def restore_start(self) -> None:
        """Note RESTORE_START."""
        self.entries.append(("RESTORE_START", None))

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

    def of(self, spec: FunctionSpec) -> FakeLog:
        """Return one log."""
        return self.logs.setdefault(spec.name, FakeLog())


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


class FakeAcceptor:
    """Keeps events in memory: ``accepted``, each with the steps that came along. ``refusal`` is raised instead.

    Ids are given in order; an idempotency key that was used gives the first one's.
    """

    def __init__(self) -> None:
        self.accepted: list[tuple[NewEvent, tuple[Step, ...]]] = []
        self.refusal: Exception | None = None
        self._ids: dict[tuple[str, str, str], str] = {}

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        """Keep an event."""
        if self.refusal is not None:
            raise self.refusal
        key = (event.function, event.caller, event.idempotency_key)
        if event.idempotency_key and key in self._ids:
            return Accepted(self._ids[key], duplicate=True)
        self.accepted.append((event, also))
        request_id = event.request_id or f"00000000-0000-7000-8000-{len(self.accepted):012d}"
        self._ids[key] = request_id
        return Accepted(request_id)
