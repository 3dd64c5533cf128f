"""Cross-origin resource sharing of function URLs and HTTP APIs: what a browser is told. Pure.

The settings have the same names and meaning in both (spec 2.4). Where there are any, a preflight is answered here and
no function runs. Any other request runs, whoever sent it: CORS protects the browser's user, and only by what the browser
reads in the answer. ``AllowOrigins`` holds origins, ``*``, or ``http://*`` and ``https://*`` for all of one scheme.

With ``AllowCredentials`` a ``*`` in an answer would be read as a name, so the answer repeats what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .messages import Reply, Request

Cors = Mapping[str, Any]
"""``Cors`` of a function URL, ``CorsConfiguration`` of an HTTP API."""

Headers = Sequence[tuple[str, str]]

_SCHEMES = ("http://*", "https://*")
_GOVERNED = {
    "AllowOrigins": ("access-control-allow-origin", "access-control-allow-credentials"),
    "AllowCredentials": ("access-control-allow-credentials",),
    "AllowMethods": ("access-control-allow-methods",),
    "AllowHeaders": ("access-control-allow-headers",),
    "ExposeHeaders": ("access-control-expose-headers",),
    "MaxAge": ("access-control-max-age",),
}


def is_preflight(request: Request) -> bool:
    """Return whether a browser asks before it sends the request itself."""
    return (
        request.method == "OPTIONS"
        and "origin" in request.headers
        and "access-control-request-method" in request.headers
    )


def allows_origin(cors: Cors, origin: str) -> bool:
    """Return whether pages of ``origin`` may read answers."""
    origin = origin.strip().lower()
    for allowed in cors.get("AllowOrigins") or ():
        pattern = str(allowed).strip().lower()
        if pattern in ("*", origin):
            return True
        if pattern in _SCHEMES and origin.startswith(pattern[:-1]):
            return True
    return False


def preflight(cors: Cors, request: Request, status: int) -> Reply:
    """Return the answer to a preflight. One that allows nothing has ``status`` as well, and none of the headers."""
    origin = request.headers["origin"]
    if not allows_origin(cors, origin):
        return Reply(status)
    asked_method = request.headers["access-control-request-method"]
    asked_headers = request.headers.get("access-control-request-headers", "")
    headers = _origin(cors, origin)
    for name, key, asked in (
        ("access-control-allow-methods", "AllowMethods", asked_method),
        ("access-control-allow-headers", "AllowHeaders", asked_headers),
    ):
        value = _listed(cors, key, asked)
        if value:
            headers.append((name, value))
    if cors.get("MaxAge") is not None:
        headers.append(("access-control-max-age", str(int(cors["MaxAge"]))))
    return Reply(status, headers=headers)


def applied(cors: Cors, origin: str, headers: Headers, *, alone: bool) -> list[tuple[str, str]]:
    """Return a response's headers with those of CORS.

    What the settings speak of, the function's own headers do not: two values of one of them are none to a browser.
    ``alone``: the function has no say in any of them, as behind an HTTP API.
    """
    governed = {name for key, names in _GOVERNED.items() if alone or cors.get(key) is not None for name in names}
    kept = [(name, value) for name, value in headers if name.lower() not in governed]
    if not allows_origin(cors, origin):
        return kept
    kept += _origin(cors, origin)
    exposed = _joined(cors.get("ExposeHeaders"))
    if exposed:
        kept.append(("access-control-expose-headers", exposed))
    return kept


def _origin(cors: Cors, origin: str) -> list[tuple[str, str]]:
    """Return who may read the answer. One that depends on the origin says so to caches."""
    credentials = bool(cors.get("AllowCredentials"))
    if not credentials and "*" in cors["AllowOrigins"]:
        return [("access-control-allow-origin", "*")]
    headers = [("access-control-allow-origin", origin.strip()), ("vary", "Origin")]
    return [*headers, ("access-control-allow-credentials", "true")] if credentials else headers


def _listed(cors: Cors, key: str, asked: str) -> str:
    allowed = _joined(cors.get(key))
    return asked if cors.get("AllowCredentials") and "*" in (cors.get(key) or ()) else allowed


def _joined(values: Iterable[str] | None) -> str:
    return ",".join(str(value).strip() for value in values or ())
