"""Files on web servers: what is listed, how ranges are asked for, where redirects may lead, what each status means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)
from glowplug.cache.sources import agent
from glowplug.cache.sources.agent import checked_url, is_local, status_error, unreachable
from glowplug.cache.sources.table import open_source

BYTES = bytes(range(256)) * 40


class Site(ThreadingHTTPServer):
    """A web server with files. It does HEAD, ranges and conditions unless told not to, and remembers what was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.files: dict[str, bytes] = {"/m/model.safetensors": BYTES}
        self.validators: dict[str, str] = {"ETag": '"v1"'}
        self.refuses: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.does_ranges = True
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.connections = 0
        self.url = f"http://{address}:{self.server_port}"

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that have read enough hang up."""

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site, asked = self.server, {name.lower(): value for name, value in self.headers.items()}
        site.asked.append((self.command, self.path, asked))
        path = self.path.partition("?")[0]
        if path in site.redirects:
            return self._say(302, {"Location": site.redirects[path]}, b"")
        if self.command in site.refuses:
            return self._say(site.refuses[self.command], {"Retry-After": "7"}, b"no")
        if path not in site.files:
            return self._say(404, {}, b"not here")
        body, headers = site.files[path], dict(site.validators)
        if asked.get("if-match", headers.get("ETag")) != headers.get("ETag"):
            return self._say(412, {}, b"")
        if not site.does_ranges:
            return self._say(200, headers, body)
        headers["Accept-Ranges"] = "bytes"
        if "range" not in asked:
            return self._say(200, headers, body)
        first, last = asked["range"].removeprefix("bytes=").split("-")
        stop = min(int(last) + 1, len(body))
        if int(first) >= len(body):
            return self._say(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
        headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(body)}"
        return self._say(206, headers, body[int(first) : stop])

    do_HEAD = do_GET  # noqa: N815

    def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def started() -> Iterator[Callable[..., Site]]:
    sites: list[tuple[Site, threading.Thread]] = []

    def start(address: str = "127.0.0.1") -> Site:
        site = Site(address)
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        sites.append((site, thread))
        return site

    yield start
    for site, thread in sites:
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture
def site(started: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return started()


def test_a_file_is_listed_by_one_head_and_read_in_ranges_over_one_connection(site: Site) -> None:
    (file,) = open_source(f"{site.url}/m/model.safetensors?token=x")
    assert ("model.safetensors", len(BYTES), '"v1"', True, 4) == (
        file.name, file.size, file.version, file.ranged, file.connections
    )  # fmt: skip
    with file.open() as stream:
        assert BYTES == stream.read()
    with file.open(100, 300) as stream:
        assert BYTES[100:300] == stream.read()
    with file.open(len(BYTES) - 5) as stream:
        assert BYTES[-5:] == stream.read()
    assert ["HEAD", "GET", "GET", "GET"] == site.methods()
    assert [None, None, "bytes=100-299", f"bytes={len(BYTES) - 5}-{len(BYTES) - 1}"] == [
        headers.get("range") for _, _, headers in site.asked
    ]
    assert {'"v1"'} == {headers["if-match"] for _, _, headers in site.asked[1:]}
    assert {"identity"} == {headers["accept-encoding"] for _, _, headers in site.asked}
    assert 1 == site.connections


def test_an_empty_range_asks_nothing(site: Site) -> None:
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert b"" == file.open(7, 7).read()
    assert ["HEAD"] == site.methods()


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_without_head_is_asked_for_one_byte(site: Site, status: int) -> None:
    site.refuses["HEAD"] = status
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert (len(BYTES), True, '"v1"') == (file.size, file.ranged, file.version)
    assert "bytes=0-0" == site.asked[-1][2]["range"]


def test_an_empty_file_has_no_first_byte(site: Site) -> None:
    site.files["/m/empty.json"] = b""
    site.refuses["HEAD"] = 405
    (file,) = open_source(f"{site.url}/m/empty.json")
    assert (0, b"") == (file.size, file.open().read())


def test_a_server_that_does_no_ranges_is_read_from_the_start(site: Site) -> None:
    site.does_ranges = False
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert (len(BYTES), False, 1) == (file.size, file.ranged, file.connections)
    with file.open(0, 10) as stream:
        assert BYTES[:10] == stream.read()
    with pytest.raises(SourceInvalid, match="not read in ranges"):
        file.open(10)


@pytest.mark.parametrize(
    ("validators", "version", "ranged"),
    [
        ({"ETag": 'W/"v1"'}, "", False),
        ({"ETag": 'W/"v1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "", False),
        ({}, "", False),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT 10240", True),
    ],
)
def test_only_what_promises_equal_bytes_is_a_version_and_allows_ranges(
    site: Site, validators: dict[str, str], version: str, ranged: bool
) -> None:
    site.validators = validators
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert (version, ranged) == (file.version, file.ranged)
    assert BYTES == file.open().read()
    assert validators.get("Last-Modified") == site.asked[-1][2].get("if-unmodified-since") or not ranged


def test_a_file_that_changes_between_two_ranges_is_noticed_whether_or_not_the_server_compares(site: Site) -> None:
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert BYTES[:5] == file.open(0, 5).read()
    site.validators = {"ETag": '"v2"'}
    with pytest.raises(SourceChanged, match="412"):
        file.open(5, 10)
    site.validators = {"Last-Modified": formatdate(0, usegmt=True)}
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    site.validators = {"Last-Modified": formatdate(60, usegmt=True)}  # this server ignores If-Unmodified-Since
    with pytest.raises(SourceChanged, match="changed since it was listed"):
        file.open(5, 10)


def test_an_index_lists_its_shards_beside_it(site: Site) -> None:
    site.files = {
        "/m/model.safetensors.index.json": b'{"weight_map": {"a": "x-2.safetensors", "b": "x 1.safetensors", "c": "x-2.safetensors"}}',
        "/m/x-2.safetensors": b"22",
        "/m/x%201.safetensors": b"1",
    }
    files = open_source(f"{site.url}/m/model.safetensors.index.json")
    assert [("model.safetensors.index.json", 88), ("x 1.safetensors", 1), ("x-2.safetensors", 2)] == [
        (file.name, file.size) for file in files
    ]
    assert b"22" == files[-1].open().read()


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (b'{"weight_map": {"a": "../x.safetensors"}}', SourceInvalid),
        (b'{"weight_map": {"a": "/x.safetensors"}}', SourceInvalid),
        (b'{"weight_map": {"a": "x.bin"}}', SourceInvalid),
        (b'{"weight_map": {"a": 1}}', SourceInvalid),
        (b'{"weight_map": {"a": []}}', SourceInvalid),
        (b'{"weight_map": []}', SourceInvalid),
        (b"[" * 100_000, SourceInvalid),
        (b"{}", SourceInvalid),
        (b'{"weight_map": {"a": "absent.safetensors"}}', SourceNotFound),
    ],
)
def test_an_index_that_names_what_it_may_not(site: Site, index: bytes, kind: type[SourceError]) -> None:
    site.files = {"/m/model.safetensors.index.json": index}
    with pytest.raises(kind):
        open_source(f"{site.url}/m/model.safetensors.index.json")


@pytest.mark.parametrize(
    "url",
    ["http://host", "http://host/m/", "http:///x", "http://[::1/x", "http://host:port/x", "https://u:p@host/x"],
)
def test_urls_that_name_no_file(url: str) -> None:
    with pytest.raises(SourceInvalid) as caught:
        open_source(url)
    assert "u:p" not in str(caught.value)


# --- redirects --------------------------------------------------------------------------------------------------------


def test_ranges_go_to_where_the_redirects_ended_and_come_back_when_that_expires(site: Site) -> None:
    site.files = {"/cdn/1": BYTES, "/cdn/2": BYTES}
    site.redirects = {"/m/model.safetensors": "/again", "/again": f"{site.url}/cdn/1"}
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert BYTES[3:9] == file.open(3, 9).read()
    assert ["/m/model.safetensors", "/again", "/cdn/1", "/cdn/1"] == [path for _, path, _ in site.asked]
    del site.files["/cdn/1"]
    site.redirects["/again"] = "/cdn/2"
    assert BYTES[3:9] == file.open(3, 9).read()
    assert "/cdn/2" == site.asked[-1][1]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "", "http://u:p@host/x", "http://h:x/"])
def test_redirects_that_are_not_followed(site: Site, target: str) -> None:
    site.redirects["/m/model.safetensors"] = target
    with pytest.raises(SourceForbidden, match="not followed"):
        open_source(f"{site.url}/m/model.safetensors")


def test_redirects_end(site: Site) -> None:
    site.redirects["/m/x"] = "/m/x"
    with pytest.raises(SourceInvalid, match="more than 5 redirects"):
        open_source(f"{site.url}/m/x")
    assert 6 == len(site.asked)


def test_https_does_not_lead_to_http() -> None:
    asking = agent.Agent("https://127.0.0.1/x", connections=1)
    with pytest.raises(SourceForbidden, match="from https to http"):
        asking._redirected("https://127.0.0.1/x", "http://127.0.0.1/x", "m")


def test_a_public_host_does_not_lead_to_a_local_one(
    site: Site, started: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = started("127.0.0.2")
    monkeypatch.setattr(agent, "is_local", lambda address: address != "127.0.0.1")
    site.redirects["/m/model.safetensors"] = f"{metadata.url}/m/model.safetensors"
    with pytest.raises(SourceForbidden, match=r"public host to 127\.0\.0\.2"):
        open_source(f"{site.url}/m/model.safetensors")
    assert [] == metadata.asked


def test_a_name_that_resolves_to_a_local_address_only_when_it_is_connected_to(
    site: Site, started: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race between looking a name up and connecting: what counts is the peer."""
    metadata = started("127.0.0.2")
    monkeypatch.setattr(agent, "is_local", lambda address: address != "127.0.0.1")
    real = urllib3.util.connection.create_connection
    monkeypatch.setattr(
        urllib3.util.connection,
        "create_connection",
        lambda address, *rest, **named: real(
            ("127.0.0.2" if address[0] == "rebound.test" else address[0], address[1]), *rest, **named
        ),
    )
    site.redirects["/m/model.safetensors"] = f"http://rebound.test:{metadata.server_port}/m/model.safetensors"
    with pytest.raises(SourceForbidden, match=r"public host to 127\.0\.0\.2"):
        open_source(f"{site.url}/m/model.safetensors")
    assert [] == metadata.asked


