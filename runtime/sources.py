"""Model sources as the node uses them: resolved once at deploy, local files at each start.

Everything that reads a source runs in a child process (``glowplug.cache.fetch``): a download never holds up the event
loop, and a client library that crashes or leaks takes only its own fetch with it. The child gets an allow-listed part
of the operator's environment, because that is where credentials for buckets and proxies are; functions never see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from glowplug.cache.errors import FetchDied, named
from glowplug.cache.store import BlobStore

from .config import NodeConfig
from .process.execute import base_environment, python
from .spec import FunctionSpec, ModelSpec, SourceFile

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
    """How far a fetch is: the file at hand, and bytes done of all (``total_bytes`` as far as the source says sizes)."""

    file: str
    done_bytes: int
    total_bytes: int


class Sources:
    """Resolves source URLs and keeps the files of revisions present. ``environ`` is the operator's environment."""

    def __init__(self, config: NodeConfig, *, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self.store = BlobStore(config.cache)
        self._file_roots = config.file_roots
        self._environment = fetch_environment(environ)
        self._locks: dict[str, asyncio.Lock] = {}

    def __repr__(self) -> str:
        return f"Sources({self.store!r}, fetching={sum(lock.locked() for lock in self._locks.values())})"

    async def resolve(self, url: str, on_progress: OnProgress | None = None) -> tuple[SourceFile, ...]:
        """Bring everything at ``url`` into the store and return what it is, ordered by name.

        Raises ``CacheError`` subclasses that name the URL. Cancelling ends the fetch; what it stored stays.
        """
        async with self._alone(url):
            rows = await self._fetch(url, None, on_progress)
        return tuple(SourceFile(*row) for row in rows)

    async def files(self, spec: FunctionSpec) -> dict[str, dict[str, str]]:
        """Return model name -> file name -> absolute path of the blob, fetching what is missing.

        With everything present this is one ``stat`` per file. Raises ``SourceChanged`` when a source no longer has what
        the revision pins (both digests in the message), and other ``CacheError`` subclasses.
        """
        for model in spec.models:
            if not self._present(model):
                async with self._alone(model.source):
                    if not self._present(model):  # nobody fetched it while this start waited
                        rows = [[file.name, file.size, file.sha256] for file in model.files]
                        await self._fetch(model.source, rows, None)
        return {
            model.name: {file.name: str(self.store.path(file.sha256)) for file in model.files} for model in spec.models
        }

    def _present(self, model: ModelSpec) -> bool:
        return all(self.store.has(file.sha256, file.size) for file in model.files)

    @contextlib.asynccontextmanager
    async def _alone(self, url: str) -> AsyncIterator[None]:
        """One fetch of a URL at a time in this node; ``fetch`` itself keeps other processes out."""
        lock = self._locks.setdefault(url, asyncio.Lock())
        async with lock:
            yield

    async def _fetch(self, url: str, pinned: list[list[Any]] | None, on_progress: OnProgress | None) -> list[list[Any]]:
        arguments = ["--store", str(self.store.root)]
        for root in self._file_roots:
            arguments += ["--file-root", str(root)]
        if pinned is not None:
            arguments.append("--pinned")
        process = await asyncio.create_subprocess_exec(
            *python("glowplug.cache.fetch", [*arguments, "--", url]),
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
        return list(final["files"])


def fetch_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a fetch gets: what a zygote gets, and of the operator's environment proxies and credentials."""
    return base_environment(environ) | {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES) or name.lower() in _PASSED_ON_LOWER
    }


async def _feed(stdin: asyncio.StreamWriter | None, pinned: list[list[Any]] | None) -> None:
    assert stdin is not None  # noqa: S101  (asked for with PIPE)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its last line or status says why
        if pinned is not None:
            stdin.write(json.dumps(pinned).encode())
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
                on_progress(FetchProgress(event["file"], event["done_bytes"], event["total_bytes"]))
        else:
            final = event
    return final
