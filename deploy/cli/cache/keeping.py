"""``glowplug cache prune`` and ``pin``: what goes and what stays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from glowplug.cache.errors import BlobMissing
from glowplug.cache.evict import NOTHING, Entry, Eviction, evict
from glowplug.cache.files import locked_if_free
from glowplug.cache.manifests import forget_manifest, manifests, read_manifest
from glowplug.cache.partial import url_key
from glowplug.cache.pins import owners, unpin
from glowplug.cache.pins import pin as write_pin
from glowplug.cache.room import prune as evict_down_to
from glowplug.cache.store import BlobStore

from ..output import console, counted, show_json, size, table
from .inventory import Inventory, take
from .options import OPERATOR, blobs_named, of_a_store, opened, size_of


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did, or would do. ``left_bytes`` are of blobs, ``partial_bytes`` of downloads that stay.

    ``short_bytes``: how much more than was asked for is left; 0 where everything that may go was asked for.
    """

    dry_run: bool
    freed_blobs: int
    freed_bytes: int
    swept: int
    forgotten: tuple[str, ...]
    left_bytes: int
    held_bytes: int
    pinned_bytes: int
    partial_bytes: int
    short_bytes: int


@click.command()
@click.option(
    "--to", "to_bytes", type=size_of, metavar="SIZE", help="Leave at most this much: 500M, 20G (powers of 1024)."
)
@click.option("--all", "everything", is_flag=True, help="Evict all that is neither held nor pinned.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@of_a_store
def prune(
    to_bytes: int | None, everything: bool, dry_run: bool, cache: Path | None, state: Path | None, as_json: bool
) -> None:
    """Evict what was not used for longest, down to a size.

    Without --to or --all that is the budget, GLOWPLUG_CACHE_BYTES; without one, only leftovers go: partial files of
    dead downloads, and what is known of sources of which no blob is left. What is held or pinned stays. Exits with 1
    when the size could not be reached.
    """
    if everything and to_bytes is not None:
        raise click.UsageError("--to and --all exclude each other")
    chosen = opened(cache, state)
    limit = 0 if everything else to_bytes if to_bytes is not None else chosen.budget.max_bytes
    result = planned(chosen.store, limit) if dry_run else pruned(chosen.store, limit)
    if everything:
        result = replace(result, short_bytes=0)
    if as_json:
        show_json(asdict(result))
    else:
        for line in words(result):
            click.echo(line)
    if result.short_bytes and not dry_run:
        sys.exit(1)  # what was asked was not done; the lines above say what stayed and why


def planned(store: BlobStore, limit: int | None) -> Pruned:
    """Return what a prune to ``limit`` bytes would do now; None: leftovers only. Raises ``StoreError`` subclasses."""
    now = take(store)
    entries = [Entry(one.sha256, one.size_bytes, one.used_s) for one in now.blobs if not one.held]
    pinned = {one.sha256 for one in now.blobs if one.pinned_by}
    need_bytes = 0 if limit is None else now.size_bytes + store.partial_bytes() - limit
    eviction = evict(entries, pinned=pinned, need_bytes=need_bytes)
    left = {one.sha256 for one in now.blobs} - {victim.sha256 for victim in eviction.victims}
    after = _result(store, now, eviction, 0, _empty(store, left), dry_run=True)
    return replace(after, left_bytes=now.size_bytes - eviction.freed_bytes)


def pruned(store: BlobStore, limit: int | None) -> Pruned:
    """Prune to ``limit`` bytes and return what was done; None: leftovers only. Raises ``StoreError`` subclasses."""
    swept = store.sweep(abandoned_s=0) if limit == 0 else store.sweep()
    eviction = NOTHING if limit is None else evict_down_to(store, to_bytes=limit)
    now = take(store)
    empty = _empty(store, {one.sha256 for one in now.blobs})
    forgotten = tuple(url for url in empty if _forget(store, url))
    return _result(store, now, eviction, swept, forgotten, dry_run=False)


def _empty(store: BlobStore, left: set[str]) -> tuple[str, ...]:
    """Return the URLs of the sources that have no blob among ``left``."""
    known = manifests(store.root)
    return tuple(one.url for one in known if not any(file.sha256 in left for file in one.files))


def _forget(store: BlobStore, url: str) -> bool:
    """Forget a source of which nothing is left; return whether it was. Whoever fetches it just now keeps it."""
    with locked_if_free(store.root, url_key(url)) as free:
        manifest = read_manifest(store.root, url)
        if not free or manifest is None or any(store.has(file.sha256) for file in manifest.files):
            return False
        forget_manifest(store.root, url)
    return True


def _result(
    store: BlobStore, now: Inventory, eviction: Eviction, swept: int, forgotten: tuple[str, ...], *, dry_run: bool
) -> Pruned:
    return Pruned(
        dry_run=dry_run,
        freed_blobs=len(eviction.victims),
        freed_bytes=eviction.freed_bytes,
        swept=swept,
        forgotten=forgotten,
        left_bytes=now.size_bytes,
        held_bytes=now.held_bytes,
        pinned_bytes=now.pinned_bytes,
        partial_bytes=store.partial_bytes(),
        short_bytes=eviction.short_bytes,
    )


def words(result: Pruned) -> Iterator[str]:
    """Say what a prune did, and what stayed and why."""
    freed = "would free" if result.dry_run else "freed"
    forgot = "would forget" if result.dry_run else "forgot"
    yield f"{freed} {size(result.freed_bytes)} in {counted(result.freed_blobs, 'blob')}"
    if result.swept:
        yield f"removed {counted(result.swept, 'partial file')} of downloads that died"
    for url in result.forgotten:
        yield f"{forgot} {url}: none of its blobs is left"
    stayed = "would stay" if result.dry_run else "stayed"
    yield f"{size(result.left_bytes)} {stayed}: {size(result.held_bytes)} held, {size(result.pinned_bytes)} pinned"
    if result.partial_bytes:
        yield f"downloads, under way or to be resumed, take {size(result.partial_bytes)}"
    if result.short_bytes:
        yield f"that is {size(result.short_bytes)} more than asked for; what is held or pinned is not evicted"


@click.command()
@click.argument("names", nargs=-1, metavar="[URL|DIGEST]...")
@click.option("--remove", is_flag=True, help="Remove the pins instead.")
@of_a_store
def pin(names: tuple[str, ...], remove: bool, cache: Path | None, state: Path | None, as_json: bool) -> None:
    """Keep sources or blobs from eviction; without arguments, list pins.

    A pin of a URL keeps the files it had when it was pulled last. It holds until it is removed, also while they are not
    in the store.
    """
    store = opened(cache, state).store
    if remove and not names:
        raise click.UsageError("--remove needs a URL or a digest; `glowplug cache pin` lists them")
    if remove:
        for name in names:
            remove_pin(store, name)
    else:
        for name in names:
            add_pin(store, name)
    if as_json:
        show_json({"pins": [{"owner": owner, "blobs": sorted(kept)} for owner, kept in owners(store.root).items()]})
    elif names:
        click.echo("\n".join(f"{'removed the pin of' if remove else 'pinned'} {name}" for name in names))
    else:
        show_pins(store)


def add_pin(store: BlobStore, name: str) -> None:
    """Pin a URL or digest. Raises ``BlobMissing``, also when some of it is not in the store: it is pinned all the same,
    and stays once it is there."""
    name, blobs = blobs_named(store, name)
    write_pin(store.root, OPERATOR + name, [blob.sha256 for blob in blobs])
    absent = sum(not store.has(blob.sha256, blob.size) for blob in blobs)
    if absent:
        raise BlobMissing(
            f"{name}: pinned, but {absent} of its {counted(len(blobs), 'blob')} are not in the store; "
            f"`glowplug cache pull {name}` brings them"
        )


def remove_pin(store: BlobStore, name: str) -> None:
    """Remove the operator's pin of a URL or digest (or its beginning). Raises ``BlobMissing`` when there is none."""
    held = [owner for owner in owners(store.root) if owner.startswith(OPERATOR)]
    exact = OPERATOR + name
    chosen = [exact] if exact in held else [owner for owner in held if "://" not in name and owner.startswith(exact)]
    if len(chosen) > 1:
        raise click.BadParameter(f"{name!r} is the beginning of {len(chosen)} pins; type more of it")
    if not chosen or not unpin(store.root, chosen[0]):
        raise BlobMissing(f"{name}: not pinned by the operator; `glowplug cache pin` lists what is")


def show_pins(store: BlobStore) -> None:
    """Print who pins how much."""
    present = {one.sha256: one.size_bytes for one in take(store).blobs}
    rows = [
        (
            owner.removeprefix(OPERATOR),
            "operator" if owner.startswith(OPERATOR) else "snapshot",
            str(len(kept)),
            size(sum(present.get(digest, 0) for digest in kept)),
        )
        for owner, kept in owners(store.root).items()
    ]
    if rows:
        console().print(table((("PIN", "left"), ("BY", "left"), ("BLOBS", "right"), ("HERE", "right")), rows))
    else:
        click.echo("no pins; `glowplug cache pin URL` keeps a source", err=True)
