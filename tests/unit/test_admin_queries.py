"""The admin API's queries, and answers that would not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http.messages import Reply, Request, parse_json
from glowplug.runtime.http.queries import asked, whole
from glowplug.runtime.http.queue_admin import QueueAdmin
from glowplug.runtime.http.triggers import TriggersApi
from glowplug.runtime.queue.model import QueueSettings
from glowplug.runtime.queue.steps import Send
from glowplug.runtime.queue.store import QueueStore

UNUSED: Any = None


def request(path: str, query: str = "", body: bytes = b"", method: str = "GET") -> Request:
    return Request("r", method, path, query, "localhost", {}, "HTTP/1.1", "127.0.0.1", 9000, 0.0, body=body)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "one", "²", "٣", " 1", "11", "0", "9" * 5000])
def test_what_is_no_number_in_its_range_is_refused_by_name(text: str) -> None:
    """Also one that Python does not read, for its length."""
    with pytest.raises(InvalidParameter, match=r"limit: .* is not a whole number between 1 and 10") as refused:
        whole({"limit": text}, "limit", 5, 1, 10)
    assert len(str(refused.value)) < 120


def test_numbers_are_read_and_have_defaults() -> None:
    query = asked(request("/", "limit=3&limit=007&other="))
    assert ({"limit": "007", "other": ""}, 7, 5) == (
        query,
        whole(query, "limit", 5, 1, 10),
        whole(query, "nothing", 5, 1, 10),
    )


async def test_a_page_of_large_messages_is_shorter_than_was_asked_for(tmp_path: Path) -> None:
    """A thousand messages of a megabyte are a gigabyte; those that follow are on the next page."""
    async with await QueueStore.open(tmp_path / "queue.db") as store:
        await store.create("jobs", QueueSettings())
        for number in range(12):
            await store.apply(Send("jobs", b"%02d" % number + b"x" * (2**20 - 2)))
        admin = QueueAdmin(store)

        async def page(query: str) -> list[str]:
            reply: Reply = await admin.answer(request("/_glowplug/queues/jobs/messages", query))
            return [one["body"][:2] for one in parse_json(reply.body)["messages"]]

        first = await page("limit=1000")
        assert 0 < len(first) < 12
        rest = await page(f"limit=1000&after={len(first)}")
        assert [f"{number:02d}" for number in range(12)] == first + rest
        assert [] == await page("limit=0")
        assert ["00"] == await page("limit=1")


@pytest.mark.parametrize(
    ("what", "body"),
    [("async:work/purge", b""), ("async:work/redrive", b""), ("jobs/redrive", b'{"to": "async:work"}')],
)
async def test_the_nodes_own_queues_are_looked_at_and_not_changed(tmp_path: Path, what: str, body: bytes) -> None:
    """A message there is an event that was accepted: without it the event would be gone, with no record of why."""
    async with await QueueStore.open(tmp_path / "queue.db") as store:
        for name in ("jobs", "async:work"):
            await store.create(name, QueueSettings())
            await store.apply(Send(name, b"1"))
        with pytest.raises(InvalidParameter, match="async:work is the node's own queue"):
            await QueueAdmin(store).answer(request(f"/_glowplug/queues/{what}", body=body, method="POST"))
        assert [1, 1] == [counts.visible for counts in (await store.all_counts()).values()]


async def test_a_redrive_says_how_many_it_left(tmp_path: Path) -> None:
    """What a client sent into the queue itself came from nowhere, and cannot go back there."""
    async with await QueueStore.open(tmp_path / "queue.db") as store:
        for name in ("dead", "jobs"):
            await store.create(name, QueueSettings())
        await store.apply(Send("dead", b"1"))
        asked_for = [await QueueAdmin(store).answer(request("/_glowplug/queues/dead/redrive", body=body, method="POST"))
                     for body in (b"", b'{"to": "jobs"}')]  # fmt: skip
        assert [{"moved": 0, "left": 1}, {"moved": 1, "left": 0}] == [parse_json(reply.body) for reply in asked_for]


async def test_a_piece_of_too_many_lines_is_refused_before_anything_is_made_of_it() -> None:
    """Six megabytes of line ends would be six million tasks."""
    triggers = TriggersApi(UNUSED, UNUSED, UNUSED, UNUSED, UNUSED, Limits())
    piece = request("/_glowplug/jobs/j", "function=f", b"\n" * 10_001, "POST")
    with pytest.raises(InvalidParameter, match="at most 10000 lines"):
        await triggers.answer(piece, ["jobs", "j"])
