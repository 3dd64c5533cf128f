"""``glowplug cache ls`` and ``df``: what the store holds, and what it takes of the disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from glowplug.cache.disk import DiskProfile, read_profile
from glowplug.cache.room import disk
from glowplug.cache.store import BlobStore

from ..disk import speed
from ..output import ago, console, counted, show_json, size, table
from .inventory import Inventory, StoredBlob, take
from .options import OPERATOR, SHORT_DIGEST, Opened, of_a_store, opened


@click.command()
@click.option("--blobs", is_flag=True, help="List blobs instead of sources.")
@of_a_store
def ls(blobs: bool, cache: Path | None, state: Path | None, as_json: bool) -> None:
    """List sources: files, size, what is here, last use, who holds and pins it.

    A blob is held while a process has it mapped or reserved for a start. What is held or pinned is never evicted.
    """
    chosen = opened(cache, state)
    inventory = take(chosen.store)
    if as_json:
        if blobs:
            show_json({"blobs": [asdict(one) for one in inventory.blobs]})
        else:
            sources, rest = ([asdict(one) for one in some] for some in (inventory.sources, inventory.unreferenced))
            show_json({"sources": sources, "unreferenced": rest})
    elif not inventory.blobs and not inventory.sources:
        click.echo(f"nothing in {chosen.store.root}; `glowplug cache pull URL` fetches a source", err=True)
    elif blobs:
        show_blobs(inventory.blobs)
    else:
        show_sources(inventory)


def show_sources(inventory: Inventory) -> None:
    """Print one row per source, and a line for what no source names."""
    now_s = time.time()
    columns = (("SOURCE", "left"), ("FILES", "right"), ("SIZE", "right"), ("HERE", "left"), ("USED", "left"),
               ("HELD", "left"), ("PINNED BY", "left"))  # fmt: skip
    rows = [
        (
            one.url,
            str(one.files),
            size(one.size_bytes),
            one.present,
            "-" if one.used_s is None else ago(now_s - one.used_s),
            "yes" if one.held else "-",
            pinners(one.pinned_by),
        )
        for one in inventory.sources
    ]
    if rows:
        console().print(table(columns, rows))
    if rest := inventory.unreferenced:
        click.echo(f"{counted(len(rest), 'blob')} that no source names: {size(sum(one.size_bytes for one in rest))}")


def show_blobs(blobs: Iterable[StoredBlob]) -> None:
    """Print one row per blob, with as much of its digest as commands need."""
    now_s = time.time()
    columns = (("BLOB", "left"), ("SIZE", "right"), ("USED", "left"), ("HELD", "left"), ("PINNED BY", "left"),
               ("SOURCE", "left"))  # fmt: skip
    rows = [
        (
            one.sha256[:SHORT_DIGEST],
            size(one.size_bytes),
            ago(now_s - one.used_s),
            "yes" if one.held else "-",
            pinners(one.pinned_by),
            "-" if not one.urls else one.urls[0] + (f" and {len(one.urls) - 1} more" if one.urls[1:] else ""),
        )
        for one in blobs
    ]
    console().print(table(columns, rows))


def pinners(owners: Iterable[str]) -> str:
    """Return who pins, in short words: ``operator, 2 snapshots``."""
    kinds = Counter(
        "operator" if owner.startswith(OPERATOR) else "snapshot" if Path(owner).parent.name == "snapshots" else owner
        for owner in owners
    )
    words = [counted(number, kind) if kind == "snapshot" else kind for kind, number in sorted(kinds.items())]
    return ", ".join(words) or "-"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store takes and what may go, in bytes. ``budget_bytes`` is None where only the disk bounds it.

    ``index``: ``ok``; ``behind`` (it counts other blobs than there are; dropped or found when somebody looks), or
    ``made anew`` (it was missing or damaged when this was asked). None where there is no store yet.
    """

    store: str
    blobs: int
    blob_bytes: int
    partial_bytes: int
    budget_bytes: int | None
    free_bytes: int
    reserve_bytes: int
    held_bytes: int
    pinned_bytes: int
    evictable_bytes: int
    index: str | None
    disk: DiskProfile


@click.command()
@of_a_store
def df(cache: Path | None, state: Path | None, as_json: bool) -> None:
    """Say what the store takes, what is free and what may go.

    Counts the blobs themselves and compares with the index, so that a damaged index shows.
    """
    usage = measured(opened(cache, state))
    if as_json:
        show_json(asdict(usage))
    else:
        click.echo(usage.store)
        console().print(table((("WHAT", "left"), ("SIZE", "right"), ("", "left")), rows(usage)))


def measured(chosen: Opened) -> Usage:
    """Return what ``df`` says. Raises ``StoreError`` subclasses."""
    store = chosen.store
    inventory = take(store)
    there = store.root.is_dir()
    # a store that is not there yet is asked about where it would be made, and not made
    room = disk(next(path for path in (store.root, *store.root.parents) if path.is_dir()), chosen.budget)
    return Usage(
        store=str(store.root),
        blobs=len(inventory.blobs),
        blob_bytes=inventory.size_bytes,
        partial_bytes=store.partial_bytes(),
        budget_bytes=chosen.budget.max_bytes,
        free_bytes=room.free_bytes,
        reserve_bytes=room.reserve_bytes,
        held_bytes=inventory.held_bytes,
        pinned_bytes=inventory.pinned_bytes,
        evictable_bytes=inventory.evictable_bytes,
        index=index_state(store, inventory) if there else None,
        disk=read_profile(store.root),
    )


def index_state(store: BlobStore, inventory: Inventory) -> str:
    """Compare the index with what is there. Raises ``StoreError`` subclasses."""
    before = _inode(store.index.path)
    totals = store.index.totals()
    if before != _inode(store.index.path):
        return "made anew"
    return "ok" if totals == (len(inventory.blobs), inventory.size_bytes) else "behind"


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def rows(usage: Usage) -> Iterator[tuple[str, str, str]]:
    """Give the lines of ``df``: what, how much, and what to know about it."""
    yield "blobs", size(usage.blob_bytes), f"in {counted(usage.blobs, 'file')}"
    yield "  held", size(usage.held_bytes), "by processes: never evicted"
    yield "  pinned", size(usage.pinned_bytes), "for snapshots or by the operator: never evicted"
    yield "  evictable", size(usage.evictable_bytes), "goes when room is needed, the longest unused first"
    yield "downloads", size(usage.partial_bytes), "under way, or kept to be resumed"
    if usage.budget_bytes is None:
        yield "budget", "-", "none; set GLOWPLUG_CACHE_BYTES"
    else:
        left = usage.budget_bytes - usage.blob_bytes - usage.partial_bytes
        yield "budget", size(usage.budget_bytes), f"{size(left)} left" if left >= 0 else f"{size(-left)} too much"
    yield "disk free", size(usage.free_bytes), f"{size(usage.reserve_bytes)} of it stay free"
    yield "disk speed", *(speed(usage.disk) if usage.disk.measured else ("-", "not measured; run `glowplug doctor`"))
    yield "index", usage.index or "-", {
        "ok": "", "behind": "harmless; `glowplug cache prune` mends it",
        "made anew": "it was not there, or could not be used", None: "no store here yet",
    }[usage.index]  # fmt: skip
