"""Bring a source into the store, in a process of its own, so that no download ever holds up a node's loop:

    python -m glowplug.cache URL --store DIRECTORY [--file-root DIRECTORY]… [--budget-bytes N] [--reserve-bytes N]
                             [--pinned < FILES]

Standard output is JSON, one object a line:

    {"event": "progress", "file": "model.safetensors", "done_bytes": 33554432, "total_bytes": 91735043,
     "fetched_bytes": 33554432, "following": false}
    {"event": "manifest", "files": [["config.json", 612, "<sha256 hex>"], …], "fetched_bytes": 91735043,
     "resumed_bytes": 0, "retries": 0, "waited_s": 0.0, "took_s": 0.4}                last line on success, exit 0
    {"event": "error", "error_type": "SourceNotFound", "message": "…"}                last line on failure, exit 1

(each on one line). With ``--pinned`` standard input holds such a list of files, a revision's, and exactly those are
brought back: blobs that are there are not read again, and a file that is no longer the pinned one is ``SourceChanged``
with both digests. ``following`` is true while another process fetches the same: then the numbers are that one's.

SIGTERM ends it with status 143 and leaves what has arrived for the next fetch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .digest import checked_digest
from .errors import CacheError, SourceInvalid
from .fetch import Progress, fetch
from .manifests import ManifestFile
from .room import Budget
from .sources.listing import checked_name
from .store import BlobStore


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in the module's docstring; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m glowplug.cache", description="Bring a source into a store.")
    parser.add_argument("url")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--file-root", type=Path, action="append", default=[])
    parser.add_argument("--budget-bytes", type=_size, help="what the store may take in all")
    parser.add_argument("--reserve-bytes", type=_size, help="what stays free of the disk")
    parser.add_argument("--pinned", action="store_true", help="bring back the files listed on standard input")
    given = parser.parse_args(arguments)
    store = BlobStore(given.store)
    try:
        pinned = _read_pinned(sys.stdin.read()) if given.pinned else None
        store.sweep()
        fetched = fetch(
            given.url,
            store,
            file_roots=given.file_root,
            pinned=pinned,
            budget=Budget(given.budget_bytes, given.reserve_bytes),
            report=_say_progress,
        )
    except CacheError as error:
        _say(event="error", error_type=type(error).__name__, message=str(error))
        return 1
    counted = {field.name: getattr(fetched, field.name) for field in dataclasses.fields(fetched)}
    manifest = counted.pop("manifest")
    _say(event="manifest", files=[[file.name, file.size, file.sha256] for file in manifest.files], **counted)
    return 0


def _size(text: str) -> int:
    size = int(text)
    if size < 0:
        raise ValueError(text)
    return size


def _read_pinned(text: str) -> list[ManifestFile]:
    """Return the rows on standard input. Raises ``SourceInvalid``: names and digests become paths."""
    try:
        rows = [ManifestFile(name, size, sha256) for name, size, sha256 in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise SourceInvalid(f"standard input holds no list of [name, size, sha256]: {error}") from error
    for row in rows:
        if type(row.name) is not str or type(row.size) is not int or row.size < 0:  # True is an int
            raise SourceInvalid(f"standard input: {row.name!r} and {row.size!r} are not a name and a size in bytes")
        checked_name(row.name)
        checked_digest(row.sha256)
    return rows


def _say_progress(progress: Progress) -> None:
    _say(event="progress", **dataclasses.asdict(progress))


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _terminate(number: int, frame: object) -> None:
    """Unwind instead of dying on the spot, so that no anonymous partial file is left for a sweep."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)  # whoever asked is gone: nobody to fetch for, and flushing at exit would raise once more
