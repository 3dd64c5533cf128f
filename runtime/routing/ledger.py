"""The ledger: a record of every start, what each request waited for, and the answers drawn from them.

Bounded in memory (the newest ``limit`` starts and requests) and on disk (one JSON object per line; past
``FILE_BYTES`` the file is renamed to ``….1`` and a new one begun). Lines are collected and written by ``flush``, which
the sink calls off the request path, in a thread; a killed node loses the records of its last half second and nothing
else. A line that cannot be read back (cut by a crash) is skipped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import statistics
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import FunctionNotFound
from glowplug.runtime.invocation import Tier
from glowplug.runtime.spec import FunctionSpec

from .ports import Reading
from .records import Cause, Fetch, Phase, ReadAhead, RequestRecord, StartRecord, Way
from .words import describe_request, describe_start

FILE_BYTES = 16 * 1024 * 1024
"""Size at which the file is rotated: about 20,000 records of 800 bytes."""

TAIL_BYTES = 4 * 1024 * 1024
"""What is read back at the start: 4096 records (the default bound in memory) of up to 1 KiB."""

DEFAULT_START_S = 1.0
"""The estimate for a function that never started here."""

log = logging.getLogger(__name__)


class Recording:
    """A start while it happens. ``phase`` times its steps; ``finish`` turns it into a record, once.

    ``reading`` is what is read ahead for it: stopped with a start that is not ``ready``; for one that is, somebody will
    want the pages, and it goes on.
    """

    def __init__(self, ledger: Ledger, spec: FunctionSpec, *, request_id: str | None, cause: Cause, tier: Tier) -> None:
        self.start_id = uuid.uuid4().hex
        self.spec = spec
        self.request_id = request_id
        self.cause = cause
        self.tier = tier
        self.way: Way = "fork"
        self.engine = ""
        self.engine_reason = ""
        self.warmup = ""
        self.bytes_read = 0
        self.bytes_from = ""
        self.fetch: Fetch | None = None
        self.reading: Reading | None = None
        self.device = ""
        self.notes: list[str] = []
        self.phases: list[Phase] = []
        self._ledger = ledger
        self._clock = ledger.clock
        self._began_s = self._clock.monotonic()
        self._started_at_s = self._clock.time()

    def __repr__(self) -> str:
        return f"Recording({self.spec.name}, {self.cause}, phases={[phase.name for phase in self.phases]})"

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a step; it is recorded however the block ends."""
        began_s = self._clock.monotonic()
        try:
            yield
        finally:
            ended_s = self._clock.monotonic()
            self.phases.append(Phase(name, (began_s - self._began_s) * 1e3, (ended_s - began_s) * 1e3))

    def measured(self, name: str, took_ms: float) -> None:
        """Record a step that a process has timed itself and that ended at about this time; one of no length is none."""
        if took_ms > 0.0:
            now_ms = (self._clock.monotonic() - self._began_s) * 1e3
            self.phases.append(Phase(name, max(0.0, now_ms - took_ms), took_ms))

    def so_far(self) -> dict[str, float]:
        """Return the phases that are over, and ``elapsed``, in milliseconds."""
        elapsed_ms = (self._clock.monotonic() - self._began_s) * 1e3
        return {phase.name: round(phase.duration_ms, 3) for phase in self.phases} | {"elapsed": round(elapsed_ms, 3)}

    def known(self) -> dict[Way, tuple[float, int]]:
        """Return how long starts of this revision on a GPU took, by way: the median in milliseconds, and how many."""
        return self._ledger.device_starts(self.spec.revision)

    def finish(self, outcome: str, error: str = "") -> StartRecord:
        """Add the record to the ledger and return it. ``outcome`` is ``ready``, ``failed`` or ``discarded``."""
        if self.reading is not None and outcome != "ready":
            self.reading.cancel()
        record = StartRecord(
            start_id=self.start_id,
            function=self.spec.name,
            version=self.spec.version,
            revision=self.spec.revision,
            request_id=self.request_id,
            cause=self.cause,
            tier=self.tier,
            way=self.way,
            started_at_s=self._started_at_s,
            total_ms=(self._clock.monotonic() - self._began_s) * 1e3,
            phases=tuple(self.phases),
            bytes_read=self.bytes_read,
            bytes_from=self.bytes_from,
            engine=self.engine,
            engine_reason=self.engine_reason,
            warmup=self.warmup,
            dominated_by=max(self.phases, key=lambda phase: phase.duration_ms).name if self.phases else "",
            outcome=outcome,
            error=error,
            notes=tuple(self.notes),
            fetch=self.fetch,
            device=self.device,
            read_ahead=self.reading.ended.result() if self.reading is not None and self.reading.ended.done() else None,
        )
        self._ledger.ended(self, record)
        if self.reading is not None and not self.reading.ended.done():
            self.reading.ended.add_done_callback(lambda ended: self._ledger.amend(record, ended.result()))
        return record


