"""The queue against a model of it: nothing is lost, no stale lease acknowledges, FIFO order is kept, counts are right,
whatever is done, and whether the file is closed, or the node is killed, in between."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from glowplug.runtime.errors import StaleLease
from glowplug.runtime.queue.engine import Engine
from glowplug.runtime.queue.model import Lease, QueueSettings, Received, Sent
from glowplug.runtime.queue.steps import (
    Count,
    CreateQueue,
    Delete,
    Discard,
    Extend,
    Move,
    Receive,
    Release,
    Send,
    Step,
    Sweep,
)
from glowplug.runtime.testing.clock import HandClock

RETENTION_S = 3_600
QUEUES = {
    "dead": QueueSettings(retention_s=RETENTION_S),
    "plain": QueueSettings(max_receives=2, dead_letter="dead", retention_s=RETENTION_S),
    "dead.fifo": QueueSettings(fifo=True, retention_s=RETENTION_S),
    "ordered.fifo": QueueSettings(fifo=True, max_receives=3, dead_letter="dead.fifo", retention_s=RETENTION_S),
}
SECONDS = st.sampled_from([0, 1, 5, 30])


@dataclass
class Kept:
    """A message in the model."""

    queue: str
    body: bytes
    sequence: int
    sent_ms: int
    visible_ms: int
    group: str | None
    receives: int = 0
    source: str | None = None


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.copies = 0
        self.clock = HandClock()
        self.engine = Engine.open(self.directory / "queue.db", self.clock)
        self.run(*(CreateQueue(name, settings) for name, settings in QUEUES.items()))
        self.kept: dict[bytes, Kept] = {}  # by body, which is unique
        self.leases: list[tuple[Lease, bytes]] = []
        self.sent: dict[str, tuple[int, Sent]] = {}  # de-duplication ids
        self.number = 0

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.directory)

    def run(self, *steps: Step) -> list[Any]:
        """Run each step as a unit of its own, all in one batch."""
        outcomes = self.engine.run([(step,) for step in steps]).outcomes
        return [outcome if isinstance(outcome, Exception) else outcome[0] for outcome in outcomes]

    @property
    def now_ms(self) -> int:
        return round(self.clock.time() * 1000)

    def of(self, queue: str) -> list[Kept]:
        return sorted((kept for kept in self.kept.values() if kept.queue == queue), key=lambda kept: kept.sequence)

    # --- what is done -------------------------------------------------------------------------------------------------

    @rule(queue=st.sampled_from(["plain", "dead"]), delay_s=SECONDS, count=st.integers(1, 4))
    def send(self, queue: str, delay_s: int, count: int) -> None:
        bodies = [f"{self.number + index}".encode() for index in range(count)]
        self.number += count
        for body, sent in zip(bodies, self.run(*(Send(queue, body, delay_s=delay_s) for body in bodies)), strict=True):
            self.kept[body] = Kept(queue, body, sent.sequence, self.now_ms, self.now_ms + delay_s * 1000, None)

    @rule(group=st.sampled_from("abc"), delay_s=st.sampled_from([0, 0, 0, 5]), name=st.sampled_from("123456789"))
    def send_ordered(self, group: str, delay_s: int, name: str) -> None:
        body = f"{self.number}".encode()
        self.number += 1
        (sent,) = self.run(Send("ordered.fifo", body, delay_s=delay_s, group=group, deduplication=name))
        earlier = self.sent.get(name)
        if earlier is not None and earlier[0] + 300_000 > self.now_ms:
            assert Sent(earlier[1].id, earlier[1].sequence, duplicate=True) == sent
            return
        assert not sent.duplicate
        self.sent[name] = (self.now_ms, sent)
        self.kept[body] = Kept("ordered.fifo", body, sent.sequence, self.now_ms, self.now_ms + delay_s * 1000, group)

    @rule(queue=st.sampled_from(["plain", "dead"]), limit=st.integers(1, 5), visibility_s=SECONDS)
    def receive(self, queue: str, limit: int, visibility_s: int) -> None:
        (found,) = self.run(Receive(queue, limit, visibility_s))
        visible = [kept for kept in self.of(queue) if kept.visible_ms <= self.now_ms]
        expected: list[Kept] = []
        for kept in sorted(visible, key=lambda kept: (kept.visible_ms, kept.receives, kept.sequence)):
            if len(expected) == limit:
                break
            if self.too_old(kept):
                del self.kept[kept.body]
            elif kept.receives >= (QUEUES[queue].max_receives or 2**31):
                self.bury(kept)
            else:
                expected.append(kept)
        assert {kept.body for kept in expected} == {received.message.body for received in found}
        self.leased(found, visibility_s)
        self.renumber()

    @rule(limit=st.integers(1, 5), visibility_s=SECONDS, queue=st.sampled_from(["ordered.fifo", "dead.fifo"]))
    def receive_ordered(self, queue: str, limit: int, visibility_s: int) -> None:
        most = QUEUES[queue].max_receives
        open_groups: dict[str, list[Kept]] = {}
        for kept in self.of(queue):
            assert kept.group is not None
            open_groups.setdefault(kept.group, []).append(kept)
        for group, members in tuple(open_groups.items()):
            if any(kept.receives and kept.visible_ms > self.now_ms for kept in members):
                del open_groups[group]  # blocked by a lease
        (found,) = self.run(Receive(queue, limit, visibility_s))
        by_group: dict[str, list[bytes]] = {}
        for received in found:
            by_group.setdefault(received.message.group, []).append(received.message.body)
        self.renumber()
        for group, bodies in by_group.items():
            # Whatever was in front of the last one received is received as well, or is gone for a reason.
            members = open_groups[group]
            last = next(index for index, kept in enumerate(members) if kept.body == bodies[-1])
            front = [kept for kept in members[: last + 1] if not self.too_old(kept)]
            alive = [kept.body for kept in front if most is None or kept.receives < most]
            assert alive == bodies
        for group, members in open_groups.items():
            for kept in members:
                if kept.visible_ms > self.now_ms:
                    break
                if self.too_old(kept):
                    if not self.there(kept.body):
                        del self.kept[kept.body]
                elif most is not None and kept.receives >= most:
                    if self.queue_of(kept.body) == "dead.fifo":
                        self.bury(kept)
                elif kept.body not in by_group.get(group, []):
                    assert len(found) == limit  # left there only for want of room
                    break
        self.leased(found, visibility_s)
        self.renumber()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), what=st.sampled_from(["delete", "extend", "release"]), seconds=SECONDS)
    def under_a_lease(self, data: st.DataObject, what: str, seconds: int) -> None:
        lease, body = data.draw(st.sampled_from(self.leases))
        kept = self.kept.get(body)
        valid = kept is not None and (kept.sequence, kept.receives) == (lease.sequence, lease.token)
        steps: dict[str, Step] = {
            "delete": Delete(lease),
            "extend": Extend(lease, seconds),
            "release": Release(lease, seconds),
        }
        step = steps[what]
        (result,) = self.run(step)
        if not valid:
            assert isinstance(result, StaleLease)
            return
        assert not isinstance(result, Exception)
        assert kept is not None
        if what == "delete":
            del self.kept[body]
        else:
            kept.visible_ms = self.now_ms + seconds * 1000

    @rule(limit=st.integers(1, 3))
    def redrive(self, limit: int) -> None:
        visible = [kept for kept in self.of("dead") if kept.visible_ms <= self.now_ms]
        (moved,) = self.run(Move("dead", limit=limit))
        ordered = sorted(visible, key=lambda kept: (kept.visible_ms, kept.receives, kept.sequence))
        movable = [kept for kept in ordered if kept.source is not None][:limit]
        assert len(movable) == moved.count
        last = movable[-1] if movable else None
        assert moved.to == ((last.visible_ms, last.receives, last.sequence) if last and len(movable) == limit else None)
        for kept in movable:
            assert kept.source is not None
            kept.queue, kept.source = kept.source, None
            kept.receives, kept.visible_ms, kept.sent_ms = 0, self.now_ms, self.now_ms
        self.renumber()

    @rule(queue=st.sampled_from(sorted(QUEUES)), limit=st.integers(1, 3))
    def discard(self, queue: str, limit: int) -> None:
        (gone,) = self.run(Discard(queue, 2**62, limit))
        left = self.bodies()
        lost = [kept for kept in self.of(queue) if kept.body not in left]
        assert min(limit, len(self.of(queue))) == len(lost) == gone
        for kept in lost:
            del self.kept[kept.body]

    @rule()
    def sweep(self) -> None:
        self.run(Sweep())
        left = self.bodies()
        for kept in tuple(self.kept.values()):
            if kept.visible_ms + RETENTION_S * 1000 <= self.now_ms and self.too_old(kept):
                assert kept.body not in left
            if kept.body not in left:
                assert self.too_old(kept)
                del self.kept[kept.body]

    @rule(seconds=st.sampled_from([0.001, 1, 4, 29.5, 31, 301, 3_700]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(by_s=st.sampled_from([-86_400, -3_000, -7, 7, 3_000]))
    def the_clock_is_set(self, by_s: int) -> None:
        before_ms = self.now_ms
        self.clock.set_s(by_s)
        for kept in self.kept.values():
            if kept.visible_ms > before_ms or kept.visible_ms > self.now_ms:
                kept.visible_ms += by_s * 1000
            kept.sent_ms += by_s * 1000
        for name, (at_ms, sent) in self.sent.items():
            if at_ms + 300_000 > min(before_ms, self.now_ms):
                self.sent[name] = (at_ms + by_s * 1000, sent)
        self.run(Count())  # the next unit notices

    @rule()
    def the_file_is_closed_and_opened(self) -> None:
        self.engine.close()
        self.engine = Engine.open(self.directory / "queue.db", self.clock)

    @rule()
    def the_node_is_killed(self) -> None:
        self.copies += 1
        copy = self.directory / f"copy{self.copies}"
        copy.mkdir()
        for part in self.directory.glob("queue.db*"):
            shutil.copy(part, copy)  # as a kill would leave it: the log is not in the file
        self.engine.close()
        for part in copy.iterdir():
            shutil.move(part, self.directory / part.name)
        self.engine = Engine.open(self.directory / "queue.db", self.clock)

    # --- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_counts_are_right(self) -> None:
        (counts,) = self.run(Count())
        rows = self.rows()
        for name in QUEUES:
            kept = self.of(name)
            assert sorted(
                (one.body, one.sequence, one.receives, one.visible_ms, one.sent_ms) for one in kept
            ) == sorted(rows[name])
            hidden = [one for one in kept if one.visible_ms > self.now_ms]
            flying = sum(one.receives > 0 for one in hidden)
            expected = (len(kept) - len(hidden), flying, len(hidden) - flying)
            assert expected == (counts[name].visible, counts[name].in_flight, counts[name].delayed)

    # --- of the model -------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, list[tuple[bytes, int, int, int, int]]]:
        names = {queue.number: queue.name for queue in self.engine.queues}
        found: dict[str, list[tuple[bytes, int, int, int, int]]] = {name: [] for name in QUEUES}
        for number, *row in self.engine._connection.execute(
            "SELECT queue, body, sequence, receives, visible_ms, sent_ms FROM messages"
        ):
            found[names[number]].append(tuple(row))
        return found

    def bodies(self) -> set[bytes]:
        return {row[0] for rows in self.rows().values() for row in rows}

    def there(self, body: bytes) -> bool:
        return body in self.bodies()

    def queue_of(self, body: bytes) -> str | None:
        return next((name for name, rows in self.rows().items() if body in {row[0] for row in rows}), None)

    def too_old(self, kept: Kept) -> bool:
        return kept.sent_ms + RETENTION_S * 1000 <= self.now_ms

    def bury(self, kept: Kept) -> None:
        target = QUEUES[kept.queue].dead_letter
        assert target is not None
        kept.source, kept.queue = kept.queue, target
        kept.receives, kept.visible_ms = 0, self.now_ms
        if QUEUES[target].fifo:
            kept.sent_ms = self.now_ms

    def renumber(self) -> None:
        """Learn the numbers of messages that moved; a number that was seen before must not come back."""
        for rows in self.rows().values():
            for body, sequence, *_ in rows:
                if body in self.kept and self.kept[body].sequence != sequence:
                    assert sequence > max(lease.sequence for lease, _ in self.leases) if self.leases else True
                    self.kept[body].sequence = sequence

    def leased(self, found: list[Received], visibility_s: int) -> None:
        for received in found:
            kept = self.kept[received.message.body]
            kept.receives += 1
            kept.visible_ms = self.now_ms + max(1, visibility_s * 1000)
            assert (kept.receives, kept.visible_ms) == (received.lease.token, received.lease.until_ms)
            self.leases.append((received.lease, kept.body))


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
