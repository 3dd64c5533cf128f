"""Asks web servers: one request at a time, redirects that are safe to follow, errors as ``SourceError``.

urllib3 does the transport. Its own redirects and retries are off: a retry that nobody sees makes a start slow without
saying why (the fetch retries, and reports it), and where a redirect may lead is decided here:

- at most ``MAX_REDIRECTS``, to ``http`` and ``https`` only, never from ``https`` to ``http``;
- never from a public host to an address of this machine or its networks: a model's URL must not reach a metadata
  service or an intranet by a detour. What counts is the address that was connected to, seen before a byte of the
  request is sent; a name could resolve to something else between looking it up and connecting;
- headers that the agent was given (a token) go to the first URL's origin alone.

Proxies come from the environment (``http_proxy``, ``https_proxy``, ``no_proxy``), as urllib reads it. Behind a proxy
the addresses are the proxy's affair; only hosts written as an address are checked.
"""

from __future__ import annotations

import email.utils
import ipaddress
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
"""Longest silence of a server before the read is given up."""

_DRAINED_BYTES = 4096
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer: its ``response``, body not read yet, and the URL that gave it, after redirects."""

    response: urllib3.BaseHTTPResponse
    url: str

    def header(self, name: str) -> str:
        """Return a header's value, empty if it is not there."""
        return str(self.response.headers.get(name, ""))

    def close(self) -> None:
        """Be done with the answer. Its connection is kept when next to nothing is left to read, else dropped."""
        left = self.response.length_remaining
        if left is not None and left <= _DRAINED_BYTES:
            self.response.drain_conn()
        self.response.close()


