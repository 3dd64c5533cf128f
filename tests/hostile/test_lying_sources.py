"""Servers that lie, break off, stall or change their mind: always a typed error, never a wrong byte in the store."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceUnreachable,
)
from glowplug.cache.fetch import fetch
from glowplug.cache.manifests import ManifestFile
from glowplug.cache.retry import Backoff
from glowplug.cache.sources import stream as streams
from glowplug.cache.sources.table import open_source
from glowplug.cache.store import BlobStore

SMALL = b"a small model"
LARGE = bytes(range(256)) * 4096 * 20  # 20 MiB: three pieces, so that a fetch reads it in ranges
AT_ONCE = Backoff(base_s=0.0, cap_s=0.0, attempts=3)

Answer = Callable[["Asked"], None]


class Asked(BaseHTTPRequestHandler):
    """One request; the test's answer says what comes back, byte by byte if it likes."""

    server: Liar

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.asked.append((self.command, self.headers.get("Range", "")))
        self.server.answer(self)

    do_HEAD = do_GET  # noqa: N815

    @property
    def span(self) -> tuple[int, int] | None:
        """What a ``Range`` asks for, as start and stop."""
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        return (int(first), int(last) + 1) if first else None

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; ``headers`` overrule what would be true."""
        self.send_response(status)
        told = {"Content_Length": str(len(body)), **headers}
        for name, value in told.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self, data: bytes, *, etag: str = '"v1"', **headers: str) -> None:
        """Answer as an honest server does; ``headers`` overrule."""
        headers = {"ETag": etag, "Accept_Ranges": "bytes", **headers}
        if self.span is None:
            return self.say(200, data, **headers)
        start, stop = self.span[0], min(self.span[1], len(data))
        return self.say(206, data[start:stop], **{"Content_Range": f"bytes {start}-{stop - 1}/{len(data)}", **headers})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Liar(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.answer: Answer = lambda asked: asked.serve(SMALL)
        self.asked: list[tuple[str, str]] = []
        self.counting = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/m/model.safetensors"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that have heard enough hang up."""


@pytest.fixture
def liar(running: Any) -> Iterator[Liar]:
    server = Liar()
    with running(server):
        yield server


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


def blobs(store: BlobStore) -> list[Path]:
    return [path for path in (store.root / "blobs").rglob("*") if path.is_file()]


