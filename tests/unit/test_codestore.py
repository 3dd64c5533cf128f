from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import marshal
import os
import stat
import zipfile
from pathlib import Path

import pytest

from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter, StateError


def archive(files: dict[str, bytes], *, executable: frozenset[str] = frozenset()) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | (0o755 if name in executable else 0o600)) << 16
            file.writestr(entry, data, zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest(), data


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def store(tmp_path: Path, now: list[float]) -> CodeStore:
    return CodeStore(tmp_path / "code", now=lambda: now[0])


async def test_what_was_put_is_there_unpacked_and_read_only(store: CodeStore, tmp_path: Path) -> None:
    digest, data = archive({"echo.py": b"x = 1\n", "lib/run": b"#!/bin/sh\n"}, executable=frozenset({"lib/run"}))
    assert not store.has(digest)
    old = os.umask(0o077)
    try:
        path = await store.put(digest, data)
    finally:
        os.umask(old)
    assert (store.path(digest), store.has(digest)) == (path, True)
    assert path == tmp_path / "code" / digest
    assert (path / "echo.py").read_bytes() == b"x = 1\n"
    assert [oct(mode(path / name)) for name in (".", "lib", "echo.py", "lib/run")] == [
        "0o755",
        "0o755",
        "0o444",
        "0o555",
    ]
    assert (path.parent / f"{digest}.zip").read_bytes() == data
    assert {entry.name for entry in path.parent.iterdir()} == {digest, f"{digest}.zip"}


async def test_directories_and_dots_in_names_are_taken(store: CodeStore) -> None:
    digest, data = archive({"empty/": b"", "./a.txt": b"", "b//c.txt": b""})
    path = await store.put(digest, data)
    assert sorted(str(entry.relative_to(path)) for entry in path.rglob("*")) == ["a.txt", "b", "b/c.txt", "empty"]


async def test_modules_are_compiled_once_for_the_place_where_they_will_be_found(store: CodeStore) -> None:
    digest, data = archive({"pkg/m.py": b"def f(): pass\n", "broken.py": b"def f(:\n"})
    path = await store.put(digest, data)
    (compiled,) = path.rglob("*.pyc")  # what cannot be compiled is left to the import, which names the line
    assert compiled.parent == path / "pkg" / "__pycache__"
    assert (0o755, 0o444) == (mode(compiled.parent), mode(compiled))
    header, code = compiled.read_bytes()[:16], marshal.loads(compiled.read_bytes()[16:])
    assert int.from_bytes(header[4:8], "little") == 0b01  # PEP 552: hash-based, unchecked
    assert code.co_filename == str(path / "pkg" / "m.py")


async def test_putting_twice_unpacks_once(store: CodeStore) -> None:
    digest, data = archive({"a.py": b""})
    path = await store.put(digest, data)
    inode = path.stat().st_ino
    assert (await store.put(digest, data)).stat().st_ino == inode


async def test_puts_of_one_digest_at_the_same_time_all_succeed(store: CodeStore) -> None:
    digest, data = archive({f"m{n}.py": b"pass\n" * 50 for n in range(50)})
    paths = await asyncio.gather(*(store.put(digest, data) for _ in range(6)))
    assert set(paths) == {store.path(digest)}
    assert len(list(paths[0].glob("*.py"))) == 50
    assert {entry.name for entry in paths[0].parent.iterdir()} == {digest, f"{digest}.zip"}


async def test_bytes_of_another_digest_are_refused(store: CodeStore) -> None:
    digest, data = archive({"a.py": b""})
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(InvalidParameter, match=f"has SHA-256 {digest}, not {other}"):
        await store.put(other, data)
    assert store.digests() == []


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
async def test_what_is_no_digest_never_becomes_a_path(store: CodeStore, digest: str) -> None:
    with pytest.raises(InvalidParameter, match="is not a SHA-256 digest"):
        store.has(digest)
    with pytest.raises(InvalidParameter, match="is not a SHA-256 digest"):
        await store.put(digest, b"")


def test_path_of_code_that_was_not_uploaded_is_refused(store: CodeStore) -> None:
    with pytest.raises(InvalidParameter, match="has not been uploaded"):
        store.path("a" * 64)


async def test_the_limits_are_lambdas_with_its_messages(tmp_path: Path) -> None:
    store = CodeStore(tmp_path / "code", Limits(code_unzipped_bytes=1000))
    digest, data = archive({"a": b"x" * 600, "b": b"x" * 401})
    with pytest.raises(InvalidParameter, match="Unzipped size must be smaller than 1000 bytes"):
        await store.put(digest, data)
    assert list((tmp_path / "code").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK no zip", "Could not unzip uploaded file. Please check your file, then try to upload again."),
        (archive({})[1], "Uploaded file must be a non-empty zip"),
        (archive({"empty/": b""})[1], "Uploaded file must be a non-empty zip"),
    ],
)
async def test_what_is_no_zip_or_holds_nothing_is_refused_in_lambdas_words(
    store: CodeStore, data: bytes, message: str
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        await store.put(hashlib.sha256(data).hexdigest(), data)
    assert message == str(refused.value)


async def test_a_full_disk_publishes_nothing_and_the_next_put_succeeds(
    store: CodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = archive({"a.py": b""})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="free some space"):
            await store.put(digest, data)
    assert list((tmp_path / "code").iterdir()) == []
    await store.put(digest, data)


async def test_opening_deletes_what_a_killed_node_left_half_done(store: CodeStore, tmp_path: Path) -> None:
    digest, data = archive({"a.py": b""})
    await store.put(digest, data)
    (tmp_path / "code" / ".incoming-abc" / "code").mkdir(parents=True)
    (tmp_path / "code" / ".discarded-abc").mkdir()
    assert CodeStore(tmp_path / "code").digests() == [digest]
    assert {entry.name for entry in (tmp_path / "code").iterdir()} == {digest, f"{digest}.zip"}


async def test_prune_deletes_what_nothing_names_after_the_grace(store: CodeStore, now: list[float]) -> None:
    kept, kept_data = archive({"a.py": b"1"})
    gone, gone_data = archive({"a.py": b"2"})
    path = await store.put(kept, kept_data)
    await store.put(gone, gone_data)
    now[0] += 99
    assert await store.prune({kept}, grace_s=100) == []
    now[0] += 1
    assert await store.prune({kept}, grace_s=100) == [gone]
    assert (store.has(kept), store.has(gone)) == (True, False)
    assert {entry.name for entry in path.parent.iterdir()} == {kept, f"{kept}.zip"}


async def test_grace_begins_when_code_is_no_longer_named_not_when_it_was_uploaded(
    store: CodeStore, now: list[float]
) -> None:
    digest, data = archive({"a.py": b""})
    await store.put(digest, data)
    await store.prune({digest}, grace_s=100)
    now[0] += 1_000_000
    assert await store.prune(set(), grace_s=100) == []
    now[0] += 99
    assert await store.prune(set(), grace_s=100) == []
    now[0] += 1
    assert await store.prune(set(), grace_s=100) == [digest]


async def test_the_first_deploy_after_a_restart_does_not_prune_what_still_drains(
    store: CodeStore, tmp_path: Path, now: list[float]
) -> None:
    digest, data = archive({"a.py": b""})
    await store.put(digest, data)
    now[0] += 1_000_000
    restarted = CodeStore(tmp_path / "code", now=lambda: now[0])
    assert await restarted.prune(set(), grace_s=100) == []
    now[0] += 100
    assert await restarted.prune(set(), grace_s=100) == [digest]


async def test_code_uploaded_again_just_before_a_prune_is_not_pruned(store: CodeStore, now: list[float]) -> None:
    digest, data = archive({"a.py": b""})
    await store.put(digest, data)
    now[0] += 1_000
    await store.put(digest, data)
    assert await store.prune(set(), grace_s=100) == []
