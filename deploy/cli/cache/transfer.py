"""``glowplug cache pull`` and ``verify``: the commands that move or read every byte."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from glowplug.cache.digest import CHUNK_BYTES, Streaming
from glowplug.cache.fetch import Fetched, fetch
from glowplug.cache.files import store_errors
from glowplug.cache.index import scan
from glowplug.cache.pins import owners
from glowplug.cache.progress import Progress
from glowplug.cache.residency import opened as opened_file
from glowplug.cache.residency import resident_bytes
from glowplug.cache.store import Blob, BlobStore

from ..output import counted, milliseconds, show_json, size
from ..progress import Display, display
from .keeping import add_pin
from .options import OPERATOR, SHORT_DIGEST, blobs_named, of_a_store, opened

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and SIGINT, as shells count."""


@click.command()
@click.argument("url")
@click.option("--pin", is_flag=True, help="Keep it from eviction, too.")
@click.option(
    "--file-root",
    "file_roots",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Take file:// only from below this directory; repeatable (else from anywhere).",
)
@of_a_store
def pull(
    url: str, pin: bool, file_roots: tuple[Path, ...], cache: Path | None, state: Path | None, as_json: bool
) -> None:
    """Fetch a source into the store.

    What is there is not read again. Ctrl-C keeps what has arrived, and the same command goes on from there; a file that
    the source cannot give in ranges begins again. If the URL is pinned, the pin moves along to the files it has now.
    """
    chosen = opened(cache, state)
    # A node takes file:// from below GLOWPLUG_FILE_ROOTS only, because templates come from others. This URL was typed
    # by whoever runs the command and is read with that user's own rights: a root would protect nobody.
    roots = tuple(root.absolute() for root in file_roots) or (Path("/"),)
    shown = _Shown()
    try:
        with display(quiet=as_json) as show:
            shown.show = show
            fetched = fetch(url, chosen.store, file_roots=roots, budget=chosen.budget, report=shown)
    except KeyboardInterrupt:
        click.echo(f"glowplug: interrupted; {shown.kept()}", err=True)
        sys.exit(INTERRUPTED)
    pinned = pin or OPERATOR + url in owners(chosen.store.root)
    if pinned:
        add_pin(chosen.store, url)
    if as_json:
        show_json(described(fetched, pinned=pinned))
        return
    for file in fetched.manifest.files:
        click.echo(f"{file.sha256}  {file.name}")  # as sha256sum prints them, for `sha256sum --check`
    click.echo(words(fetched) + (", pinned" if pinned else ""))


class _Shown:
    """Shows the progress of a fetch, and knows the last one."""

    def __init__(self) -> None:
        self.show: Display | None = None
        self._last = Progress("", 0, 0)

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if self.show is not None:
            self.show({"step": "pull", **asdict(progress)})  # without the URL: it was typed, and would crush the bar

    def kept(self) -> str:
        """Say what an interruption leaves."""
        of = f" of {size(self._last.total_bytes)}" if self._last.total_bytes else ""
        if self._last.following:
            return "another process goes on fetching"
        return f"{size(self._last.done_bytes)}{of} had arrived; the same command goes on from there"


def present_bytes(fetched: Fetched) -> int:
    """Return how much was in the store already, or was brought by another process meanwhile."""
    distinct = sum(blob.size for blob in fetched.manifest.blobs)
    return max(0, distinct - fetched.fetched_bytes - fetched.resumed_bytes)


def described(fetched: Fetched, *, pinned: bool) -> dict[str, Any]:
    """Return a fetch as JSON-able values."""
    return {
        "url": fetched.manifest.url,
        "digest": fetched.manifest.digest,
        "size_bytes": fetched.manifest.size_bytes,
        "fetched_bytes": fetched.fetched_bytes,
        "resumed_bytes": fetched.resumed_bytes,
        "present_bytes": present_bytes(fetched),
        "retries": fetched.retries,
        "waited_s": fetched.waited_s,
        "took_s": fetched.took_s,
        "pinned": pinned,
        "files": [
            {"name": file.name, "size_bytes": file.size, "sha256": file.sha256} for file in fetched.manifest.files
        ],
    }


