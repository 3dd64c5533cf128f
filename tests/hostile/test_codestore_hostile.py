"""Archives made to harm: each is refused with the entry's name, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import io
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime.archive import MAX_ENTRIES
from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter


def zipped(*entries: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = method
            file.writestr(entry, data)
    return buffer.getvalue()


def plain(name: str, data: bytes = b"x") -> bytes:
    return zipped((name, data, stat.S_IFREG | 0o644))


async def refused(directory: Path, data: bytes, limits: Limits | None = None) -> str:
    """Put ``data``; return the message of its refusal; fail when anything is left or was written elsewhere."""
    store = CodeStore(directory / "code", limits)
    with pytest.raises(InvalidParameter) as caught:
        await store.put(hashlib.sha256(data).hexdigest(), data)
    assert left(directory) == ["code"]
    return str(caught.value)


def left(directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in directory.rglob("*")]


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "a/..", ".."])
async def test_names_that_climb_out(tmp_path: Path, name: str) -> None:
    assert await refused(tmp_path, plain(name)) == f"{name}: names with .. are not allowed in code"


@pytest.mark.parametrize("name", ["/etc/passwd", "//x"])
async def test_absolute_names(tmp_path: Path, name: str) -> None:
    assert await refused(tmp_path, plain(name)) == f"{name}: absolute names are not allowed in code"


@pytest.mark.parametrize("name", ["C:\\evil.py", "a\\..\\evil.py", "a\nb.py", "\x1b[2J.py"])
async def test_names_with_backslashes_and_control_characters(tmp_path: Path, name: str) -> None:
    assert "backslashes or control characters" in await refused(tmp_path, plain(name))


async def test_a_name_with_a_nul_is_not_cut_short(tmp_path: Path) -> None:
    data = plain("a.pyXevil").replace(b"a.pyXevil", b"a.py\0evil")
    assert "'a.py\\x00evil'" in await refused(tmp_path, data)


@pytest.mark.parametrize("name", ["a" * 256, "/".join(["d" * 200] * 11)])
async def test_names_that_no_file_system_takes(tmp_path: Path, name: str) -> None:
    assert "the name is too long" in await refused(tmp_path, plain(name))


async def test_directories_nested_deeper_than_whoever_walks_them(tmp_path: Path) -> None:
    assert "more than 100 directories deep" in await refused(tmp_path, plain("d/" * 1000 + "a.py"))
    assert "more than 100 directories deep" in await refused(tmp_path, plain("d/" * 101))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"),
        (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFSOCK, "a socket"),
        (0o170000, "a file of unknown type"),
    ],
)
async def test_special_files(tmp_path: Path, kind: int, words: str) -> None:
    data = zipped(("ok.py", b"", stat.S_IFREG | 0o644), ("odd", b"/etc/passwd", kind | 0o777))
    assert await refused(tmp_path, data) == f"odd: {words} is not allowed in code"


async def test_a_link_that_calls_itself_a_directory(tmp_path: Path) -> None:
    assert "link/: a symbolic link" in await refused(tmp_path, zipped(("link/", b"/etc", stat.S_IFLNK | 0o777)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("first", "second"),
    [("a.py", "a.py"), ("a.py", "./a.py"), ("a", "a/b.py"), ("a/b.py", "a"), ("a/", "a"), ("a", "a/")],
)
async def test_names_that_are_there_twice(tmp_path: Path, first: str, second: str) -> None:
    data = zipped((first, b"", 0), (second, b"", 0))
    assert await refused(tmp_path, data) == f"{second}: is in the uploaded code twice"


async def test_a_bomb_that_says_so(tmp_path: Path) -> None:
    data = plain("zeros", bytes(5_000_000))
    assert len(data) < 10_000
    message = await refused(tmp_path, data, Limits(code_unzipped_bytes=1_000_000))
    assert message == "Unzipped size must be smaller than 1000000 bytes"


async def test_a_bomb_that_declares_less_than_it_holds(tmp_path: Path) -> None:
    data = bytearray(plain("zeros", bytes(5_000_000)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # uncompressed size, in both headers
        struct.pack_into("<I", data, data.index(signature) + offset, 10)
    message = await refused(tmp_path, bytes(data), Limits(code_unzipped_bytes=1_000_000))
    assert message.startswith("zeros: damaged in the uploaded code")


async def test_a_bomb_of_entries_that_share_their_bytes(tmp_path: Path) -> None:
    # Every record of the directory points at the same compressed bytes: small to send, large to unpack.
    data = plain("0000", bytes(900_000))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    record = data[start:end]
    records = b"".join(record.replace(b"0000", b"%04d" % n) for n in range(100))
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, 100, 100, len(records), start)
    assert "Unzipped size" in await refused(tmp_path, data[:start] + records + tail, Limits(code_unzipped_bytes=10**7))
    # Under the limit the sizes are honest, but the names are not those of the local headers.
    assert "damaged" in await refused(tmp_path, data[:start] + records + tail, Limits(code_unzipped_bytes=10**9))


@pytest.mark.slow
async def test_more_entries_than_inodes_are_worth(tmp_path: Path) -> None:
    data = zipped(*((f"{n}", b"", 0) for n in range(MAX_ENTRIES + 1)), method=zipfile.ZIP_STORED)
    assert f"more entries than the {MAX_ENTRIES} that are allowed" in await refused(tmp_path, data)


@pytest.mark.parametrize("count", [MAX_ENTRIES + 1, 800_000])
async def test_a_directory_that_is_nothing_but_entries_is_not_even_read(tmp_path: Path, count: int) -> None:
    # 46 bytes each to send; zipfile would hold half a kilobyte of each before anybody could count them.
    record = b"PK\x01\x02" + bytes(42)
    directory = record * count
    data = directory + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0)
    tracemalloc.start()
    message = await refused(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "are allowed" in message
    assert peak < 2 * len(data) + 2_000_000


async def test_encrypted_entries(tmp_path: Path) -> None:
    data = bytearray(plain("secret.py"))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.index(signature) + offset, 0x1)
    assert await refused(tmp_path, bytes(data)) == "secret.py: encrypted entries are not allowed in code"


async def test_compression_that_is_not_deflate(tmp_path: Path) -> None:
    data = zipped(("a.py", b"x" * 100, 0), method=zipfile.ZIP_LZMA)
    assert await refused(tmp_path, data) == "a.py: compression method 14 is not supported; use deflate"


async def test_one_flipped_bit_of_content(tmp_path: Path) -> None:
    data = bytearray(zipped(("a.py", b"x = 1\n", 0), method=zipfile.ZIP_STORED))
    data[data.index(b"x = 1")] ^= 1
    assert "a.py: damaged in the uploaded code: Bad CRC-32" in await refused(tmp_path, bytes(data))


async def test_an_archive_cut_anywhere_or_not_one_at_all(tmp_path: Path) -> None:
    whole = plain("a.py", b"print('hello')\n" * 20)
    for length in [0, 1, 4, 30, len(whole) // 2, len(whole) - 23, len(whole) - 1]:
        assert "Could not unzip uploaded file" in await refused(tmp_path, whole[:length])
    assert "Could not unzip uploaded file" in await refused(tmp_path, b"#!/bin/sh\necho this is a script\n")


async def test_setuid_does_not_survive(tmp_path: Path) -> None:
    data = zipped(("tool", b"#!/bin/sh\n", stat.S_IFREG | 0o6777))
    path = await CodeStore(tmp_path / "code").put(hashlib.sha256(data).hexdigest(), data)
    assert stat.S_IMODE((path / "tool").stat().st_mode) == 0o555


async def test_layers_that_are_small_alone_and_a_bomb_together(tmp_path: Path) -> None:
    store = CodeStore(tmp_path / "code", Limits(code_unzipped_bytes=1_000_000))
    digests = []
    for name in ("a", "b"):
        data = plain(name, bytes(600_000))
        digests.append(hashlib.sha256(data).hexdigest())
        await store.put(digests[-1], data)
    with pytest.raises(InvalidParameter, match="The actual size is 1200000 bytes"):
        await store.prepare_opt(digests)
    with pytest.raises(InvalidParameter, match="The actual size is 1200000 bytes"):
        await store.prepare_opt([digests[0], digests[0]])  # counted as often as it is named
    assert sorted(digests) == sorted(path.name for path in (tmp_path / "code").iterdir() if path.is_dir())


async def test_a_layer_reaches_nothing_through_what_another_one_brings(tmp_path: Path) -> None:
    # A link that one layer made would be followed by the next: they are refused, relative ones as well.
    data = zipped(("python", b"../../elsewhere", stat.S_IFLNK | 0o777))
    assert await refused(tmp_path, data) == "python: a symbolic link is not allowed in code"


async def test_what_was_changed_behind_the_stores_back_is_linked_and_never_followed(tmp_path: Path) -> None:
    store, digests = CodeStore(tmp_path / "code"), []
    for name in ("python/a.py", "python/b.py"):
        data = plain(name)
        digests.append(hashlib.sha256(data).hexdigest())
        await store.put(digests[-1], data)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("")
    (store.path(digests[1]) / "python").rename(tmp_path / "moved")
    (store.path(digests[1]) / "python").symlink_to(tmp_path / "secret")
    path = await store.prepare_opt(digests)
    assert path is not None
    assert (path / "python").is_symlink()  # a link over a directory, as a file would be: not what it points to


async def test_names_that_imply_more_directories_than_inodes_are_worth(tmp_path: Path) -> None:
    # Two hundred bytes each to send, a hundred directories each to make.
    entries = ((f"{n}/" + "d/" * 97 + "a", b"", 0) for n in range(MAX_ENTRIES // 98 + 2))
    data = zipped(*entries, method=zipfile.ZIP_STORED)
    assert f"makes more than {MAX_ENTRIES} files and directories" in await refused(tmp_path, data)


@pytest.mark.parametrize("offset", [2**31, 2**62, 2**63, 2**64 - 1])
async def test_an_entry_that_the_64_bit_extension_puts_outside_of_the_archive(tmp_path: Path, offset: int) -> None:
    data = bytearray(plain("a.py"))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    record = data[start:end]
    struct.pack_into("<I", record, 42, 0xFFFFFFFF)  # "see the extension"
    struct.pack_into("<H", record, 30, 12)
    record += struct.pack("<HHQ", 1, 8, offset)
    tail = data[end:]
    struct.pack_into("<I", tail, 12, len(record))
    message = await refused(tmp_path, bytes(data[:start] + record + tail))
    assert "a.py: damaged in the uploaded code: it begins outside of it" == message


async def test_a_directory_that_is_called_byte_code_can_be_deleted_again(tmp_path: Path) -> None:
    data = zipped(("a.py", b"", 0), ("__pycache__/a.pyc/x", b"", 0))
    store = CodeStore(tmp_path / "code")
    path = await store.put(hashlib.sha256(data).hexdigest(), data)
    assert 0o755 == stat.S_IMODE((path / "__pycache__" / "a.pyc").stat().st_mode)


NAMES = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            ["", ".", "..", "a", "b", "a" * 255, "a" * 256, "é" * 130, "~", "C:", "\\", "\0", "__pycache__"]
        ),
        max_size=6,
    ).map("/".join),
    st.integers(1, 1100).map(lambda depth: "d/" * depth + "f"),
)
MODES = st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 0o100644, 0o40755, 0o120777, 0o104755]))
ENTRIES = st.lists(st.tuples(NAMES, st.binary(max_size=40), MODES), max_size=5)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
EXTREME = st.one_of(
    st.integers(0, 255).map(lambda value: bytes([value])),
    st.sampled_from([b"\xff" * 8, b"\xff" * 4, b"\xff" * 2, b"\0" * 4, b"\0\0\0\x80", b"PK\x01\x02", b"PK\x05\x06"]),
    st.binary(min_size=1, max_size=8),
)
DAMAGES = st.lists(st.tuples(st.integers(0, 10_000), EXTREME), max_size=4)
EXTRAS = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.lists(st.integers(0, 2**64 - 1), max_size=4).map(
        lambda values: struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
    ),
)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=300, deadline=None)
@given(ENTRIES, METHODS, EXTRAS, DAMAGES, st.booleans(), st.booleans())
def test_whatever_is_uploaded_is_stored_inside_or_refused(
    entries: list[tuple[str, bytes, int]],
    method: int,
    extra: bytes,
    damages: list[tuple[int, bytes]],
    large: bool,
    from_disk: bool,
) -> None:
    """No other error than the uploader's, nothing beside the store, nothing left of what was refused."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data, mode in entries:
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.external_attr, entry.compress_type = name, mode << 16, method
            entry.extra = extra
            with file.open(entry, "w", force_zip64=large) as target:
                target.write(data)
    archive = bytearray(buffer.getvalue())
    for place, value in damages:
        at = place % len(archive)
        archive[at : at + len(value)] = value
    digest = hashlib.sha256(archive).hexdigest()
    with tempfile.TemporaryDirectory() as directory:
        outside, store = Path(directory), CodeStore(Path(directory) / "code", Limits(code_unzipped_bytes=10_000))
        try:
            asyncio.run(_put(store, digest, bytes(archive), from_disk=from_disk))
        except InvalidParameter:
            assert left(outside) == ["code"]
        else:
            assert [digest, f"{digest}.zip"] == sorted(path.name for path in (outside / "code").iterdir())
            assert ["code"] == [path.name for path in outside.iterdir()]
            assert not any(path.is_symlink() for path in store.path(digest).rglob("*"))


async def _put(store: CodeStore, digest: str, archive: bytes, *, from_disk: bool) -> None:
    if not from_disk:
        await store.put(digest, archive)
        return
    with store.incoming() as file:
        file.write(archive)
        file.flush()
        await store.put_file(digest, Path(file.name))
