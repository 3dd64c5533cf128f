"""One download as the node runs it: ``python -m glowplug.cache`` in a process of its own.

A download never holds up the event loop, and a client library that crashes or leaks takes only its own fetch with it.
The child gets an allow-listed part of the operator's environment, because that is where credentials for buckets and
proxies are; functions never see it. What it prints is specified in ``cache/__main__.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glowplug.cache.errors import FetchDied, named

from .config import NodeConfig
from .process.execute import base_environment, python
from .spec import SourceFile

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest line a fetch may print: a manifest of 10,000 files with names of 1,024 characters is 11 MB."""

_STDERR_BYTES = 2048  # of a child that died, for the message
_PASSED_ON = ("HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
              "GOOGLE_APPLICATION_CREDENTIALS", "XDG_CACHE_HOME")  # fmt: skip
_PASSED_ON_PREFIXES = ("AWS_", "AZURE_", "HF_", "FSSPEC_", "GITHUB_TOKEN")
_PASSED_ON_LOWER = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")  # customary in either case

OnProgress = Callable[["FetchProgress"], None]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is: the file at hand, and bytes done of all (``total_bytes`` as far as the source says sizes).

    ``fetched_bytes`` of them came over the network, the others were here. ``following``: another process transfers
    them, and this is its progress.
    """

    file: str
    done_bytes: int
    total_bytes: int
    fetched_bytes: int = 0
    following: bool = False


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a fetch brought. ``resumed_bytes`` were left by an earlier one; ``waited_s`` of ``took_s`` it waited for
    another process that fetched the same. ``evicted_blobs``, ``evicted_bytes``: what went to make room for it."""

    files: tuple[SourceFile, ...]
    fetched_bytes: int
    resumed_bytes: int
    retries: int
    waited_s: float
    took_s: float
    evicted_blobs: int = 0
    evicted_bytes: int = 0


class Fetcher:
    """Runs fetches into the node's store. ``environ`` is the operator's environment."""

    def __init__(self, config: NodeConfig, environ: Mapping[str, str]) -> None:
        self._environment = fetch_environment(environ)
        self._arguments = ["--store", str(config.cache)]
        for root in config.file_roots:
            self._arguments += ["--file-root", str(root)]
        if config.cache_bytes is not None:
            self._arguments += ["--budget-bytes", str(config.cache_bytes)]
        if config.cache_reserve_bytes is not None:
            self._arguments += ["--reserve-bytes", str(config.cache_reserve_bytes)]

    def __repr__(self) -> str:
        return f"Fetcher({' '.join(self._arguments)})"

    async def fetch(
        self, url: str, pinned: Sequence[SourceFile] | None = None, on_progress: OnProgress | None = None
    ) -> FetchResult:
        """Bring everything at ``url`` into the store, or exactly the ``pinned`` files of it.

        Raises ``CacheError`` subclasses that name the URL. Cancelling ends the child; what it stored stays, and the
        next fetch goes on from there.
        """
        process = await asyncio.create_subprocess_exec(
            *python("glowplug.cache", [*self._arguments, *(["--pinned"] if pinned is not None else []), "--", url]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd="/",
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        try:
            async with asyncio.TaskGroup() as group:
                complaint = group.create_task(_tail(process.stderr), name=f"stderr of fetch {url}")
                group.create_task(_feed(process.stdin, pinned), name=f"stdin of fetch {url}")
                verdict = group.create_task(_verdict(process.stdout, on_progress), name=f"stdout of fetch {url}")
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        final = verdict.result()
        if final.get("event") == "error":
            raise named(str(final["error_type"]), str(final["message"]))
        if final.get("event") != "manifest" or status != 0:
            raise FetchDied(f"{url}: the fetch ended with status {status}: {complaint.result() or 'no message'}")
        return FetchResult(
            files=tuple(SourceFile(*row) for row in final["files"]),
            fetched_bytes=final["fetched_bytes"],
            resumed_bytes=final["resumed_bytes"],
            retries=final["retries"],
            waited_s=final["waited_s"],
            took_s=final["took_s"],
            evicted_blobs=final["evicted_blobs"],
            evicted_bytes=final["evicted_bytes"],
        )


def fetch_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a fetch gets: what a zygote gets, and of the operator's environment proxies and credentials."""
    return base_environment(environ) | {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES) or name.lower() in _PASSED_ON_LOWER
    }


async def _feed(stdin: asyncio.StreamWriter | None, pinned: Sequence[SourceFile] | None) -> None:
    assert stdin is not None  # noqa: S101  (asked for with PIPE)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its last line or status says why
        if pinned is not None:
            stdin.write(json.dumps([[file.name, file.size, file.sha256] for file in pinned]).encode())
            await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _tail(stderr: asyncio.StreamReader | None) -> str:
    assert stderr is not None  # noqa: S101
    tail = b""
    while chunk := await stderr.read(65536):
        tail = (tail + chunk)[-_STDERR_BYTES:]
    return tail.decode(errors="replace").strip()


async def _verdict(stdout: asyncio.StreamReader | None, on_progress: OnProgress | None) -> dict[str, Any]:
    """Read a fetch's lines to the end; return the last one that is a verdict, or nothing."""
    assert stdout is not None  # noqa: S101
    final: dict[str, Any] = {}
    async for line in stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off by its death, or a client library that prints; the exit status tells
        if event["event"] == "progress":
            if on_progress is not None:
                on_progress(
                    FetchProgress(
                        event["file"],
                        event["done_bytes"],
                        event["total_bytes"],
                        event["fetched_bytes"],
                        event["following"],
                    )
                )
        else:
            final = event
    return final
