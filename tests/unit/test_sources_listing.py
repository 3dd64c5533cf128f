"""What all kinds of source share: names, selection, the stream, and what goes through fsspec."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from glowplug.cache.errors import (
    PickledWeights,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)
from glowplug.cache.sources import filesystem as fs
from glowplug.cache.sources import stream as streams
from glowplug.cache.sources.listing import MAX_FILES, ListedFile, checked_name, select
from glowplug.cache.sources.stream import SourceStream, check_content_range
from glowplug.cache.sources.table import KNOWN_SCHEMES, open_source


def listed(name: str) -> ListedFile:
    return ListedFile(name, 1, "v", lambda start=0, stop=None: io.BytesIO(b"x"))


def unreachable(error: Exception) -> SourceError:
    return SourceUnreachable(f"m: {error}")


# --- names ------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n é"), max_size=12))
def test_a_checked_name_stays_below_its_directory(name: str) -> None:
    try:
        parts = checked_name(name).split("/")
    except SourceInvalid:
        return
    assert parts
    assert not {"", ".", ".."} & set(parts)
    assert not set("\\\0\n") & set(name)


@pytest.mark.parametrize("count", [MAX_FILES, MAX_FILES + 1])
def test_a_source_may_have_ten_thousand_files(count: int) -> None:
    files = [listed(f"{number}.json") for number in range(count)]
    if count <= MAX_FILES:
        assert count == len(select(files, "m"))
    else:
        with pytest.raises(SourceInvalid, match="more than 10000 files"):
            select(files, "m")


def test_a_listing_is_read_no_further_than_it_may_be_long() -> None:
    def without_end() -> Iterator[ListedFile]:
        number = 0
        while True:
            yield listed(f"{number}.json")
            number += 1

    with pytest.raises(SourceInvalid, match="more than 10000 files"):
        select(without_end(), "m")


def test_a_name_that_is_listed_twice() -> None:
    with pytest.raises(SourceInvalid, match="listed twice"):
        select([listed("a.json"), listed("b.json"), listed("a.json")], "m")


def test_pickled_weights_are_left_out_beside_safetensors_and_refused_alone() -> None:
    assert ["a.safetensors"] == [file.name for file in select([listed("a.safetensors"), listed("a.bin")], "m")]
    with pytest.raises(PickledWeights, match=r"m: a\.bin"):
        select([listed("a.bin"), listed("config.json")], "m")


@pytest.mark.parametrize(
    "url", ["", "model", "local:///etc/passwd", "zip://x::file:///etc/x", "dir://x", "http://[::1", "S3//x"]
)
def test_what_is_no_source(url: str) -> None:
    with pytest.raises(SourceInvalid):
        open_source(url)


def test_every_scheme_that_fsspec_gets_is_named_in_the_message() -> None:
    assert fs.REMOTE_SCHEMES - {"memory"} < set(KNOWN_SCHEMES)
    with pytest.raises(SourceInvalid, match=", ".join(sorted(KNOWN_SCHEMES))):
        open_source("gopher://x")


# --- the stream -------------------------------------------------------------------------------------------------------


class Trickle(io.RawIOBase):
    """A body that gives three bytes at a time and then, if told, an error."""

    def __init__(self, data: bytes, fault: Exception | None = None) -> None:
        super().__init__()
        self._data = io.BytesIO(data)
        self._fault = fault
        self.gave = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._data.read(min(3, len(buffer)))
        if not chunk and self._fault is not None:
            raise self._fault
        buffer[: len(chunk)] = chunk
        self.gave += len(chunk)
        return len(chunk)


def test_a_stream_gives_no_more_than_it_was_opened_for() -> None:
    body = Trickle(b"0123456789")
    with SourceStream(body, length=7, label="m", mapped=unreachable) as stream:
        assert b"0123456" == stream.read()
    assert 7 == body.gave
    assert body.closed


@pytest.mark.parametrize("length", [0, 4, 10, None])
def test_the_end_is_looked_at_once_and_before_the_last_bytes_are_given(length: int | None) -> None:
    seen: list[int] = []
    body = Trickle(b"0123456789")

    def ended() -> None:
        seen.append(body.gave)

    with SourceStream(body, length=length, label="m", mapped=unreachable, ended=ended) as stream:
        assert b"0123456789"[:length] == stream.read()
    assert [10 if length is None else length] == seen


def test_a_body_that_ends_early_was_not_read_to_its_end() -> None:
    def ended() -> None:
        raise AssertionError("the file did not end")

    with SourceStream(Trickle(b"012"), length=5, label="m", mapped=unreachable, ended=ended) as stream:
        assert b"012" == stream.read()


def test_what_a_body_raises_is_mapped_and_what_is_ours_stays() -> None:
    with (
        SourceStream(Trickle(b"01", ConnectionResetError("reset")), length=9, label="m", mapped=unreachable) as stream,
        pytest.raises(SourceUnreachable, match="m: reset"),
    ):
        stream.read()
    with (
        SourceStream(Trickle(b"", SourceChanged("other")), length=9, label="m", mapped=unreachable) as stream,
        pytest.raises(SourceChanged, match="other"),
    ):
        stream.readinto(bytearray(4))


def test_a_body_of_unknown_size_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_UNSIZED_BYTES", 8)
    with (
        SourceStream(Trickle(b"0" * 9), length=None, label="m", mapped=unreachable) as stream,
        pytest.raises(SourceInvalid, match="goes on after 8 bytes"),
    ):
        stream.read()


@given(start=st.integers(0, 5), stop=st.integers(6, 9), size=st.sampled_from([None, 10]))
def test_a_content_range_is_exactly_what_was_asked_for(start: int, stop: int, size: int | None) -> None:
    check_content_range("m", f"bytes {start}-{stop - 1}/10", start, stop, size)
    check_content_range("m", f"bytes {start}-{stop - 1}/*", start, stop, size)
    for said in (f"bytes {start + 1}-{stop - 1}/10", f"bytes {start}-{stop}/10", f"bytes {start}-{stop - 1}", "", None):
        with pytest.raises(SourceChanged):
            check_content_range("m", said, start, stop, size)
    with pytest.raises(SourceChanged):
        check_content_range("m", f"bytes {start}-{stop - 1}/11", start, stop, 10)


# --- through fsspec ---------------------------------------------------------------------------------------------------


class Versioned(MemoryFileSystem):  # type: ignore[misc]
    """Memory with an ETag, cached as remote listings are until ``invalidate_cache``."""

    protocol = "memory"
    etag = "e1"
    _remembered = "e1"
    fault: Exception | None = None

    def invalidate_cache(self, path: str | None = None) -> None:
        self._remembered = self.etag

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {**super().info(path, **kwargs), "ETag": self._remembered}

    def find(self, path: str, **kwargs: Any) -> Any:
        found = super().find(path, **kwargs)
        return {name: {**details, "ETag": self._remembered} for name, details in found.items()}

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return super().open(path, mode, **kwargs)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Versioned]:
    made = Versioned(skip_instance_cache=True)
    made.store.clear()
    made.pipe({"/bucket/m/config.json": b"{}", "/bucket/m/x.safetensors": b"0123456789"})
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (made, made._strip_protocol(url)))
    yield made
    made.store.clear()


def test_a_remote_file_is_read_in_ranges(remote: Versioned) -> None:
    file = open_source("memory://bucket/m")[1]
    assert ("x.safetensors", 10, "e1 10", True, 1) == (
        file.name, file.size, file.version, file.ranged, file.connections
    )  # fmt: skip
    assert [b"0123456789", b"345", b"789", b""] == [
        file.open(start, stop).read() for start, stop in ((0, None), (3, 6), (7, None), (10, 12))
    ]


def test_object_stores_are_read_over_several_connections(remote: Versioned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (remote, "/bucket/m"))
    assert [4, 4] == [file.connections for file in open_source("gs://bucket/m")]


def test_a_remote_file_that_changed_under_way_is_noticed_at_its_end_and_not_before(remote: Versioned) -> None:
    file = open_source("memory://bucket/m")[1]
    remote.etag = "e2"
    assert b"345" == file.open(3, 6).read()
    with file.open(3) as stream, pytest.raises(SourceChanged, match="e1 10 before, e2 10 after"):
        stream.read()
    remote.rm("/bucket/m/x.safetensors")
    with pytest.raises(SourceNotFound):
        file.open()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FileNotFoundError("x"), SourceNotFound),
        (PermissionError("x"), SourceForbidden),
        (ImportError("install gcsfs"), SourceInvalid),
        (RuntimeError("anything"), SourceUnreachable),
    ],
)
def test_what_an_implementation_raises(remote: Versioned, fault: Exception, kind: type[SourceError]) -> None:
    file = open_source("memory://bucket/m")[1]
    remote.fault = fault
    with pytest.raises(kind, match=r"memory://bucket/m: x\.safetensors"):
        file.open()


def test_a_remote_index_lists_its_shards(remote: Versioned) -> None:
    remote.pipe("/bucket/m/model.safetensors.index.json", b'{"weight_map": {"t": "x.safetensors"}}')
    files = open_source("memory://bucket/m/model.safetensors.index.json")
    assert ["model.safetensors.index.json", "x.safetensors"] == [file.name for file in files]
    remote.pipe("/bucket/m/model.safetensors.index.json", b'{"weight_map": {"t": "absent.safetensors"}}')
    with pytest.raises(SourceNotFound, match=r"absent\.safetensors"):
        open_source("memory://bucket/m/model.safetensors.index.json")


def test_a_listing_that_leaves_its_directory(remote: Versioned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "find", lambda root, detail: {"/bucket/other/x": {"name": "/bucket/other/x"}})
    with pytest.raises(SourceInvalid, match="not below it"):
        open_source("memory://bucket/m")


def test_chained_urls_are_not_read() -> None:
    with pytest.raises(SourceInvalid, match="chained"):
        open_source("memory://x::file:///etc/passwd")