class Ledger:
    """The records of one node. ``path`` of None keeps them in memory only."""

    def __init__(self, path: Path | None, *, clock: Clock, limit: int = 4096) -> None:
        self.clock = clock
        self.skipped = 0
        self._path = path
        self._starts: deque[StartRecord] = deque(maxlen=limit)
        self._requests: deque[RequestRecord] = deque(maxlen=limit)
        self._unwritten: list[StartRecord] = []
        self._under_way: dict[str, Recording] = {}
        self._listeners: list[Callable[[StartRecord], None]] = []
        self._took_s: dict[str, deque[float]] = {}
        self._device_ms: dict[tuple[str, Way], deque[float]] = {}
        self._device_count: Counter[tuple[str, Way]] = Counter()
        if path is not None:
            self._load(path)

    def __repr__(self) -> str:
        return f"<Ledger starts={len(self._starts)} requests={len(self._requests)} unwritten={len(self._unwritten)}>"

    def subscribe(self, listener: Callable[[StartRecord], None]) -> None:
        """Call ``listener`` with every record from now on (metrics do); it must not raise."""
        self._listeners.append(listener)

    def begin(self, spec: FunctionSpec, *, request_id: str | None, cause: Cause, tier: Tier) -> Recording:
        """Begin the record of a start that has just been decided."""
        recording = Recording(self, spec, request_id=request_id, cause=cause, tier=tier)
        self._under_way[recording.start_id] = recording
        return recording

    def under_way(self, function: str) -> list[Recording]:
        """Return the starts of a function that are not over, the oldest first."""
        return [one for one in self._under_way.values() if one.spec.name == function]

    def ended(self, recording: Recording, record: StartRecord) -> None:
        """Keep the record of a start that was under way."""
        self._under_way.pop(recording.start_id, None)
        self.add(record)

    def add(self, record: StartRecord) -> None:
        """Keep a finished record."""
        self._keep(record)
        if self._path is not None:
            self._unwritten.append(record)
        for listener in self._listeners:
            listener(record)

    def amend(self, record: StartRecord, read_ahead: ReadAhead | None) -> None:
        """Add to a record that has been kept what was read ahead: that may end after the start. Its line in the file is
        written again; the last one counts."""
        if read_ahead is None:
            return
        amended = replace(record, read_ahead=read_ahead)
        if self._replace(amended) and self._path is not None:
            self._unwritten = [one for one in self._unwritten if one.start_id != record.start_id]
            self._unwritten.append(amended)

    def add_request(self, record: RequestRecord) -> None:
        """Keep what a request waited for (in memory only)."""
        self._requests.append(record)

    def recent(self, limit: int = 100) -> list[StartRecord]:
        """Return the newest starts, newest first."""
        return [record for record, _ in zip(reversed(self._starts), range(limit), strict=False)]

    def find(self, request_id: str) -> StartRecord | None:
        """Return the start that the request caused or waited for; None when it needed none or is not known."""
        request = self._request(request_id)
        wanted = request.start_id if request is not None else None
        for record in reversed(self._starts):
            if record.start_id == wanted or (record.request_id == request_id and wanted is None):
                return record
        return None

    def explain(self, request_id: str, live: Callable[[StartRecord], str] = lambda start: "") -> str:
        """Return what the request waited for, in plain words. Raises ``FunctionNotFound`` when it is not known.

        ``live`` adds how the engines of a start do by now, in words.
        """
        request, start = self._request(request_id), self.find(request_id)
        if request is not None:
            return describe_request(request, start, "" if start is None else live(start))
        if start is not None:
            return describe_start(start, live(start))
        raise FunctionNotFound(f"Request not found: {request_id} is not in the ledger, or no longer")

    def estimate_start_s(self, function: str) -> float:
        """Return the median of the function's last 20 successful starts, in seconds."""
        took_s = self._took_s.get(function)
        return statistics.median(took_s) if took_s else DEFAULT_START_S

    def device_starts(self, revision: str) -> dict[Way, tuple[float, int]]:
        """Return, by way, the median of the last 20 good starts of a revision on a GPU, and how many there were."""
        return {
            way: (statistics.median(took_ms), self._device_count[known, way])
            for (known, way), took_ms in self._device_ms.items()
            if known == revision
        }

    async def flush(self) -> None:
        """Append what is not on disk yet. A disk that cannot be written is logged; the records stay in memory."""
        if not self._unwritten or self._path is None:
            return
        records, self._unwritten = self._unwritten, []
        try:
            await asyncio.to_thread(_append, self._path, records)
        except OSError as error:
            log.warning("ledger: %d records were not written to %s: %s", len(records), self._path, error)

    def _keep(self, record: StartRecord) -> None:
        self._starts.append(record)
        if record.outcome == "ready" and record.cause in ("request", "warm"):
            self._took_s.setdefault(record.function, deque(maxlen=20)).append(record.total_ms / 1e3)
            if record.device:
                key = (record.revision, record.way)
                self._device_ms.setdefault(key, deque(maxlen=20)).append(record.total_ms)
                self._device_count[key] += 1

    def _replace(self, record: StartRecord) -> bool:
        for place in range(len(self._starts) - 1, -1, -1):
            if self._starts[place].start_id == record.start_id:
                self._starts[place] = record
                return True
        return False

    def _request(self, request_id: str) -> RequestRecord | None:
        return next((record for record in reversed(self._requests) if record.request_id == request_id), None)

    def _load(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return
        records: dict[str, StartRecord] = {}
        for line in lines[1:] if size > TAIL_BYTES else lines:
            try:
                record = StartRecord.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError):
                self.skipped += 1
            else:
                records[record.start_id] = record  # in place of the one that it amends
        for record in records.values():
            self._keep(record)
        if self.skipped:
            log.warning("ledger: %d lines of %s could not be read and were skipped", self.skipped, path)


def _append(path: Path, records: list[StartRecord]) -> None:
    lines = "".join(json.dumps(record.to_json(), separators=(",", ":")) + "\n" for record in records)
    with path.open("ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")  # a line cut by a crash stays alone
        file.write(lines.encode())
        full = file.tell() > FILE_BYTES
    if full:
        path.replace(path.with_suffix(path.suffix + ".1"))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
