"""The authenticator: who may knock, in what order it is found out, and what is read of a body to find it out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from glowplug.runtime import sigv4
from glowplug.runtime.credentials import Identity
from glowplug.runtime.errors import (
    IncompleteSignature,
    InvalidSignature,
    MissingAuthenticationToken,
    NotAuthenticated,
    RequestTooLarge,
    UnrecognizedClient,
)
from glowplug.runtime.http.authentication import Authenticator
from glowplug.runtime.http.faults import error_reply
from glowplug.runtime.http.messages import Request
from glowplug.runtime.principal import Principal
from glowplug.runtime.sigv4 import Key, Signable
from glowplug.runtime.testing.clock import ManualClock

ANN = Principal("AKIAEXAMPLE00000", "000000000000", "arn:aws:iam::000000000000:user/ann", "AIDA", "ann")
KEY = Key(ANN.access_key_id, "s3cr3t/s3cr3t+s3cr3t")
SESSION = Key("ASIAEXAMPLE00000", "t3mp0r4ry-t3mp0r4ry", "token")
LIMIT_BYTES = 100


class Keys:
    """Two people."""

    def find(self, access_key_id: str) -> Identity | None:
        return {key.access_key_id: Identity(ANN, key) for key in (KEY, SESSION)}.get(access_key_id)


@dataclass
class Body:
    """The socket's side of a request, in memory; ``read`` counts the bytes that were asked for."""

    parts: list[bytes]
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    read: int = 0

    @property
    def content(self) -> Body:
        return self

    async def readany(self) -> bytes:
        part = self.parts.pop(0) if self.parts else b""
        self.read += len(part)
        return part

    def at_eof(self) -> bool:
        return not self.parts


def request(
    *parts: bytes,
    key: Key = KEY,
    service: str = "lambda",
    digest: str | None = None,
    show_digest: bool = True,
    signed: bool = True,
    **headers: str,
) -> Request:
    """Return a signed request with a body in ``parts``; ``digest`` instead of the body's own is signed."""
    clock = ManualClock()
    given = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if signed:
        digest = digest or hashlib.sha256(b"".join(parts)).hexdigest()
        signable = Signable("POST", "/p", "q=1", given)
        added = sigv4.sign(key, signable, region="r", service=service, now_s=clock.time(), payload_hash=digest)
        if not show_digest:  # as botocore: the digest is signed, as that of the body, and not sent
            signature = sigv4._signature(
                sigv4.signing_key(key.secret_access_key, "20260101", "r", service), added["x-amz-date"],
                f"20260101/r/{service}/aws4_request", replace(signable, headers={**given, **added}), "q=1",
                ("host", "x-amz-date"), digest,
            )  # fmt: skip
            del added["x-amz-content-sha256"]
            added["authorization"] = (
                f"AWS4-HMAC-SHA256 Credential={key.access_key_id}/20260101/r/{service}/aws4_request, "
                f"SignedHeaders=host;x-amz-date, Signature={signature}"
            )
        given |= added
    raw: Any = Body(list(parts))
    return Request("r", "POST", "/p", "q=1", "localhost", given, "HTTP/1.1", "127.0.0.1", 9000, 1.0, raw)


async def authenticated(given: Request, service: str = "lambda") -> Request:
    return await Authenticator(Keys(), ManualClock(), body_bytes=LIMIT_BYTES).authenticate(given, service)


def read_of(given: Request) -> int:
    body: Any = given.raw
    return int(body.read)


@pytest.mark.parametrize("show_digest", [True, False])
async def test_a_signed_request_has_its_principal_and_its_body(show_digest: bool) -> None:
    one = await authenticated(request(b"a" * 50, b"b", show_digest=show_digest))
    assert (ANN, b"a" * 50 + b"b") == (one.principal, await one.read(LIMIT_BYTES))


async def test_a_session_needs_its_token() -> None:
    one = request(key=SESSION)
    assert ANN == (await authenticated(one)).principal
    for token in ("other", ""):
        with pytest.raises(UnrecognizedClient):
            await authenticated(replace(one, headers={**one.headers, "x-amz-security-token": token}))
    with pytest.raises(UnrecognizedClient):
        await authenticated(request(key=replace(KEY, session_token="made up")))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (request(b"x", signed=False), MissingAuthenticationToken),
        (request(b"x", signed=False, authorization="Basic x"), IncompleteSignature),
        (request(b"x", show_digest=False, key=Key("AKIANOBODY000000", "s" * 20)), UnrecognizedClient),
        (request(b"x", show_digest=False, service="sqs"), InvalidSignature),
        (request(b"x", key=replace(KEY, secret_access_key="wrong")), InvalidSignature),
    ],
)
async def test_nothing_is_read_of_a_body_before_the_caller_is_known(
    given: Request, error: type[NotAuthenticated]
) -> None:
    with pytest.raises(error):
        await authenticated(given)
    assert 0 == read_of(given)


