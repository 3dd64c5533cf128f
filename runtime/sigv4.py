"""AWS Signature Version 4, pure: what a request claims, what its signature should be, and making one.

    claim = claim_of(query, headers)           what the request says: who, when, which headers, which signature
    check_time(claim, now_s)                   within 15 minutes, or a presigned URL's own time
    check_signature(claim, secret, request, payload_hash)

A signature covers the method, the path, the query, the headers that it lists, and a digest of the body. Three rules
keep what it does not list from changing what a request means: ``host`` must be listed, every ``x-amz-*`` header must
be, and the digest of the body is either in ``x-amz-content-sha256`` or made of the body itself.

The path is canonical as for every service but S3: empty and dot segments are taken out of the raw path, and what is
left is percent-encoded once more. The query is taken as it was sent (boto3, which signs what it sends) or decoded and
encoded strictly (others, which sign what it means); either way each parameter is covered. ``+`` means a space, as it
does to whoever parses the query afterwards.

The node verifies with this, the command line signs with it; tests hold both to botocore's signer.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_plus

from .errors import IncompleteSignature, InvalidSignature, MissingAuthenticationToken

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
SKEW_S = 15 * 60
"""How far the clocks of the caller and the node may be apart."""

MAX_EXPIRES_S = 7 * 24 * 3600
_TIMESTAMP = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTS = ("Credential", "SignedHeaders", "Signature")
_NEED_NOT_BE_SIGNED = frozenset({"x-amz-content-sha256", "x-amz-security-token", "x-amz-date"})
"""The first is part of what is signed in another place, so is the last; the second is compared by itself."""


@dataclass(frozen=True, slots=True)
class Key:
    """What signs. ``session_token`` is empty for credentials that last."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its signature. ``expires_s`` is a presigned URL's own time, None for a signed header.

    ``content_sha256`` is ``x-amz-content-sha256``, empty without one: then the digest is that of the body.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    timestamp: str = ""
    expires_s: int | None = None
    session_token: str = field(default="", repr=False)
    content_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Signable:
    """The parts of a request that a signature covers. ``path`` and ``query`` are as sent; header names lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


# --- what a request claims --------------------------------------------------------------------------------------------


def is_signed(query: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request claims to be signed, in whichever way."""
    return "authorization" in headers or "X-Amz-Signature=" in query


def claim_of(query: str, headers: Mapping[str, str]) -> Claim:
    """Return what a request claims: its Authorization header, or else what a presigned URL has in its query.

    Raises ``MissingAuthenticationToken`` where there is neither, ``IncompleteSignature`` for what cannot be read.
    """
    authorization = headers.get("authorization")
    if authorization is None:
        if "X-Amz-Signature=" not in query and "X-Amz-Algorithm=" not in query:
            raise MissingAuthenticationToken
        claim = _presigned(query, headers)
    else:
        claim = _signed(authorization, headers)
    _check_claim(claim, headers)
    return claim


def _signed(authorization: str, headers: Mapping[str, str]) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    _check_algorithm(algorithm)
    parts = {}
    for part in rest.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals:
            raise IncompleteSignature(f"{part.strip()[:40]!r} not a valid key=value pair in Authorization header.")
        if name in parts:
            raise IncompleteSignature(f"Authorization header has {name!r} more than once.")
        parts[name] = value
    missing = [f"Authorization header requires '{name}' parameter." for name in _PARTS if not parts.get(name)]
    timestamp = headers.get("x-amz-date") or _of_http_date(headers.get("date", ""))
    if not timestamp:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        raise IncompleteSignature(" ".join(missing))
    return Claim(
        *_scope(parts["Credential"]),
        signed_headers=tuple(parts["SignedHeaders"].split(";")),
        signature=parts["Signature"],
        timestamp=timestamp,
        session_token=headers.get("x-amz-security-token", ""),
        content_sha256=headers.get("x-amz-content-sha256", ""),
    )


