"""Layers in one directory: who wins, what is hidden, what is shared, and how long it stays."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter, StateError
from glowplug.runtime.merging import merged_name

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")


def archive(files: Mapping[str, str]) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in files.items():
            file.writestr(zipfile.ZipInfo(name), text)
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def store(tmp_path: Path, now: list[float]) -> CodeStore:
    return CodeStore(tmp_path / "code", Limits(code_unzipped_bytes=1000), now=lambda: now[0])


async def layered(store: CodeStore, *layers: Mapping[str, str]) -> tuple[list[str], Path]:
    """Put layers and lay them together; return their digests and the directory."""
    digests = []
    for files in layers:
        digest, data = archive(files)
        await store.put(digest, data)
        digests.append(digest)
    path = await store.prepare_opt(digests)
    assert path is not None
    assert path == store.opt(digests)
    return digests, path


def contents(path: Path) -> dict[str, str]:
    return {
        str(one.relative_to(path)): one.read_text() for one in path.rglob("*") if one.is_file() and one.suffix != ".pyc"
    }


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (({"a": "1", "b": "1"}, {"b": "2", "c": "2"}), {"a": "1", "b": "2", "c": "2"}),
        (({"p/a": "1", "p/q/b": "1"}, {"p/q/b": "2", "p/q/c": "2"}), {"p/a": "1", "p/q/b": "2", "p/q/c": "2"}),
        (({"x/a": "1"}, {"x": "2"}), {"x": "2"}),
        (({"x": "1"}, {"x/a": "2"}), {"x/a": "2"}),
        (({"x/a": "1"}, {"x": "2"}, {"x/b": "3"}), {"x/b": "3"}),
        (({"a": "1"}, {"a": "2"}, {"a": "3"}), {"a": "3"}),
    ],
    ids=[
        "a later file",
        "directories are merged",
        "file over directory",
        "directory over file",
        "hidden whole",
        "three",
    ],
)
async def test_a_later_layer_hides_what_an_earlier_one_has(
    store: CodeStore, layers: tuple[dict[str, str], ...], expected: dict[str, str]
) -> None:
    _, path = await layered(store, *layers)
    assert expected == contents(path)


async def test_the_order_makes_another_directory(store: CodeStore) -> None:
    digests, first = await layered(store, {"a": "1"}, {"a": "2"})
    second = await store.prepare_opt(digests[::-1])
    assert second is not None
    assert ("2", "1") == ((first / "a").read_text(), (second / "a").read_text())


async def test_files_are_shared_with_their_layers_and_read_only(store: CodeStore) -> None:
    digests, path = await layered(store, {"python/a.py": "x = 1\n"}, {"python/b.py": "x = 2\n"})
    for name, digest in (("a", digests[0]), ("b", digests[1])):
        assert (path / "python" / f"{name}.py").samefile(store.path(digest) / "python" / f"{name}.py")
        assert 0o444 == stat.S_IMODE((path / "python" / f"{name}.py").stat().st_mode)
    assert 0o755 == stat.S_IMODE((path / "python").stat().st_mode)


async def test_byte_code_goes_with_the_source_that_won(store: CodeStore) -> None:
    digests, path = await layered(
        store,
        {"won.py": "x = 1\n", "lost.py": "x = 1\n", "broken.py": "x = 1\n"},
        {"lost.py": "x = 2\n", "broken.py": "def f(:\n"},
    )
    compiled = {one.name.partition(".")[0]: one for one in path.rglob("*.pyc")}
    assert {"won", "lost"} == compiled.keys()  # byte code is never compared with its source: broken's would still run
    for name, layer in (("won", 0), ("lost", 1)):
        assert compiled[name].samefile(store.path(digests[layer]) / "__pycache__" / compiled[name].name)


async def test_one_layer_is_its_own_directory_and_none_is_none(store: CodeStore) -> None:
    digests, path = await layered(store, {"a": "1"})
    assert store.path(digests[0]) == path
    assert (None, None) == (store.opt([]), await store.prepare_opt([]))


async def test_layers_that_were_not_prepared_are_not_there(store: CodeStore) -> None:
    first, data = archive({"a": "1"})
    await store.put(first, data)
    second, data = archive({"b": "1"})
    await store.put(second, data)
    assert store.opt([first, second]) is None
    with pytest.raises(InvalidParameter, match="has not been uploaded"):
        await store.prepare_opt([first, "a" * 64])
    with pytest.raises(InvalidParameter, match="is not a SHA-256 digest"):
        await store.prepare_opt([first, "../" + "a" * 61])


async def test_preparing_at_the_same_time_makes_one_directory(store: CodeStore, tmp_path: Path) -> None:
    digests, path = await layered(store, {f"a{n}": "1" for n in range(30)}, {f"b{n}": "2" for n in range(30)})
    inode = path.stat().st_ino
    made = await asyncio.gather(*(store.prepare_opt(digests) for _ in range(6)))
    assert ({path}, inode) == (set(made), path.stat().st_ino)
    assert [] == list((tmp_path / "code").glob(".incoming-*"))


async def test_code_and_layers_have_one_limit_together(store: CodeStore) -> None:
    digests = []
    for name, size in (("a", 400), ("b", 400), ("code", 201)):
        digest, data = archive({name: "x" * size})
        await store.put(digest, data)
        digests.append(digest)
    assert await store.prepare_opt(digests[:2]) is not None
    with pytest.raises(InvalidParameter) as refused:
        await store.prepare_opt(digests[:2], code=digests[2])
    assert (
        "Function code combined with layers exceeds the maximum allowed size of 1000 bytes. The actual size is 1001 bytes."
        == str(refused.value)
    )


async def test_a_file_that_can_have_no_more_links_is_copied(store: CodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def linked_too_often(source: str, target: str, **_: bool) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", linked_too_often)
    _, path = await layered(store, {"a": "1"}, {"b": "2"})
    assert {"a": "1", "b": "2"} == contents(path)
    assert 0o444 == stat.S_IMODE((path / "a").stat().st_mode)


async def test_a_full_disk_leaves_nothing_and_the_next_one_succeeds(
    store: CodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for name in "ab":
        digest, data = archive({name: "1"})
        await store.put(digest, data)
        digests.append(digest)
    before = {one.name for one in (tmp_path / "code").iterdir()}

    def full(source: str, target: str, **_: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(StateError, match="free some space"):
            await store.prepare_opt(digests)
    assert before == {one.name for one in (tmp_path / "code").iterdir()}
    assert await store.prepare_opt(digests) is not None


async def test_what_no_list_names_any_more_goes_after_the_grace(store: CodeStore, now: list[float]) -> None:
    digests, path = await layered(store, {"a": "1"}, {"b": "2"})
    other = await store.prepare_opt(digests[::-1])
    assert other is not None
    assert [] == await store.prune(digests, [digests], grace_s=100)
    now[0] += 100
    assert [] == await store.prune(digests, [digests], grace_s=100)
    assert (True, False) == (path.is_dir(), other.is_dir())
    now[0] += 1_000_000
    assert [] == await store.prune([], grace_s=100)  # until now they were named
    now[0] += 100
    assert sorted(digests) == await store.prune([], grace_s=100)
    assert not path.exists()


async def test_a_restart_keeps_what_was_prepared(store: CodeStore, tmp_path: Path) -> None:
    digests, path = await layered(store, {"a": "1"}, {"b": "2"})
    assert path == CodeStore(tmp_path / "code").opt(digests)
    assert path.name == merged_name(digests)
    assert sorted(digests) == CodeStore(tmp_path / "code").digests()
