"""Which store a command means, and what its arguments may name: a source by URL or a blob by digest."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from glowplug.cache.errors import BlobMissing
from glowplug.cache.index import scan
from glowplug.cache.manifests import Manifest, manifests, read_manifest
from glowplug.cache.room import Budget
from glowplug.cache.store import Blob, BlobStore
from glowplug.runtime.config import NodeConfig, read_size

from ..options import as_json, state_option

F = TypeVar("F", bound=Callable[..., Any])

SHORT_DIGEST = 12
"""Hex digits of a digest in a table: enough to name the blob in a command."""

OPERATOR = "operator:"
"""How the owner of a pin begins that was made by ``glowplug cache pin``; the URL or digest follows."""

_DIGEST = re.compile(r"[0-9a-f]{8,64}")  # with fewer digits it is rather a word misspelt


@dataclass(frozen=True, slots=True)
class Opened:
    """The store that was meant, and how large it may be."""

    store: BlobStore
    budget: Budget


def of_a_store(command: F) -> F:
    """Add ``--cache``, ``--state`` and ``--json`` to a command that works on a store."""
    where = click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory of the store (else GLOWPLUG_CACHE, else cache/ in the state directory).",
    )
    return where(state_option(as_json(command)))


def opened(cache: Path | None, state: Path | None) -> Opened:
    """Return the store of ``--cache`` and ``--state``. Raises ``StateError`` for settings that cannot be."""
    config = NodeConfig.from_env(os.environ, state=state)
    root = config.cache if cache is None else cache.expanduser().absolute()
    return Opened(BlobStore(root), Budget(config.cache_bytes, config.cache_reserve_bytes))


def size_of(text: str) -> int:
    """Return a number of bytes written as in ``GLOWPLUG_CACHE_BYTES``. Raises ``click.BadParameter``."""
    try:
        return read_size(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a size such as 500000000, 500M or 20G") from None


def is_url(name: str) -> bool:
    """Return whether ``name`` means a source rather than a blob."""
    return "://" in name


def blobs_named(store: BlobStore, name: str) -> tuple[str, tuple[Blob, ...]]:
    """Return what a URL or the beginning of a digest means: the name in full, and its blobs.

    Raises ``BlobMissing`` when the store knows of no such source or blob, ``click.BadParameter`` for what is neither
    URL nor digest.
    """
    if is_url(name):
        return name, _source(store.root, name).blobs
    if not _DIGEST.fullmatch(name):
        raise click.BadParameter(f"{name!r} is neither a URL nor a digest (8 to 64 hex digits)")
    found = [Blob(entry.sha256, entry.size) for entry in scan(store.root) if entry.sha256.startswith(name)]
    if len(found) > 1:
        raise click.BadParameter(f"{name!r} is the beginning of {len(found)} digests; type more of it")
    if not found:
        raise BlobMissing(f"{name}: no such blob in {store.root}")
    return found[0].sha256, (found[0],)


def _source(root: Path, url: str) -> Manifest:
    manifest = read_manifest(root, url)
    if manifest is not None:
        return manifest
    near = difflib.get_close_matches(url, [known.url for known in manifests(root)], n=1, cutoff=0.8)
    advice = f"did you mean {near[0]}?" if near else f"`glowplug cache pull {url}` fetches it"
    raise BlobMissing(f"{url}: never pulled into {root}; {advice}")
