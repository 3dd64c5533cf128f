"""Which URLs a caller may have an event's result sent to. Pure.

The node sends from where it stands, and may reach what its caller cannot: another service on the loopback, a cloud's
metadata. So whoever may control the node, and could run code there anyway, may name any host, and everybody else none.
Where ``GLOWPLUG_WEBHOOK_HOSTS`` lists hosts, everybody may name those and nobody another. On the public listener there
is no way to name one.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.principal import Principal

HEADER = "X-Glowplug-Webhook"
SETTING = "GLOWPLUG_WEBHOOK_HOSTS"
_LONGEST = 2048
_PORTS = {"http": 80, "https": 443}


def checked_webhook(url: str, principal: Principal | None, hosts: Sequence[str]) -> str:
    """Return the URL that gets an event's result, empty where none was named.

    ``principal`` is who names it, None where nobody needs credentials; ``hosts`` is the setting. Raises
    ``InvalidParameter``.
    """
    if not url:
        return ""
    parts = _parts(url)
    if parts is None:
        raise InvalidParameter(
            f"{HEADER}: {url[:100]!r} is not an http or https URL, with no name and password, of at most {_LONGEST} "
            "characters"
        )
    if hosts:
        if not any(_is_at(parts, one) for one in hosts):
            raise InvalidParameter(f"{HEADER}: {parts.netloc!r} is none of the hosts in {SETTING}")
    elif principal is not None and not principal.may("control"):
        raise InvalidParameter(
            f"{HEADER}: {parts.netloc!r}: {principal.arn} may not control this node, and so names hosts alone that"
            f" {SETTING} lists; it lists none"
        )
    return url


def _parts(url: str) -> SplitResult | None:
    """Return the parts of a URL, None for one that two parsers might take for two: the one that sends has its own."""
    if len(url) > _LONGEST or not (url.isascii() and url.isprintable()) or set(url) & set("\\ "):
        return None
    try:
        parts = urlsplit(url)
        named = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if named and "@" not in parts.netloc else None


def _is_at(url: SplitResult, host: str) -> bool:
    """Return whether a URL is at ``host``: ``name``, ``*.name`` (all below it) or ``*``, each maybe with a port."""
    allowed = urlsplit(f"//{host}")
    if allowed.port not in (None, url.port or _PORTS[url.scheme]):
        return False
    name, pattern = (url.hostname or "").removesuffix("."), allowed.hostname or ""
    return name == pattern or (pattern.startswith("*") and name.endswith(pattern[1:]))
