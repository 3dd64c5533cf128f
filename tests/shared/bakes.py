"""The bake-off of ``embed`` that all tests share, and how tests keep bakes cheap.

All engines of the shipped model, made and measured, cost as much as a thousand other tests. So a session of tests bakes
once, on a real node; whichever of its processes needs it first does it, and others wait for that. Nodes that are about
something else begin with a copy of what was published: a bake of theirs finds it and compiles and measures nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes import ServedNode, served

TEMPLATE = Path(__file__).resolve().parents[2] / "template.yaml"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leaps above a sleepy hound.",
    "Interest rates rose by a quarter point.",
]
_STORY = "story.json"


@dataclass(frozen=True)
class BakedEmbed:
    """A state directory whose node has baked ``embed`` and is gone, and what that node told: ``before`` the bake was
    over, and ``after`` it, when the function had moved to its engine. See ``_told``."""

    state: Path
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def snapshot(self) -> Path:
        """The directory of the snapshot."""
        (manifest,) = self.state.glob("snapshots/*/manifest.json")
        return manifest.parent

    def give_to(self, state: Path) -> None:
        """Let the node that will be started on ``state`` find the snapshot, signed with its own key."""
        shutil.copytree(self.state / "snapshots", state / "snapshots")


def baked_embed(directory: Path) -> BakedEmbed:
    """Return what was baked in ``directory``, which several processes share; the first one bakes."""
    made = directory / "embed"
    with (directory / "embed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go for a process that is killed: the next one begins anew
        if not (made / _STORY).exists():
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            (made / _STORY).write_text(json.dumps(_bake(made / "state")))
    return BakedEmbed(made / "state", **json.loads((made / _STORY).read_text()))


def _bake(state: Path) -> dict[str, Any]:
    with one_core(), served(TEMPLATE, state) as node:
        before = _told(node)
        node.bake("embed")
        after, end = _told(node), time.monotonic() + 60
        while after["engine"]["engine"] not in after["answered"] and time.monotonic() < end:
            time.sleep(0.2)  # instances with the engine of before end as others are ready
            after = _told(node)
        return {"before": before, "after": after}


def _told(node: ServedNode) -> dict[str, Any]:
    """Return an answer of ``embed``, what the node lists of its engine, and the names of all that have answered."""
    _, _, answer = node.request("POST", "/_url/embed/", {"texts": TEXTS})
    engine = node.function("embed")["engines"][0]
    return {"answer": answer, "engine": engine, "answered": [row["engine"] for row in engine["figures"]]}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep what is started in the block to one core: to another one in each of two processes that share the tests.

    A bake measures with a thread per core. Beside somebody else's tests those wait for each other most of the time, and
    spin meanwhile: it takes twice as long, and the figures vary so much that all of it is done five times, not three.
    """
    cores = os.sched_getaffinity(0)
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(cores)[process % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
