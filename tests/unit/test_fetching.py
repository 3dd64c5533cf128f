"""Fetches as the node runs them: what the child is given, what its lines and its end mean."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from glowplug.cache.errors import FetchDied, PickledWeights, SourceForbidden, SourceNotFound, StoreFull
from glowplug.runtime import fetching as module
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.fetching import Fetcher, FetchProgress, FetchResult, fetch_environment
from glowplug.runtime.spec import SourceFile


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "root" / "model"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"s" * 1000)
    return directory


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(state=tmp_path / "S", cache=tmp_path / "S" / "cache", file_roots=(tmp_path / "root",))


@pytest.fixture
def fetcher(config: NodeConfig) -> Fetcher:
    return Fetcher(config, os.environ)


def says(monkeypatch: pytest.MonkeyPatch, *lines: dict[str, object], status: int = 0) -> list[list[str]]:
    """Have a child print ``lines``; return the list of arguments that children get."""
    asked: list[list[str]] = []
    script = f"import sys; [print(line) for line in {[json.dumps(line) for line in lines]!r}]; sys.exit({status})"

    def python(name: str, arguments: list[str]) -> list[str]:
        asked.append([name, *arguments])
        return [sys.executable, "-c", script]

    monkeypatch.setattr(module, "python", python)
    return asked


MANIFEST: dict[str, object] = {
    "event": "manifest", "files": [["config.json", 2, "c" * 64]], "fetched_bytes": 7, "resumed_bytes": 5, "retries": 3,
    "waited_s": 1.5, "took_s": 2.5, "evicted_blobs": 4, "evicted_bytes": 11,
}  # fmt: skip


async def test_every_figure_of_a_fetch_arrives(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = {
        "event": "progress",
        "file": "f",
        "done_bytes": 4,
        "total_bytes": 9,
        "fetched_bytes": 2,
        "following": True,
    }
    says(monkeypatch, progress, MANIFEST)
    seen: list[FetchProgress] = []
    result = await fetcher.fetch("s3://bucket/m", on_progress=seen.append)
    assert FetchResult((SourceFile("config.json", 2, "c" * 64),), 7, 5, 3, 1.5, 2.5, 4, 11) == result
    assert [FetchProgress("f", 4, 9, 2, following=True)] == seen


async def test_the_budget_of_the_node_is_the_childs(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = says(monkeypatch, MANIFEST)
    limited = NodeConfig(state=config.state, cache=config.cache, cache_bytes=1000, cache_reserve_bytes=0)
    await Fetcher(limited, {}).fetch("s3://bucket/m", [SourceFile("a", 1, "a" * 64)])
    assert [
        ["glowplug.cache", "--store", str(config.cache), "--budget-bytes", "1000", "--reserve-bytes", "0", "--pinned",
         "--", "s3://bucket/m"]
    ] == asked  # fmt: skip


async def test_a_store_without_room_is_told_as_its_class(
    config: NodeConfig, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = NodeConfig(state=config.state, cache=config.cache, file_roots=config.file_roots, cache_bytes=10)
    with pytest.raises(StoreFull, match="GLOWPLUG_CACHE_BYTES"):
        await Fetcher(small, os.environ).fetch(f"file://{model}")


async def test_the_childs_error_is_raised_as_its_class(fetcher: Fetcher, model: Path) -> None:
    with pytest.raises(SourceForbidden, match="/etc"):
        await fetcher.fetch("file:///etc")
    with pytest.raises(SourceNotFound, match="no_such_package"):
        await fetcher.fetch("package://no_such_package/model")
    (model / "model.safetensors").rename(model / "model.pt")
    with pytest.raises(PickledWeights, match=r"model\.pt"):
        await fetcher.fetch(f"file://{model}")


async def test_a_child_that_crashes_is_reported_with_its_last_words(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; print('half a li', end='', flush=True); sys.stderr.write('libfoo: oops'); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(module, "python", lambda name, arguments: [sys.executable, "-c", script])
    with pytest.raises(FetchDied, match=r"status -6: libfoo: oops"):
        await fetcher.fetch("s3://bucket/model")


async def test_cancelling_kills_the_child(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, os, time; print(json.dumps({'event': 'progress', 'file': str(os.getpid()), 'done_bytes': 0,"
    script += " 'total_bytes': 0, 'fetched_bytes': 0, 'following': False}), flush=True); time.sleep(60)"
    monkeypatch.setattr(module, "python", lambda name, arguments: [sys.executable, "-c", script])
    running: asyncio.Future[FetchProgress] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(fetcher.fetch("s3://bucket/model", None, running.set_result))
    pid = int((await running).file)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_fetch_gets_credentials_and_proxies_and_nothing_else() -> None:
    environ = {
        "PATH": "/bin",
        "AWS_PROFILE": "p",
        "HF_TOKEN": "t",
        "HTTPS_PROXY": "x",
        "DATABASE_URL": "d",
        "HOME": "/h",
    }
    given = fetch_environment(environ)
    assert ("p", "t", "x", "/h") == (given["AWS_PROFILE"], given["HF_TOKEN"], given["HTTPS_PROXY"], given["HOME"])
    assert "DATABASE_URL" not in given