def _presigned(query: str, headers: Mapping[str, str]) -> Claim:
    given: dict[str, str] = {}
    for name, value in _pairs(query):
        name = unquote_plus(name)
        if name.startswith("X-Amz-"):
            if name in given:
                raise IncompleteSignature(f"AWS query-string parameter {name!r} is there more than once.")
            given[name] = unquote_plus(value)
    _check_algorithm(given.get("X-Amz-Algorithm", ""))
    needed = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature")
    missing = [f"AWS query-string parameters must include '{name}'." for name in needed if not given.get(name)]
    if missing:
        raise IncompleteSignature(f"{' '.join(missing)} Re-examine the query-string parameters.")
    expires = given.get("X-Amz-Expires", str(SKEW_S))
    if not (expires.isascii() and expires.isdigit() and len(expires) < 10 and 1 <= int(expires) <= MAX_EXPIRES_S):
        raise IncompleteSignature(f"X-Amz-Expires must be a number of seconds from 1 to {MAX_EXPIRES_S}.")
    return Claim(
        *_scope(given["X-Amz-Credential"]),
        signed_headers=tuple(given["X-Amz-SignedHeaders"].split(";")),
        signature=given["X-Amz-Signature"],
        timestamp=given["X-Amz-Date"],
        expires_s=int(expires),
        session_token=given.get("X-Amz-Security-Token", ""),
        content_sha256=given.get("X-Amz-Content-Sha256") or headers.get("x-amz-content-sha256", ""),
    )


def _check_algorithm(algorithm: str) -> None:
    if algorithm != ALGORITHM:
        raise IncompleteSignature(f"Unsupported signature algorithm {algorithm[:40]!r}; {ALGORITHM} is supported.")


def _scope(credential: str) -> tuple[str, str, str, str]:
    """Return (access key id, date, region, service)."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not all(parts) or not credential.isascii() or parts[4] != "aws4_request":
        raise IncompleteSignature(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        )
    return parts[0], parts[1], parts[2], parts[3]


def _check_claim(claim: Claim, headers: Mapping[str, str]) -> None:
    """Refuse what no signature can make good. Raises ``IncompleteSignature`` or ``InvalidSignature``."""
    if not _TIMESTAMP.fullmatch(claim.timestamp):
        raise IncompleteSignature(f"Date must be in ISO-8601 'basic format'. Got '{claim.timestamp[:40]}'.")
    if claim.date != claim.timestamp[:8]:
        raise InvalidSignature(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.date[:40]}' != '{claim.timestamp[:8]}', from '{claim.timestamp}'."
        )
    if "host" not in claim.signed_headers:
        raise InvalidSignature("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    listed = set(claim.signed_headers)
    for name in headers:
        if name.startswith("x-amz-") and name not in listed and name not in _NEED_NOT_BE_SIGNED:
            raise InvalidSignature(f"There were headers present in the request which were not signed: {name}")
    content = claim.content_sha256
    if content.startswith(STREAMING):
        raise InvalidSignature(
            f"{content[:64]}: bodies that are signed chunk by chunk are not supported; send the SHA-256 of the body or "
            f"{UNSIGNED_PAYLOAD} as x-amz-content-sha256"
        )
    if content and content != UNSIGNED_PAYLOAD and not _HEX_DIGEST.fullmatch(content):
        raise InvalidSignature(f"x-amz-content-sha256 must be {UNSIGNED_PAYLOAD} or a SHA-256 in small hex digits")


# --- whether it is true -----------------------------------------------------------------------------------------------


def check_time(claim: Claim, now_s: float) -> None:
    """Raise ``InvalidSignature``, in AWS's words, for a signature that is too old or not valid yet."""
    signed_s = _unix_s(claim.timestamp)
    now = timestamp_of(now_s)
    if signed_s > now_s + SKEW_S:
        limit = timestamp_of(now_s + SKEW_S)
        raise InvalidSignature(
            f"Signature not yet current: {claim.timestamp} is still later than {limit} ({now} + 15 min.)"
        )
    lasts_s = SKEW_S if claim.expires_s is None else claim.expires_s
    if now_s > signed_s + lasts_s:
        why = f"{now} - {lasts_s // 60} min." if lasts_s % 60 == 0 else f"{now} - {lasts_s} s"
        limit = timestamp_of(now_s - lasts_s)
        raise InvalidSignature(f"Signature expired: {claim.timestamp} is now earlier than {limit} ({why})")


