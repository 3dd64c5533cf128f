"""Signature Version 4 against botocore's signer: what it signs verifies, and nothing that was changed afterwards does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from glowplug.runtime import sigv4
from glowplug.runtime.errors import (
    IncompleteSignature,
    InvalidSignature,
    MissingAuthenticationToken,
    NotAuthenticated,
    UnrecognizedClient,
)
from glowplug.runtime.sigv4 import Key, Signable

NOW_S = 1_767_225_600.0  # 20260101T000000Z
KEY = Key("AKIDEXAMPLE00000", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "")
SESSION = replace(KEY, session_token="a/session+token==")


@dataclass(frozen=True)
class Sent:
    """A request as it arrives."""

    request: Signable
    body: bytes

    def verify(self, key: Key | None = None, now_s: float = NOW_S) -> sigv4.Claim:
        claim = sigv4.claim_of(self.request.query, self.request.headers)
        key = key or (SESSION if claim.session_token else KEY)
        sigv4.check_time(claim, now_s)
        if claim.access_key_id != key.access_key_id or claim.session_token != key.session_token:
            raise UnrecognizedClient  # as the authenticator does, which has the keys
        payload_hash = claim.content_sha256 or hashlib.sha256(self.body).hexdigest()
        sigv4.check_signature(claim, key.secret_access_key, self.request, payload_hash)
        return claim

    def but(self, **parts: object) -> Sent:
        return replace(self, request=replace(self.request, **parts))  # type: ignore[arg-type]

    def with_header(self, name: str, value: str) -> Sent:
        return self.but(headers={**self.request.headers, name: value})


def signed(
    method: str = "POST",
    url: str = "http://node.test:9000/2015-03-31/functions/echo/invocations",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
    *,
    key: Key = KEY,
    presigned: bool = False,
    service: str = "lambda",
) -> Sent:
    """Return what arrives of a request that botocore signs."""
    request = AWSRequest(method=method, url=url, data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token or None)
    signer = (SigV4QueryAuth if presigned else SigV4Auth)(credentials, service, "eu-west-1")
    at = datetime.fromtimestamp(NOW_S, UTC)
    with patch.object(botocore.auth, "get_current_datetime", lambda *_: at):
        signer.add_auth(request)
    parts = urlsplit(request.prepare().url)
    arrived = {"host": parts.netloc}
    for name in request.headers:
        arrived[name.lower()] = ",".join(request.headers.get_all(name))
    return Sent(Signable(method, parts.path, parts.query, arrived), body)


# --- anything that botocore signs -------------------------------------------------------------------------------------

SAFE = "-_.~!$&'()*+,;=:@"
segments = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["..", ".", "my-fn:live", "a b"])), max_size=5)
paths = segments.map(lambda parts: "/" + "/".join(quote(part, safe=SAFE) for part in parts))
words = st.text(max_size=6).map(lambda text: quote(text, safe="-_.~:@,;!*'()$"))
pairs = st.tuples(words, st.one_of(st.none(), words)).map(lambda p: p[0] if p[1] is None else f"{p[0]}={p[1]}")
queries = st.lists(pairs, max_size=4).map("&".join)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=10).map(lambda text: f"X-{text}")
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(str.strip)
several = st.lists(st.tuples(names, values), max_size=4).map(tuple)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"])
sent = st.builds(
    lambda method, path, query, headers, body, key, presigned: signed(
        method,
        f"http://node.test:9000{path}{'?' if query else ''}{query}",
        headers,
        b"" if presigned else body,  # botocore would move it into the query
        key=key,
        presigned=presigned,
    ),
    methods, paths, queries, several, st.binary(max_size=32), st.sampled_from([KEY, SESSION]), st.booleans(),
)  # fmt: skip
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(sent)
def test_whatever_botocore_signs_verifies(one: Sent) -> None:
    claim = one.verify()
    assert (KEY.access_key_id, "eu-west-1", "lambda") == (claim.access_key_id, claim.region, claim.service)


@thorough
@given(sent, st.sampled_from(["path", "query", "body", "header", "method", "authorization"]), st.data())
def test_nothing_that_was_changed_afterwards_verifies(one: Sent, part: str, data: st.DataObject) -> None:
    request = one.request
    if part == "method":
        changed = one.but(method=data.draw(methods.filter(lambda method: method != request.method)))
    elif part == "body":
        changed = replace(one, body=other(one.body, data))
    elif part == "path":
        path = text_but(request.path, data)
        assume(sigv4.canonical_path(path) != sigv4.canonical_path(request.path))
        changed = one.but(path=path)
    elif part == "query":
        assume(request.query)
        query = text_but(request.query, data)
        assume(not set(sigv4.canonical_queries(query)) & set(sigv4.canonical_queries(request.query)))
        changed = one.but(query=query)
    else:
        name = data.draw(st.sampled_from(sorted(request.headers)))
        if part == "authorization":
            assume("authorization" in request.headers)
            name = part
        assume(request.headers[name])
        value = text_but(request.headers[name], data)
        assume(value.split() != request.headers[name].split())
        changed = one.with_header(name, value)
    with pytest.raises(NotAuthenticated):
        changed.verify()


def other(body: bytes, data: st.DataObject) -> bytes:
    if not body:
        return data.draw(st.binary(min_size=1, max_size=3))
    where = data.draw(st.integers(0, len(body) - 1))
    return body[:where] + bytes([body[where] ^ data.draw(st.integers(1, 255))]) + body[where + 1 :]


def text_but(text: str, data: st.DataObject) -> str:
    """Return ``text`` with one character exchanged."""
    where = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("aZ09%=&/~").filter(lambda one: one != text[where]))
    return text[:where] + character + text[where + 1 :]


@thorough
@given(methods, paths, queries, several, st.binary(max_size=32), st.sampled_from([KEY, SESSION]))
def test_what_we_sign_is_what_botocore_would_have_signed(
    method: str, path: str, query: str, headers: tuple[tuple[str, str], ...], body: bytes, key: Key
) -> None:
    unique = {name.lower(): value for name, value in headers}
    digest = hashlib.sha256(body).hexdigest()
    request = Signable(method, path, query, {"host": "node.test:9000", **unique})
    ours = sigv4.sign(key, request, region="eu-west-1", service="lambda", now_s=NOW_S, payload_hash=digest)
    url = f"http://node.test:9000{path}{'?' if query else ''}{query}"
    given_headers = (*unique.items(), ("x-amz-content-sha256", digest))
    assert signed(method, url, given_headers, body, key=key).request.headers["authorization"] == ours["authorization"]


def test_awss_own_example() -> None:
    headers = {"host": "iam.amazonaws.com", "content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    headers["x-amz-date"] = "20150830T123600Z"
    headers["authorization"] = (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )
    Sent(Signable("GET", "/", "Action=ListUsers&Version=2010-05-08", headers), b"").verify(
        replace(KEY, access_key_id="AKIDEXAMPLE"), now_s=1_440_938_160
    )


# --- what clients do that botocore does not ---------------------------------------------------------------------------


@pytest.mark.parametrize("sent_as", ["a=b:c&d=x+y", "a=b%3Ac&d=x%20y", "d=x%20y&a=b%3ac"])
def test_a_query_that_was_signed_strictly_may_be_sent_otherwise(sent_as: str) -> None:
    strict = signed("GET", "http://h/p?a=b%3Ac&d=x%20y")
    strict.but(query=sent_as).verify()


def test_a_plus_does_not_pass_for_a_plus_that_was_encoded() -> None:
    with pytest.raises(InvalidSignature):
        signed("GET", "http://h/p?a=1%2B1").but(query="a=1+1").verify()


def test_a_date_header_will_do() -> None:
    one = signed(headers=(("Date", "any"),))
    assert "x-amz-date" not in one.request.headers
    one.verify()


def test_a_payload_that_its_signer_left_out_is_not_looked_at() -> None:
    one = signed(headers=(("x-amz-content-sha256", sigv4.UNSIGNED_PAYLOAD),), body=b"this")
    replace(one, body=b"or that").verify()


def test_a_digest_that_is_no_signed_header_is_signed_all_the_same() -> None:
    one = signed(body=b"x").with_header("x-amz-content-sha256", hashlib.sha256(b"x").hexdigest())
    one.verify()
    with pytest.raises(InvalidSignature):
        one.with_header("x-amz-content-sha256", sigv4.UNSIGNED_PAYLOAD).verify()


# --- refused by name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_s", "message"), [
    (901, "Signature expired: 20260101T000000Z is now earlier than 20260101T000001Z (20260101T001501Z - 15 min.)"),
    (-901, "Signature not yet current: 20260101T000000Z is still later than 20251231T235959Z (20251231T234459Z + 15 min.)"),
])  # fmt: skip
def test_a_signature_out_of_its_time_is_refused_in_awss_words(late_s: int, message: str) -> None:
    one = signed()
    one.verify(now_s=NOW_S + late_s - late_s // abs(late_s))
    with pytest.raises(InvalidSignature) as refused:
        one.verify(now_s=NOW_S + late_s)
    assert message == str(refused.value)


def test_a_presigned_url_has_its_own_time() -> None:
    one = signed(presigned=True)
    one.verify(now_s=NOW_S + 3600)
    with pytest.raises(InvalidSignature, match="Signature expired"):
        one.verify(now_s=NOW_S + 3601)


STREAMED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


@pytest.mark.parametrize(("headers", "kind", "message"), [
    ({}, MissingAuthenticationToken, "Missing Authentication Token"),
    ({"authorization": "Bearer x"}, IncompleteSignature, "'Bearer'"),
    ({"authorization": "AWS4-ECDSA-P256-SHA256 Credential=x"}, IncompleteSignature, "'AWS4-ECDSA-P256-SHA256'"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request"}, IncompleteSignature, "requires 'Signature' parameter"),
    ({"authorization": "AWS4-HMAC-SHA256 nonsense"}, IncompleteSignature, "not a valid key=value pair"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x", "x-amz-date": "20260101T000000Z"}, IncompleteSignature, "exactly 5"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=é/20260101/r/s/aws4_request, SignedHeaders=host, Signature=x", "x-amz-date": "20260101T000000Z"}, IncompleteSignature, "exactly 5"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request, SignedHeaders=x, Signature=x", "x-amz-date": "20260101T000000Z"}, InvalidSignature, "'Host' must be"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request, SignedHeaders=host, Signature=x", "x-amz-date": "20260102T000000Z"}, InvalidSignature, "Date in Credential scope"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request, SignedHeaders=host, Signature=x", "x-amz-date": "yesterday"}, IncompleteSignature, "ISO-8601"),
    ({"authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/r/s/aws4_request, SignedHeaders=host, Signature=x", "date": "yesterday"}, IncompleteSignature, "'X-Amz-Date' or a 'Date'"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(headers: dict[str, str], kind: type[NotAuthenticated], message: str) -> None:
    with pytest.raises(kind) as refused:
        sigv4.claim_of("", {"host": "h", **headers})
    assert message in str(refused.value)
    assert 403 == refused.value.status


def test_bodies_that_are_signed_in_chunks_are_refused_by_name() -> None:
    with pytest.raises(InvalidSignature, match=STREAMED):
        signed(headers=(("x-amz-content-sha256", STREAMED),)).verify()


@pytest.mark.parametrize("presigned", [False, True])
def test_a_header_of_aws_that_was_added_afterwards_is_refused(presigned: bool) -> None:
    with pytest.raises(InvalidSignature, match="not signed: x-amz-invocation-type"):
        signed(presigned=presigned).with_header("x-amz-invocation-type", "Event").verify()


@pytest.mark.parametrize("change", [
    lambda query: query.replace("X-Amz-Expires=3600", "X-Amz-Expires=604801"),
    lambda query: query.replace("X-Amz-Expires=3600", "X-Amz-Expires=99999999999999999999"),
    lambda query: query + "&X-Amz-Credential=again",
    lambda query: query.replace("X-Amz-Date", "X-Amz-Dote"),
    lambda query: query.replace("AWS4-HMAC-SHA256", "AWS4-NONE"),
    lambda query: query.replace("lambda", "\udcff"),
])  # fmt: skip
def test_a_presigned_query_that_cannot_be_is_incomplete(change: object) -> None:
    one = signed(presigned=True)
    with pytest.raises(IncompleteSignature):
        one.but(query=change(one.request.query)).verify()  # type: ignore[operator]


def test_bytes_that_are_no_text_are_signed_like_others() -> None:
    request = Signable("GET", "/\udcff", "a=\udcff", {"host": "h"})
    digest = sigv4.EMPTY_SHA256
    added = sigv4.sign(KEY, request, region="r", service="lambda", now_s=NOW_S, payload_hash=digest)
    Sent(replace(request, headers={"host": "h", **added}), b"").verify()


def test_a_comparison_in_constant_time_decides() -> None:
    wrong = signed(key=replace(KEY, secret_access_key="another"))
    with pytest.raises(InvalidSignature):
        wrong.verify()
    with patch("hmac.compare_digest", return_value=True) as compare:
        wrong.verify()
    assert [64, 64] == [len(side) for side in compare.call_args.args]


def test_no_secret_is_in_a_repr() -> None:
    text = f"{SESSION!r} {sigv4.claim_of('', signed(key=SESSION).request.headers)!r}"
    assert KEY.secret_access_key not in text
    assert SESSION.session_token not in text