class Agent:
    """Asks for one URL or others beside it, over at most ``connections`` kept connections. Safe in several threads."""

    def __init__(self, origin: str, *, connections: int, headers: Mapping[str, str] | None = None) -> None:
        self._origin = _origin(checked_url(origin))
        self._connections = connections
        self._headers = dict(headers or {})
        host = self._origin[1]
        local = _is_address(host) and is_local(host) if _proxy_of(origin) else _is_local_host(host)
        self._guarded = not local
        self._managers: dict[str, urllib3.PoolManager] = {}

    def ask(self, method: str, url: str, label: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request and return the answer of the last redirect's target, whatever its status.

        ``label`` is what errors call the source. Raises ``SourceForbidden`` for a redirect that is not followed,
        ``SourceInvalid`` for too many of them or an encoded body, ``SourceUnreachable`` for faults of the network.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = Answer(self._send(method, url, label, headers or {}), url)
            if answer.response.status not in _REDIRECTS:
                break
            answer.close()
            url = self._redirected(url, answer.header("location"), label)
        else:
            raise SourceInvalid(f"{label}: more than {MAX_REDIRECTS} redirects")
        encoding = answer.header("content-encoding")
        if encoding.lower() not in ("", "identity"):
            answer.close()
            raise SourceInvalid(f"{label}: answers in {encoding}, although it was asked for the bytes as they are")
        return answer

    def _send(self, method: str, url: str, label: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        own = self._headers if _origin(urlsplit(url)) == self._origin else {}
        try:
            return self._manager(url).request(
                method,
                url,
                headers={"User-Agent": "glowplug", **own, **headers, "Accept-Encoding": "identity"},
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except _LocalPeer as error:
            raise SourceForbidden(f"{label}: leads from a public host to {error}, which is not public") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise transport_error(label, error) from error

    def _redirected(self, url: str, location: str, label: str) -> str:
        refusal = f"{label}: redirected to {location!r}, which is not followed"
        if not location:
            raise SourceForbidden(refusal)
        try:
            parts = checked_url(target := urljoin(url, location))
        except (SourceInvalid, ValueError) as error:
            raise SourceForbidden(refusal) from error
        host = parts.hostname or ""
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise SourceForbidden(f"{label}: redirected from https to http, to {host}")
        if self._guarded and _is_address(host) and is_local(host):
            raise SourceForbidden(f"{label}: leads from a public host to {host}, which is not public")
        return target

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = _proxy_of(url)
        if proxy not in self._managers:
            self._managers[proxy] = self._new_manager(proxy)
        return self._managers[proxy]

    def _new_manager(self, proxy: str) -> urllib3.PoolManager:
        if proxy:
            login = urllib3.util.parse_url(proxy).auth
            headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
            return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=self._connections)
        manager = urllib3.PoolManager(maxsize=self._connections)
        if self._guarded:
            manager.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
        return manager


def checked_url(url: str) -> SplitResult:
    """Return the parts of an http(s) URL. Raises ``SourceInvalid`` for one with a login in it, or without a host."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a bad port or a broken IPv6 address is found only here
    except ValueError as error:
        raise SourceInvalid(f"{url}: {error}") from error
    if parts.username is not None:
        raise SourceInvalid(f"{parts.scheme}://…@{host}: a login in a URL would end up in records and logs")
    if parts.scheme not in _PORTS or not host:
        raise SourceInvalid(f"{url}: write http://host/path or https://host/path")
    return parts


def status_error(label: str, status: int, headers: Mapping[str, str]) -> SourceError:
    """Return the error for an answer's status."""
    if status in (404, 410):
        return SourceNotFound(f"{label}: nothing there (HTTP {status})")
    if status in (401, 403, 407):
        return SourceForbidden(f"{label}: access refused (HTTP {status})")
    if status in (412, 416):
        return SourceChanged(f"{label}: not what it was when it was listed (HTTP {status})")
    if status in (408, 425, 429) or status >= 500:
        return unreachable(f"{label}: HTTP {status}", headers.get("retry-after"))
    return SourceInvalid(f"{label}: HTTP {status}")


def transport_error(label: str, error: Exception) -> SourceError:
    """Return the error for whatever the transport raised."""
    causes, cause = [], error.__cause__ or error.__context__
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(fault, ssl.SSLCertVerificationError) for fault in (error, *error.args, *causes)):
        return SourceForbidden(f"{label}: the server's certificate is not one to trust: {error}")
    if isinstance(error, urllib3.exceptions.LocationValueError | urllib3.exceptions.ProxySchemeUnknown):
        return SourceInvalid(f"{label}: {error}")
    return SourceUnreachable(f"{label}: {type(error).__name__}: {error}")


def unreachable(message: str, retry_after: str | None, now: Callable[[], float] = time.time) -> SourceUnreachable:
    """Return a ``SourceUnreachable`` with ``retry_after_s`` from a ``Retry-After``: seconds, or a date (RFC 9110)."""
    error = SourceUnreachable(message)
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        error.retry_after_s = float(text)
    elif text:
        try:
            error.retry_after_s = max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now())
        except ValueError:
            return error  # neither: the header says nothing, and the usual back-off applies
    return error


def _proxy_of(url: str) -> str:
    """The proxy that the environment names for ``url``, empty if there is none."""
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return "" if proxy and urllib.request.proxy_bypass(parts.netloc) else proxy


def is_local(address: str) -> bool:
    """Return whether an IP address is this machine's, a link's or a private network's: anything but the internet's."""
    ip = ipaddress.ip_address(address.partition("%")[0])  # fe80::1%eth0
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return not (mapped or ip).is_global


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_local_host(host: str) -> bool:
    """Whether every address of ``host`` is local. A name that does not resolve counts as public: the stricter side."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(is_local(str(address[4][0])) for address in found)


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


class _LocalPeer(Exception):
    """Connected to a local address where only public ones may be; the message is the address."""


def _refuse_local_peer(connection: HTTPConnection) -> None:
    sock = connection.sock
    address = str(sock.getpeername()[0]) if sock is not None else ""
    if is_local(address):
        connection.close()
        raise _LocalPeer(address)


class _PublicHTTPConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_local_peer(self)


class _PublicHTTPSConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_local_peer(self)


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection
