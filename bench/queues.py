"""The durable queue: its engine alone, with a backlog of a million events, and through the API of a node."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from glowplug.runtime.clock import SystemClock
from glowplug.runtime.events.stored import new_id
from glowplug.runtime.queue.engine import Engine
from glowplug.runtime.queue.model import QueueSettings, Record
from glowplug.runtime.queue.steps import CreateQueue, Delete, InsertRecord, Receive, Send
from glowplug.runtime.queue.store import QueueStore

from . import load
from .figures import Figure, at_least, at_most, percentile
from .served import serve

BODY = json.dumps({"text": "a small event", "number": 12345}).encode()
BATCH = 256
OPERATIONS = 50_000
BACKLOG = 1_000_000
ROUNDS = 9
SECONDS = 8


def figures(directory: Path) -> list[Figure]:
    """Measure everything; the files go into ``directory``, which is on the disk that is measured."""
    print("queue: engine …", flush=True)
    rows = _engine(directory / "engine.db")
    print("queue: store …", flush=True)
    rows += asyncio.run(_store(directory / "store.db"))
    print("queue: backlog …", flush=True)
    rows += _backlog(directory)
    print("queue: node …", flush=True)
    return rows + _node(directory / "state")


def _opened(path: Path) -> Engine:
    engine = Engine.open(path, SystemClock())
    engine.run([(CreateQueue("jobs", QueueSettings()),)])
    return engine


def _engine(path: Path) -> list[Figure]:
    section = f"queue engine, {BATCH} units a transaction, {len(BODY)} bytes a message"
    engine = _opened(path)
    sends = _rate(engine, OPERATIONS)
    received = _receive_and_delete(engine, OPERATIONS)
    engine.close()
    return [
        at_least(section, "sends", sends, "/s", 20_000),
        at_least(section, "receives with deletes", received, "/s", 15_000),
    ]


def _rate(engine: Engine, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(0, count, BATCH):
        engine.run([(Send("jobs", BODY),)] * BATCH)
    return count / (time.perf_counter() - begun)


def _receive_and_delete(engine: Engine, count: int) -> float:
    begun, done = time.perf_counter(), 0
    while done < count:
        outcomes = engine.run([(Receive("jobs", 10),)] * 8).outcomes
        found = [received for outcome in outcomes if isinstance(outcome, list) for received in outcome[0]]
        engine.run([(Delete(received.lease),) for received in found])
        done += len(found)
    return done / (time.perf_counter() - begun)


async def _store(path: Path) -> list[Figure]:
    """What the event loop sees: 32 callers, each waiting for the disk."""
    section = "queue store, 32 callers"
    async with await QueueStore.open(path) as store:
        await store.create("jobs", QueueSettings())

        async def accept(count: int) -> None:
            for _ in range(count):
                await store.apply(InsertRecord(Record(uuid4().bytes, "async:f", 0, 0)), Send("jobs", BODY))

        async def dispatch() -> int:
            done = 0
            while found := await store.receive("jobs", 10):
                for received in found:
                    await store.apply(Delete(received.lease), Send("results", BODY))
                done += len(found)
            return done

        await store.create("results", QueueSettings())
        begun = time.perf_counter()
        await asyncio.gather(*(accept(20_000 // 32) for _ in range(32)))
        accepted = 20_000 / (time.perf_counter() - begun)
        begun = time.perf_counter()
        done = sum(await asyncio.gather(*(dispatch() for _ in range(32))))
        dispatched = done / (time.perf_counter() - begun)
    return [
        Figure(section, "accept: record and message", accepted, "/s"),
        Figure(section, "settle: delete and send", dispatched, "/s"),
    ]


def _backlog(directory: Path) -> list[Figure]:
    """The same work beside a backlog and without one, in turns: what the machine does meanwhile meets both."""
    section = f"a backlog of {BACKLOG:,} events"
    path = directory / "backlog.db"
    engine = _opened(path)
    for start in range(0, BACKLOG, 1_000):
        now_s = time.time()
        engine.run([(_event(now_s + number / 1e6),) for number in range(start, start + 1_000)])
    engine.close()
    size = sum(part.stat().st_size for part in path.parent.glob(path.name + "*"))
    os.sync()  # or the first rounds would be measured beside the writing of all these
    begun = time.perf_counter()
    full = Engine.open(path, SystemClock())
    opening = time.perf_counter() - begun
    empty = _opened(directory / "empty.db")
    rates: dict[Engine, list[float]] = {full: [], empty: []}
    for number in range(ROUNDS):
        for engine in (full, empty) if number % 2 else (empty, full):
            rates[engine].append(_cycle(engine, OPERATIONS // ROUNDS))
    for engine in rates:
        engine.close()
    with_backlog, without = (percentile(rates[engine], 0.5) for engine in (full, empty))
    return [
        at_most(section, "disk", size / 1e6, "MB", 300),
        Figure(section, "events sent, received and deleted", with_backlog, "/s"),
        Figure(section, "the same without it", without, "/s"),
        at_most(section, "slower than without", (1 - with_backlog / without) * 100, "%", 20),
        Figure(section, "opening, with its check", opening, "s"),
    ]


def _event(now_s: float) -> Send:
    """Return the step that accepts an event, as the node does."""
    return Send("jobs", BODY, id=new_id(now_s))


def _cycle(engine: Engine, count: int) -> float:
    """Return how many events a second are accepted, leased and ended."""
    begun = time.perf_counter()
    for _ in range(0, count, BATCH):
        engine.run([(_event(time.time()),) for _ in range(BATCH)])
        outcomes = engine.run([(Receive("jobs", 16),)] * (BATCH // 16)).outcomes
        engine.run(
            [(Delete(found.lease),) for outcome in outcomes if isinstance(outcome, list) for found in outcome[0]]
        )
    return count / (time.perf_counter() - begun)


def _node(state: Path) -> list[Figure]:
    section = "SendMessage over HTTP, 32 connections, every answer on disk"
    with serve(state, None, {"GLOWPLUG_PRELOAD_TORCH": "0"}) as node:
        origin = f"http://127.0.0.1:{node.port}"
        _call(origin, "CreateQueue", {"QueueName": "jobs"}, seconds=0)
        message = {"QueueUrl": f"{origin}/000000000000/jobs", "MessageBody": BODY.decode()}
        _call(origin, "SendMessage", message, seconds=2)
        spent_ms, per_second = _call(origin, "SendMessage", message, seconds=SECONDS, connections=32)
    return [
        at_least(section, "messages", per_second, "/s", 4_000),
        Figure(section, "p50", percentile(spent_ms, 0.5), "ms"),
        at_most(section, "p99", percentile(spent_ms, 0.99), "ms", 50),
    ]


def _call(
    origin: str, operation: str, body: object, *, seconds: int, connections: int = 1
) -> tuple[Sequence[float], float]:
    headers = f"Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{operation}\r\n"
    return load.spent(origin + "/", json.dumps(body), connections, seconds, headers)