def words(fetched: Fetched) -> str:
    """Say what a fetch brought, and how fast."""
    own_s = fetched.took_s - fetched.waited_s
    rate = f", {size(fetched.fetched_bytes / own_s)}/s" if fetched.fetched_bytes and own_s > 0 else ""
    parts = [
        f"{counted(len(fetched.manifest.files), 'file')}, {size(fetched.manifest.size_bytes)}: "
        f"fetched {size(fetched.fetched_bytes)} in {milliseconds(fetched.took_s * 1000)}{rate}",
        f"resumed {size(fetched.resumed_bytes)}",
        f"here already {size(present_bytes(fetched))}",
    ]
    if fetched.retries:
        parts.append(f"{fetched.retries} retries")
    if fetched.waited_s >= 0.01:  # less is what taking a free lock costs
        parts.append(f"waited {milliseconds(fetched.waited_s * 1000)} for another process")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob whose bytes are not those of its name. ``found`` is their digest, or why they cannot be read."""

    sha256: str
    found: str
    path: str
    discarded: bool


@click.command()
@click.argument("names", nargs=-1, metavar="[URL|DIGEST]...")
@click.option("--repair", is_flag=True, help="Discard what is damaged; it is fetched again when it is needed.")
@of_a_store
def verify(names: tuple[str, ...], repair: bool, cache: Path | None, state: Path | None, as_json: bool) -> None:
    """Read blobs, all of them or those named, and compare their digests.

    Exits with 1 when one was damaged, also when --repair discarded it. The page cache is left as it was.
    """
    store = opened(cache, state).store
    chosen = _chosen(store, names)
    with display(quiet=as_json) as show:
        read, damaged = check(store, chosen, show, repair=repair)
    absent = len(chosen) - read
    if as_json:
        report = {"blobs": read, "absent": absent, "size_bytes": sum(blob.size for blob in chosen)}
        show_json(report | {"damaged": [asdict(one) for one in damaged]})
    else:
        for one in damaged:
            click.echo(f"damaged: {one.path}\n  is {one.found}" + ("\n  discarded" if one.discarded else ""))
        gone = f", {absent} not in the store" if absent else ""
        click.echo(f"{counted(read, 'blob')} read{gone}, {len(damaged)} damaged")
    if damaged:
        sys.exit(1)


def _chosen(store: BlobStore, names: tuple[str, ...]) -> tuple[Blob, ...]:
    if not names:
        return tuple(Blob(entry.sha256, entry.size) for entry in scan(store.root))
    return tuple(dict.fromkeys(blob for name in names for blob in blobs_named(store, name)[1]))


def check(store: BlobStore, blobs: tuple[Blob, ...], show: Display, *, repair: bool) -> tuple[int, list[Damage]]:
    """Read ``blobs`` and return how many were there, and those that are damaged, which ``repair`` discards.

    Raises ``StoreError`` subclasses, such as for a blob that may not be read: nothing is known of it then.
    """
    total, done, read = sum(blob.size for blob in blobs), 0, 0
    damaged: list[Damage] = []
    for blob in blobs:
        path = store.path(blob.sha256)
        found = digest_of(path, _verifying(show, blob, done, total))
        if found is None:
            continue
        read += 1
        done += blob.size
        if found != blob.sha256:
            if repair:
                store.discard(blob.sha256)
            damaged.append(Damage(blob.sha256, found, str(path), repair))
    return read, damaged


def _verifying(show: Display, blob: Blob, before: int, total: int) -> Callable[[int], None]:
    event = {"step": "verify", "file": blob.sha256[:SHORT_DIGEST], "total_bytes": total}
    return lambda done: show(event | {"done_bytes": before + done})


def digest_of(path: Path, report: Callable[[int], None]) -> str | None:
    """Return the digest of a blob's bytes, or ``unreadable: …`` where the disk fails; None when it is not there.

    ``report`` is called with the bytes read so far. What was not in the page cache before is put out of it again, so
    that a check of a large store does not push the weights out that functions use. Raises ``StoreError`` subclasses.
    """
    digest = Streaming()
    with store_errors(path):
        try:
            with opened_file(path) as descriptor:
                cold = resident_bytes(descriptor) == 0
                while chunk := os.read(descriptor, CHUNK_BYTES):
                    digest.update(chunk)
                    report(digest.size)
                if cold:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except FileNotFoundError:
            return None  # evicted since it was listed, or never there
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return f"unreadable: {error.strerror}"
    return digest.hexdigest()
