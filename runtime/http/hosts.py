"""Whose door was knocked on: hosts of functions and APIs, our own names, and what a browser must not be tricked into.

Host is matched before path, so a function's host never reaches ``/_*`` or the Lambda API. The control listener
answers its own names only (a page whose DNS name was pointed at 127.0.0.1 has another Host), and refuses what a
browser marks as coming from another origin (a page may POST to localhost without asking anyone).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from glowplug.runtime.errors import Forbidden

_FUNCTION_HOST = re.compile(r"(?P<url_id>[a-z0-9-]+)\.lambda-url(?:\.[a-z0-9.-]*)?")
_API_HOST = re.compile(r"(?P<api_id>[a-z0-9-]+)\.execute-api(?:\.[a-z0-9.-]*)?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SITE = frozenset({"same-origin", "none"})


@lru_cache(maxsize=1024)
def hostname(authority: str) -> str:
    """Return the host of ``host[:port]``, lower case, without brackets, port or final dot; empty when malformed."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        inside, closed, rest = authority[1:].partition("]")
        return inside if closed and (not rest or _is_port(rest)) else ""
    host, colon, port = authority.partition(":")
    if colon and not _is_port(":" + port):
        return ""
    return host.removesuffix(".")


def url_id_of_host(host: str) -> str | None:
    """Return the URL id of ``<url-id>.lambda-url.<anything>``, or None when it is not a function's host."""
    match = _FUNCTION_HOST.fullmatch(host) if ".lambda-url" in host else None
    return match["url_id"] if match else None


def api_id_of_host(host: str) -> str | None:
    """Return the API id of ``<api-id>.execute-api.<anything>``, or None when it is not an API's host."""
    match = _API_HOST.fullmatch(host) if ".execute-api" in host else None
    return match["api_id"] if match else None


def is_loopback(host: str) -> bool:
    """Return whether binding ``host`` keeps other machines out."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ControlGuard:
    """Decides whether the control listener answers a request. ``names`` are accepted besides the loopback ones."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = _LOOPBACK_NAMES | ({hostname(name) for name in names} - {""})

    def check_host(self, host: str) -> None:
        """Raise ``Forbidden`` unless ``host`` (as ``hostname`` returns it) is one of ours; any port will do."""
        if host not in self._names:
            raise Forbidden(f"Host {host!r} is not served here; add it to GLOWPLUG_HOSTS if it should be")

    def check_origin(self, authority: str, headers: Mapping[str, str]) -> None:
        """Raise ``Forbidden`` when a browser says that another origin sent this.

        Only the very origin that is being asked counts as ours: another port of localhost is another program.
        """
        site = headers.get("sec-fetch-site")
        if site is not None and site.strip().lower() not in _OWN_SITE:
            raise Forbidden(f"Cross-site request (Sec-Fetch-Site: {site})")
        origin = headers.get("origin")
        if origin is None:
            return
        authority = authority.strip().lower()
        if origin.strip().lower() not in (f"http://{authority}", f"https://{authority}"):
            raise Forbidden(f"Cross-site request (Origin: {origin})")


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and (text[1:].isdigit() or not text[1:])