def assert_refused(liar: Liar, store: BlobStore, kind: type[SourceError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        fetch(liar.url, store, backoff=AT_ONCE)
    assert liar.url in str(caught.value)
    assert [] == blobs(store)


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_wrong_bytes_of_a_pinned_file_are_named_with_both_digests(liar: Liar, store: BlobStore) -> None:
    pin = ManifestFile("model.safetensors", len(SMALL), hashlib.sha256(SMALL).hexdigest(), '"v1"')
    liar.answer = lambda asked: asked.serve(SMALL[::-1])
    with pytest.raises(SourceChanged) as caught:
        fetch(liar.url, store, pinned=[pin], backoff=AT_ONCE)
    assert pin.sha256 in str(caught.value)
    assert hashlib.sha256(SMALL[::-1]).hexdigest() in str(caught.value)
    assert [] == blobs(store)


def test_a_body_that_is_always_too_short(liar: Liar, store: BlobStore) -> None:
    def short(asked: Asked) -> None:
        asked.say(200, SMALL[:-1], Content_Length=str(len(SMALL)), ETag='"v1"', Accept_Ranges="bytes")

    liar.answer = short
    assert_refused(liar, store, SourceUnreachable, "model.safetensors")
    assert 3 == [command for command, _ in liar.asked].count("GET")


def test_a_body_that_breaks_off_once_is_continued_where_it_ended(liar: Liar, store: BlobStore) -> None:
    broken = threading.Event()

    def breaks(asked: Asked) -> None:
        if asked.span is None or asked.span[0] or broken.is_set():
            return asked.serve(LARGE)
        broken.set()
        start, stop = asked.span
        said = f"bytes {start}-{stop - 1}/{len(LARGE)}"
        return asked.say(206, LARGE[:1_000_000], Content_Length=str(stop - start), Content_Range=said, ETag='"v1"')

    liar.answer = breaks
    done = fetch(liar.url, store, backoff=AT_ONCE)
    assert hashlib.sha256(LARGE).hexdigest() == done.manifest.files[0].sha256
    assert (1, len(LARGE)) == (done.retries, done.fetched_bytes)
    assert any(wanted.startswith("bytes=1000000-") for _, wanted in liar.asked)


def test_a_body_without_a_length_that_never_ends(liar: Liar, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_UNSIZED_BYTES", 1_000_000)

    def endless(asked: Asked) -> None:
        asked.send_response(200)
        asked.end_headers()
        while asked.command == "GET":
            asked.wfile.write(b"0" * 65536)

    liar.answer = endless
    assert_refused(liar, store, SourceInvalid, "goes on after 1000000 bytes")


def test_more_bytes_than_listed(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.serve(SMALL if asked.command == "HEAD" else SMALL + b"!")
    assert_refused(liar, store, SourceChanged, "14 bytes, 13 when it was listed")


def test_compressed_bytes_that_nobody_asked_for(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.serve(SMALL, Content_Encoding="gzip")
    assert_refused(liar, store, SourceInvalid, "answers in gzip")
    liar.answer = lambda asked: asked.serve(SMALL, **({"Content_Encoding": "br"} if asked.command == "GET" else {}))
    assert_refused(liar, store, SourceInvalid, "answers in br")


# --- ranges and versions ----------------------------------------------------------------------------------------------


def test_a_file_that_changes_half_way_is_not_put_together_from_two(liar: Liar, store: BlobStore) -> None:
    def changes(asked: Asked) -> None:
        later = asked.span is not None and asked.span[0] > 0
        asked.serve(LARGE[::-1] if later else LARGE, etag='"v2"' if later else '"v1"')

    liar.answer = changes
    assert_refused(liar, store, SourceChanged, "v2")


@pytest.mark.parametrize(
    "said",
    ["bytes 0-9/100", "bytes 5-9/10", "bytes */20971520", "", "bytes 99999999999999999999-1/2", "bytes -1-5/20971520"],
)
def test_a_content_range_that_is_not_what_was_asked_for(liar: Liar, store: BlobStore, said: str) -> None:
    liar.answer = lambda asked: asked.serve(LARGE, **({"Content_Range": said} if asked.span else {}))
    assert_refused(liar, store, SourceChanged, "asked for bytes")


def test_the_whole_file_in_answer_to_a_range(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.say(200, LARGE, ETag='"v1"', Accept_Ranges="bytes")
    assert_refused(liar, store, SourceChanged, "does not do ranges")


def test_a_range_that_is_shorter_than_it_says(liar: Liar, store: BlobStore) -> None:
    def short(asked: Asked) -> None:
        if asked.span is None:
            return asked.serve(LARGE)
        start, stop = asked.span
        return asked.say(206, LARGE[:7], Content_Range=f"bytes {start}-{stop - 1}/{len(LARGE)}", ETag='"v1"')

    liar.answer = short
    assert_refused(liar, store, SourceUnreachable, "the stream ended at byte")


# --- answers that are none --------------------------------------------------------------------------------------------


def test_an_error_that_passes_is_waited_for_and_one_that_stays_is_told(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.say(500, b"oops")
    assert_refused(liar, store, SourceUnreachable, "HTTP 500")
    failures = iter(range(2))

    def recovers(asked: Asked) -> None:
        if asked.command == "GET" and next(failures, None) is not None:
            return asked.say(502)
        return asked.serve(SMALL)

    liar.answer = recovers
    done = fetch(liar.url, store, backoff=AT_ONCE)
    assert (2, [hashlib.sha256(SMALL).hexdigest()]) == (done.retries, [path.name for path in blobs(store)])


def test_a_server_that_asks_for_an_hour_is_not_waited_for(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.say(503, Retry_After="3600")
    with pytest.raises(SourceUnreachable) as caught:
        open_source(liar.url)
    assert 3600.0 == caught.value.retry_after_s
    liar.asked.clear()
    assert_refused(liar, store, SourceUnreachable, "HTTP 503")
    assert 1 == len(liar.asked)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "unix:/run/docker.sock", "ftp://127.0.0.1/x", "javascript:alert(1)"]
)
def test_redirects_to_where_no_model_is(liar: Liar, store: BlobStore, target: str) -> None:
    liar.answer = lambda asked: asked.say(302, Location=target)
    assert_refused(liar, store, SourceForbidden, "not followed")


def test_a_redirect_in_the_middle_of_a_file_is_checked_like_the_first(liar: Liar, store: BlobStore) -> None:
    liar.answer = lambda asked: asked.serve(LARGE) if not asked.span else asked.say(307, Location="file:///etc/passwd")
    assert_refused(liar, store, SourceForbidden, "not followed")


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "9" * 5000])
def test_lengths_that_are_none(liar: Liar, store: BlobStore, length: str) -> None:
    liar.answer = lambda asked: asked.serve(SMALL, Content_Length=length)
    with pytest.raises(SourceError, match="/m/model"):
        fetch(liar.url, store, backoff=AT_ONCE)
    assert [] == blobs(store)


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\0" * 1000,
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_noise_where_http_should_be(noise: bytes, store: BlobStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def speak() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(noise)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(SourceUnreachable):
            fetch(f"http://127.0.0.1:{server.getsockname()[1]}/model.safetensors", store, backoff=AT_ONCE)
        thread.join()
    assert [] == blobs(store)


# --- listings ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Liar:
    """The liar as an S3 endpoint: what is no object is a listing of ``keys``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", liar.url.partition("/m/")[0])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return liar


def listing(*keys: str, more: bool = False) -> Answer:
    rows = "".join(f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>" for key in keys)
    tail = "<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>" if more else ""
    body = f"<ListBucketResult>{rows}{tail}</ListBucketResult>".encode()
    return lambda asked: asked.say(404) if asked.command == "HEAD" else asked.say(200, body, Content_Type="text/xml")


@pytest.mark.parametrize(
    "keys",
    [
        ("m/../../../etc/cron.d/x",),
        ("m//etc/passwd",),
        ("m/..",),
        ("m/a\\..\\b",),
        ("other/x",),
        ("m/x.json", "m/x.json"),
        ("m/" + "x" * 300,),
        ("m/a&#10;b",),
    ],
)
def test_a_bucket_that_names_what_it_may_not(bucket: Liar, store: BlobStore, keys: tuple[str, ...]) -> None:
    bucket.answer = listing(*keys)
    with pytest.raises(SourceInvalid, match="s3://models/m"):
        fetch("s3://models/m", store, backoff=AT_ONCE)
    assert [] == blobs(store)


def test_a_bucket_whose_listing_repeats_itself(bucket: Liar, store: BlobStore) -> None:
    """A token that leads to the same page for ever: botocore notices, and if the pages grew the limit would."""
    bucket.answer = listing(*(f"m/{number}.json" for number in range(1000)), more=True)
    with pytest.raises(SourceError, match="s3://models/m"):
        fetch("s3://models/m", store, backoff=AT_ONCE)
    assert len(bucket.asked) < 20


def test_a_bucket_that_is_busy_says_for_how_long(bucket: Liar) -> None:
    body = b"<Error><Code>SlowDown</Code><Message>please</Message></Error>"
    bucket.answer = lambda asked: asked.say(503, body, Retry_After="11")
    with pytest.raises(SourceUnreachable, match="503") as caught:
        open_source("s3://models/m/")
    assert 11.0 == caught.value.retry_after_s
    assert 1 == len(bucket.asked)


def test_an_object_that_is_shorter_than_it_says(bucket: Liar, store: BlobStore) -> None:
    def short(asked: Asked) -> None:
        asked.say(200, SMALL[:-1], Content_Length=str(len(SMALL)), ETag='"v1"')

    bucket.answer = short
    with pytest.raises(SourceUnreachable, match=r"s3://models/x\.safetensors"):
        fetch("s3://models/x.safetensors", store, backoff=AT_ONCE)
    assert [] == blobs(store)


def test_an_object_that_changes_half_way(bucket: Liar, store: BlobStore) -> None:
    def changes(asked: Asked) -> None:
        asked.serve(LARGE, etag='"v2"' if asked.span is not None and asked.span[0] else '"v1"')

    bucket.answer = changes
    with pytest.raises(SourceChanged, match="v2"):
        fetch("s3://models/x.safetensors", store, backoff=AT_ONCE)
    assert [] == blobs(store)


def test_a_directory_of_ten_thousand_and_one_files(tmp_path: Path, store: BlobStore) -> None:
    directory = tmp_path / "root"
    directory.mkdir()
    for number in range(10_001):
        (directory / f"{number}.json").touch()
    with pytest.raises(SourceInvalid, match="more than 10000 files"):
        fetch(f"file://{directory}", store, file_roots=[directory])
    assert [] == blobs(store)