def test_a_local_host_may_lead_to_another(site: Site, started: Callable[..., Site]) -> None:
    other = started("127.0.0.2")
    site.redirects["/m/model.safetensors"] = f"{other.url}/m/model.safetensors"
    (file,) = open_source(f"{site.url}/m/model.safetensors")
    assert BYTES == file.open().read()


def test_a_token_stays_with_its_origin(site: Site, started: Callable[..., Site]) -> None:
    other = started("127.0.0.2")
    site.redirects["/m/x"] = f"{other.url}/m/model.safetensors"
    asking = agent.Agent(f"{site.url}/m/x", connections=1, headers={"Authorization": "Bearer secret"})
    asking.ask("GET", f"{site.url}/m/x", "m").response.close()
    assert "Bearer secret" == site.asked[0][2]["authorization"]
    assert "authorization" not in other.asked[0][2]


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("169.254.169.254", True), ("192.168.0.1", True), ("0.0.0.0", True),
        ("100.64.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("fd00::1", True), ("::ffff:127.0.0.1", True),
        ("::ffff:8.8.8.8", False), ("8.8.8.8", False), ("2606:4700::1111", False),
    ],
)  # fmt: skip
def test_which_addresses_are_local(address: str, local: bool) -> None:
    assert local is is_local(address)