async def test_another_service_is_named() -> None:
    with pytest.raises(InvalidSignature, match="correct service: 'sqs'"):
        await authenticated(request(), "sqs")
    assert ANN == (await authenticated(request(service="sqs"), "sqs")).principal


async def test_a_body_whose_digest_is_signed_is_checked_when_it_is_read_and_never_held() -> None:
    one = await authenticated(request(b"a" * 80, b"b" * 80, digest=hashlib.sha256(b"other").hexdigest()))
    assert 0 == read_of(one)
    with pytest.raises(InvalidSignature, match="does not match what was computed"):
        await one.read(1000)
    two = await authenticated(request(b"a" * 80, b"b" * 80, digest=hashlib.sha256(b"other").hexdigest()))
    parts = two.parts(1000, what="x")
    assert [b"a" * 80, b"b" * 80] == [await anext(parts), await anext(parts)]
    with pytest.raises(InvalidSignature):
        await anext(parts)
    three = await authenticated(request(b"a" * 80, b"b" * 80))
    assert [80, 80] == [len(part) async for part in three.parts(1000, what="x")]


async def test_a_body_that_was_left_out_is_anything() -> None:
    one = await authenticated(request(b"anything", digest=sigv4.UNSIGNED_PAYLOAD))
    assert b"anything" == await one.read(LIMIT_BYTES)


async def test_a_body_that_must_be_read_has_a_limit_and_the_readers_own() -> None:
    endless = request(*[b"x" * 60] * 50, show_digest=False)
    with pytest.raises(RequestTooLarge):
        await authenticated(endless)
    assert read_of(endless) <= 2 * 60
    one = await authenticated(request(b"x" * 90, show_digest=False))
    with pytest.raises(RequestTooLarge, match="90 byte payload is too large for the X operation"):
        await one.read(50, what="the X operation")
    assert [b"x" * 90] == [part async for part in one.parts(90, what="x")]


async def test_a_body_that_was_changed_is_refused() -> None:
    changed = request(b"good", show_digest=False)
    raw: Any = changed.raw
    raw.parts = [b"evil"]
    with pytest.raises(InvalidSignature, match="calculated does not match"):
        await authenticated(changed)


async def test_the_host_that_decides_is_the_host_that_is_signed() -> None:
    with pytest.raises(InvalidSignature):
        await authenticated(replace(request(), host="echo.lambda-url.test"))


async def test_cookies_that_came_apart_are_signed_with_commas() -> None:
    one = request(cookie="a=1,b=2")
    raw: Any = one.raw
    raw.raw_headers = [(b"Cookie", b"a=1"), (b"X-Y", b"z"), (b"cookie", b"b=2")]
    joined = replace(one, headers={**one.headers, "cookie": "a=1; b=2"})
    assert "a=1; b=2" == (await authenticated(joined)).headers["cookie"]


async def test_a_replay_after_its_time_is_refused() -> None:
    clock = ManualClock()
    door = Authenticator(Keys(), clock, body_bytes=LIMIT_BYTES)
    await door.authenticate(request(), "lambda")
    await clock.advance(15 * 60)
    await door.authenticate(request(), "lambda")
    await clock.advance(1)
    with pytest.raises(InvalidSignature, match="Signature expired"):
        await door.authenticate(request(), "lambda")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MissingAuthenticationToken(), "MissingAuthenticationTokenException"),
        (IncompleteSignature("m"), "IncompleteSignatureException"),
        (UnrecognizedClient(), "UnrecognizedClientException"),
        (InvalidSignature(), "InvalidSignatureException"),
    ],
)
def test_errors_are_those_of_aws(error: NotAuthenticated, code: str) -> None:
    reply = error_reply(error)
    assert (403, [("x-amzn-ErrorType", code)]) == (reply.status, list(reply.headers))
    assert reply.body.startswith(b'{"message":"')
