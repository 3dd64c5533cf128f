"""What strangers may put into a signature: whatever it is, they are refused in words and nothing breaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime import sigv4
from glowplug.runtime.credentials import Identity
from glowplug.runtime.errors import NotAuthenticated
from glowplug.runtime.http.authentication import Authenticator
from glowplug.runtime.http.messages import Request
from glowplug.runtime.principal import Principal
from glowplug.runtime.sigv4 import Key
from glowplug.runtime.testing.clock import ManualClock

KEY = Key("AKIAEXAMPLE00000", "s3cr3t/s3cr3t+s3cr3t")
ANN = Principal(KEY.access_key_id, "000000000000", "arn:aws:iam::000000000000:user/ann", "AIDA", "ann")
DATE = "20260101T000000Z"  # ManualClock's

# What aiohttp lets through: header values are UTF-8 or Latin-1, a target may hold bytes that are neither
wire = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FFF, exclude_characters="\r\n"), max_size=20)
target = st.binary(max_size=20).map(lambda data: data.decode(errors="surrogateescape"))
near = st.sampled_from(
    [KEY.access_key_id, "lambda", "20260101", "aws4_request", "us-east-1", "/", ",", "=", ";", "host"]
)
pieces = st.lists(st.one_of(near, wire), max_size=8).map("".join)


class Keys:
    """One key."""

    def find(self, access_key_id: str) -> Identity | None:
        return Identity(ANN, KEY) if access_key_id == KEY.access_key_id else None


async def knock(query: str, headers: dict[str, str], path: str = "/p") -> None:
    request = Request("r", "GET", path, query, "localhost", headers, "HTTP/1.1", "127.0.0.1", 9000, 1.0)
    with pytest.raises(NotAuthenticated):
        await Authenticator(Keys(), ManualClock(), body_bytes=10).authenticate(request, "lambda")


@settings(max_examples=150, deadline=None)
@given(pieces, pieces, pieces, pieces, target)
async def test_any_authorization_header(credential: str, names: str, signature: str, date: str, path: str) -> None:
    known = f"{KEY.access_key_id}/20260101/us-east-1/lambda/aws4_request"
    for given_credential, given_names, given_date in ((credential, names, date), (known, f"host;{names}", DATE)):
        value = f"AWS4-HMAC-SHA256 Credential={given_credential}, SignedHeaders={given_names}, Signature={signature}"
        await knock("", {"host": "localhost", "authorization": value, "x-amz-date": given_date}, f"/{path}")
    await knock("", {"authorization": credential, "date": date, "x-amz-content-sha256": names})


@settings(max_examples=150, deadline=None)
@given(target, target, target, st.one_of(st.just("900"), target))
async def test_any_presigned_query(credential: str, names: str, signature: str, expires: str) -> None:
    known = f"{KEY.access_key_id}/20260101/us-east-1/lambda/aws4_request"
    for given_credential, given_names in ((credential, names), (known, f"host;{names}")):
        query = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={given_credential}&X-Amz-Date={DATE}"
            f"&X-Amz-Expires={expires}&X-Amz-SignedHeaders={given_names}&X-Amz-Signature={signature}"
        )
        await knock(query, {"host": "localhost"})


@pytest.mark.parametrize(
    "date", ["20260231T000000Z", "99999999T999999Z", "00000101T000000Z", "\u0662\u0660260101T000000Z", ""]
)
async def test_dates_that_are_none(date: str) -> None:
    scope = f"{KEY.access_key_id}/{date[:8]}/r/lambda/aws4_request"
    value = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x"
    await knock("", {"host": "localhost", "authorization": value, "x-amz-date": date})


async def test_a_thousand_slashes_take_no_time_to_speak_of_and_no_recursion() -> None:
    assert "/" == sigv4.canonical_path("/" * 16_000)
    assert "/" == sigv4.canonical_path("/a/.." * 4_000)