# --- proxies and errors -----------------------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_asked_unless_the_host_needs_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{site.server_port}")
    site.files["http://models.test/model.safetensors"] = b"through the proxy"
    (file,) = open_source("http://models.test/model.safetensors")
    assert b"through the proxy" == file.open().read()
    assert "Basic dXNlcjp3b3Jk" == site.asked[-1][2]["proxy-authorization"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    open_source(f"{site.url}/m/model.safetensors")
    assert "/m/model.safetensors" == site.asked[-1][1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, SourceInvalid), (401, SourceForbidden), (403, SourceForbidden), (404, SourceNotFound),
        (408, SourceUnreachable), (410, SourceNotFound), (412, SourceChanged), (416, SourceChanged),
        (429, SourceUnreachable), (500, SourceUnreachable), (503, SourceUnreachable),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, kind: type[SourceError]) -> None:
    assert kind is type(status_error("m", status, {}))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("12", 12.0), ("soon", None), ("-3", None), (formatdate(1030, usegmt=True), 30.0), (formatdate(10, usegmt=True), 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds == unreachable("m", header, now=lambda: 1000.0).retry_after_s


def test_nobody_listens_and_no_such_host() -> None:
    for url in ("http://127.0.0.1:9/model.safetensors", "http://models.invalid/model.safetensors"):
        with pytest.raises(SourceUnreachable, match="/model"):
            open_source(url)


def test_a_certificate_that_nobody_signed_is_not_a_fault_that_passes() -> None:
    import ssl

    refused = ssl.SSLCertVerificationError("self-signed certificate")
    assert isinstance(agent.transport_error("m", urllib3.exceptions.SSLError(refused)), SourceForbidden)


def test_the_parts_of_a_url_are_checked() -> None:
    assert "host" == checked_url("https://host:8443/x").hostname