def check_signature(claim: Claim, secret_access_key: str, request: Signable, payload_hash: str) -> None:
    """Raise ``InvalidSignature`` unless the signature is that of ``request`` under the key; in constant time."""
    if any(name not in request.headers for name in claim.signed_headers):
        raise InvalidSignature
    given = claim.signature.encode(errors="replace")
    key = signing_key(secret_access_key, claim.date, claim.region, claim.service)
    scope = f"{claim.date}/{claim.region}/{claim.service}/aws4_request"
    matched = False
    for query in canonical_queries(request.query, presigned=claim.expires_s is not None):
        expected = _signature(key, claim.timestamp, scope, request, query, claim.signed_headers, payload_hash)
        matched |= hmac.compare_digest(expected.encode(), given)
    if not matched:
        raise InvalidSignature


# --- making one -------------------------------------------------------------------------------------------------------


def sign(key: Key, request: Signable, *, region: str, service: str, now_s: float, payload_hash: str) -> dict[str, str]:
    """Return the headers to send besides those of ``request``, which must have ``host``; all of them are signed.

    ``payload_hash`` is the SHA-256 of the body in hex, or ``UNSIGNED_PAYLOAD``.
    """
    timestamp = timestamp_of(now_s)
    added = {"x-amz-date": timestamp, "x-amz-content-sha256": payload_hash}
    if key.session_token:
        added["x-amz-security-token"] = key.session_token
    request = Signable(request.method, request.path, request.query, {**request.headers, **added})
    names = tuple(sorted(request.headers))
    scope = f"{timestamp[:8]}/{region}/{service}/aws4_request"
    secret = signing_key(key.secret_access_key, timestamp[:8], region, service)
    query = canonical_queries(request.query)[0]
    signature = _signature(secret, timestamp, scope, request, query, names, payload_hash)
    return added | {
        "authorization": f"{ALGORITHM} Credential={key.access_key_id}/{scope}, SignedHeaders={';'.join(names)}, "
        f"Signature={signature}"
    }


@lru_cache(maxsize=256)
def signing_key(secret_access_key: str, date: str, region: str, service: str) -> bytes:
    """Return the key of one day, region and service; kept, because a caller uses the same one all day."""
    key = f"AWS4{secret_access_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def timestamp_of(unix_s: float) -> str:
    """Return Unix seconds as ``20260101T000000Z``."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))


def canonical_queries(query: str, *, presigned: bool = False) -> tuple[str, ...]:
    """Return the canonical forms of a raw query: as it was sent and, where that differs, encoded strictly."""
    if not query:
        return ("",)
    pairs = [pair for pair in _pairs(query) if not (presigned and unquote_plus(pair[0]) == "X-Amz-Signature")]
    strict = [(_strict(name), _strict(value)) for name, value in pairs]
    forms = ("&".join(f"{name}={value}" for name, value in sorted(form)) for form in (pairs, strict))
    return tuple(dict.fromkeys(forms))


def canonical_path(path: str) -> str:
    """Return the canonical form of a raw path, for every service but S3."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    end = "/" if kept and path.endswith("/") else ""
    return quote(f"/{'/'.join(kept)}{end}".encode(errors="surrogateescape"), safe="/~")


def _signature(
    key: bytes,
    timestamp: str,
    scope: str,
    request: Signable,
    canonical_query: str,
    names: tuple[str, ...],
    payload_hash: str,
) -> str:
    headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in names)
    canonical = "\n".join(
        (request.method.upper(), canonical_path(request.path), canonical_query, headers, ";".join(names), payload_hash)
    )
    digest = hashlib.sha256(canonical.encode(errors="surrogateescape")).hexdigest()
    return hmac.digest(key, f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}".encode(errors="replace"), "sha256").hex()


def _pairs(query: str) -> list[tuple[str, str]]:
    """Return the parameters as they were sent; one without ``=`` has the empty value."""
    return [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&"))]


def _strict(text: str) -> str:
    decoded = unquote(text.replace("+", " "), errors="surrogateescape")
    return quote(decoded.encode(errors="surrogateescape"), safe="-_.~")


def _of_http_date(text: str) -> str:
    """Return a Date header as a timestamp; a timestamp as it is; empty for anything else."""
    if _TIMESTAMP.fullmatch(text):
        return text
    try:
        return timestamp_of(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError, OSError):
        return ""


def _unix_s(timestamp: str) -> int:
    try:
        return calendar.timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise IncompleteSignature(f"Date must be in ISO-8601 'basic format'. Got '{timestamp}'.") from None
