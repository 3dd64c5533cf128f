"""Downloads: our ``fetch`` against boto3's ``download_file``, and eight processes that want the same file at once.

Every download runs in a child (``python -m bench.cache_fetching``) that has its imports behind it, into a directory
that is empty, after a ``sync``: what an earlier download left for the disk to do is not charged to the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

from glowplug.cache.fetch import fetch
from glowplug.cache.store import BlobStore

from .cache_children import Child, child
from .cache_files import Workspace
from .cache_servers import client_environment, moto, ranges, served_bytes
from .figures import Figure, at_most, median

ROUNDS = 5
MOTO_ROUNDS = 2  # of 20 s for each download
PROCESSES = 8
OBJECT_BYTES = 500_000_000
BUCKET, KEY = "models", "large/model.safetensors"
URL = f"s3://{BUCKET}/{KEY}"
_OWN = "glowplug fetch (digest, fsync, rename)"
_BOTO3 = "boto3 download_file"
_BOTO3_SAFE = "boto3 download_file, then fsync and sha256"


def s3(space: Workspace) -> list[Figure]:
    """Download one object by each means in turn, from moto and from a server that is faster than moto."""
    size = space.scaled(OBJECT_BYTES)
    file = space.blob(f"served/{BUCKET}/{KEY}", size)
    megabytes = f"{size / 1e6:g} MB"
    with moto(2 * size) as endpoint:
        _upload(endpoint, file)
        alone_s = _plain_get_s(endpoint)
        seconds = _alternate(space, endpoint, file, (_OWN, _BOTO3), MOTO_ROUNDS)
    section = f"s3://, {megabytes} from moto on loopback (mean of {MOTO_ROUNDS})"
    note = (
        "moto reads the whole object for each range that is asked of it, in one interpreter: this measures how few and "
        f"large the ranges are more than how they are received. One GET of the whole object takes it {alone_s:.2f} s."
    )
    rows = [
        at_most(section, _OWN, median(seconds[_OWN]), "s", median(seconds[_BOTO3]), note=note),
        Figure(section, _BOTO3, median(seconds[_BOTO3]), "s"),
    ]
    with ranges(space.directory / "served") as endpoint:
        seconds = _alternate(space, endpoint, file, (_OWN, _BOTO3, _BOTO3_SAFE), ROUNDS)
    section = f"s3://, {megabytes} from a server that only calls sendfile (median of {ROUNDS})"
    note = (
        "download_file leaves its file in the page cache, unwritten and unchecked; the third row is what it takes to "
        "get from it what fetch promises. Server and client share this machine's cores."
    )
    rows += [
        Figure(section, name, median(taken), "s", note="" if name != _OWN else note) for name, taken in seconds.items()
    ]
    shutil.rmtree(space.directory / "served")
    return rows


def flight(space: Workspace) -> list[Figure]:
    """Let eight processes fetch one absent file at the same moment; compare with one process alone."""
    size = space.scaled(OBJECT_BYTES)
    file = space.blob(f"served/{BUCKET}/{KEY}", size)
    blob = _digest(file)
    with ranges(space.directory / "served") as endpoint, contextlib.ExitStack() as stack:
        url = f"{endpoint}/{BUCKET}/{KEY}"
        children = [stack.enter_context(child("bench.cache_fetching")) for _ in range(PROCESSES)]
        alone_s, _ = _together(space, children[:1], url)
        before = served_bytes(endpoint)
        together_s, answers = _together(space, children, url, expected=blob)
        sent = served_bytes(endpoint) - before
    shutil.rmtree(space.directory / "served")
    section = f"{PROCESSES} processes ask for the same absent {size / 1e6:g} MB at once"
    served = sum(answer["sha256"] == blob for answer in answers)
    return [
        Figure(section, "processes that have the file", served, "", f"= {PROCESSES}", served == PROCESSES),
        at_most(section, "sent by the server / size of the file", sent / size, "x", 1.0),
        Figure(section, "transferred by", sum(answer["fetched_bytes"] > 0 for answer in answers), "process"),
        Figure(section, "until the last of them has it", together_s, "s"),
        Figure(section, "one process alone", alone_s, "s"),
    ]


def _together(
    space: Workspace, children: Sequence[Child], url: str, expected: str = ""
) -> tuple[float, list[dict[str, Any]]]:
    store = space.directory / "store"
    os.sync()
    begun = time.perf_counter()
    for process in children:
        process.send(how=_OWN, url=url, directory=str(store))
    answers = [process.answer() for process in children]
    took = time.perf_counter() - begun
    if expected and _digest(BlobStore(store).path(expected)) != expected:
        raise RuntimeError(f"{store}: the blob has other bytes than {url}")
    shutil.rmtree(store)
    return took, answers


def _alternate(
    space: Workspace, endpoint: str, file: Path, means: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of ``rounds`` downloads by each of ``means``, each round begun by another of them."""
    expected = _digest(file)
    target = space.directory / "download"
    seconds: dict[str, list[float]] = {name: [] for name in means}
    with child("bench.cache_fetching", environ=client_environment(endpoint)) as process:
        for turn in range(rounds):
            first = turn % len(means)
            for name in (*means[first:], *means[:first]):
                target.mkdir()
                os.sync()
                answer = process.ask(how=name, url=URL, directory=str(target))
                seconds[name].append(answer["took_s"])
                arrived = BlobStore(target).path(expected) if name == _OWN else target / "file"
                if arrived.stat().st_size != file.stat().st_size:
                    raise RuntimeError(f"{name}: {arrived} is not all of {URL}")
                shutil.rmtree(target)
    return seconds


def _upload(endpoint: str, file: Path) -> None:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="bench", aws_secret_access_key="bench"
    )
    client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(file), BUCKET, KEY)


def _plain_get_s(endpoint: str) -> float:
    """Return the seconds of one GET of the whole object, thrown away: what the server can do at best."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=300)
    with contextlib.closing(connection):
        begun = time.perf_counter()
        connection.request("GET", f"/{BUCKET}/{KEY}")
        response = connection.getresponse()
        while response.read(1024 * 1024):
            pass
        return time.perf_counter() - begun


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Download as told, one order a line: ``{"how", "url", "directory"}``."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        download = _fetch if order["how"] == _OWN else _download_file
        begun = time.perf_counter()
        answer = download(order["url"], Path(order["directory"]), safe=order["how"] == _BOTO3_SAFE)
        print(json.dumps({"took_s": time.perf_counter() - begun, **answer}), flush=True)


def _fetch(url: str, directory: Path, *, safe: bool) -> dict[str, Any]:
    fetched = fetch(url, BlobStore(directory))
    (file,) = fetched.manifest.files
    return {"sha256": file.sha256, "fetched_bytes": fetched.fetched_bytes, "waited_s": fetched.waited_s}


def _download_file(url: str, directory: Path, *, safe: bool) -> dict[str, Any]:
    parts = urlsplit(url)
    target = directory / "file"
    boto3.client("s3").download_file(parts.netloc, parts.path[1:], str(target))
    if not safe:
        return {}
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return {"sha256": _digest(target)}


if __name__ == "__main__":
    main()
