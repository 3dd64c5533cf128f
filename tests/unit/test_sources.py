"""The node's side of sources: resolved in a child process, present at each start, refetched when not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from glowplug.cache.errors import FetchDied, PickledWeights, SourceChanged, SourceForbidden, SourceNotFound
from glowplug.runtime import sources as module
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.sources import FetchProgress, Sources, fetch_environment
from glowplug.runtime.spec import FunctionSpec, ModelSpec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "root" / "model"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"s" * 1000)
    return directory


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    config = NodeConfig(state=tmp_path / "S", cache=tmp_path / "S" / "cache", file_roots=(tmp_path / "root",))
    return Sources(config, environ=os.environ)


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def truncate(path: str) -> None:
    Path(path).chmod(0o644)
    os.truncate(path, 1)


async def deployed(sources: Sources, model: Path) -> FunctionSpec:
    url = f"file://{model}"
    pinned = ModelSpec(name="m", source=url, files=await sources.resolve(url))
    return FunctionSpec(name="f", handler="a.b", runtime="python3.11", code_digest="0" * 64, models=(pinned,))


async def test_resolving_says_what_there_is_and_how_far_it_is(sources: Sources, model: Path) -> None:
    seen: list[FetchProgress] = []
    files = await sources.resolve(f"file://{model}", seen.append)
    assert [("config.json", 2), ("model.safetensors", 1000)] == [(file.name, file.size) for file in files]
    assert hashlib.sha256(b"{}").hexdigest() == files[0].sha256
    assert (1002, 1002) == (seen[-1].done_bytes, seen[-1].total_bytes)


async def test_present_files_cost_a_stat_each(sources: Sources, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = await deployed(sources, model)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", None)  # a child would be a TypeError
    times = []
    for _ in range(5):
        began = time.perf_counter()
        files = await sources.files(spec)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.001
    assert b"s" * 1000 == content(files["m"]["model.safetensors"])
    assert files["m"]["config.json"].startswith("/")


async def test_a_missing_blob_is_fetched_once_however_many_starts_want_it(
    sources: Sources, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = await deployed(sources, model)
    sources.store.discard(spec.models[0].files[1].sha256)
    real, children = asyncio.create_subprocess_exec, []

    async def counted(*command: str, **options: object) -> asyncio.subprocess.Process:
        children.append(command)
        return await real(*command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
    results = await asyncio.gather(*(sources.files(spec) for _ in range(5)))
    assert 1 == len(children)
    assert all(1000 == len(content(files["m"]["model.safetensors"])) for files in results)


async def test_a_source_that_changed_since_the_deploy_fails_with_both_digests(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    pin = spec.models[0].files[0]
    sources.store.discard(pin.sha256)
    (model / "config.json").write_text("[]")
    with pytest.raises(SourceChanged) as caught:
        await sources.files(spec)
    assert pin.sha256 in str(caught.value)
    assert hashlib.sha256(b"[]").hexdigest() in str(caught.value)


async def test_a_truncated_blob_is_replaced(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    path = (await sources.files(spec))["m"]["model.safetensors"]
    truncate(path)
    await sources.files(spec)
    assert b"s" * 1000 == content(path)


async def test_the_childs_error_is_raised_as_its_class(sources: Sources, model: Path) -> None:
    with pytest.raises(SourceForbidden, match="/etc"):
        await sources.resolve("file:///etc")
    with pytest.raises(SourceNotFound, match="no_such_package"):
        await sources.resolve("package://no_such_package/model")
    (model / "model.safetensors").rename(model / "model.pt")
    with pytest.raises(PickledWeights, match=r"model\.pt"):
        await sources.resolve(f"file://{model}")


async def test_a_child_that_crashes_is_reported_with_its_last_words(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; print('half a li', end='', flush=True); sys.stderr.write('libfoo: oops'); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(module, "python", lambda name, arguments: [sys.executable, "-c", script])
    with pytest.raises(FetchDied, match=r"status -6: libfoo: oops"):
        await sources.resolve("s3://bucket/model")


async def test_cancelling_kills_the_child(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, os, time; print(json.dumps({'event': 'progress', 'file': str(os.getpid()), 'done_bytes': 0,"
    script += " 'total_bytes': 0}), flush=True); time.sleep(60)"
    monkeypatch.setattr(module, "python", lambda name, arguments: [sys.executable, "-c", script])
    running: asyncio.Future[FetchProgress] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(sources.resolve("s3://bucket/model", running.set_result))
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


async def test_models_without_files_need_nothing(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    assert {} == await sources.files(replace(spec, models=()))
