"""PutEvents and Publish as SDKs send them: what a refusal looks like."""

from __future__ import annotations

from typing import Any
from xml.dom.minidom import parseString

import pytest

from glowplug.runtime.errors import GlowplugError, InvalidParameter, NotSupported, ResourceNotFound
from glowplug.runtime.http.awsevents import AwsEvents, refusal_of
from glowplug.runtime.http.messages import Reply, Request


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotSupported("\x01\x00 <&> is not supported"), "InvalidAction"),
        (ResourceNotFound("Topic does not exist: \ud800"), "NotFound"),
        (InvalidParameter("\x0b"), "InvalidParameter"),
    ],
)
def test_a_refusal_is_xml_whatever_the_request_said(error: GlowplugError, code: str) -> None:
    """A character that XML does not know is replaced; a client could not read the code otherwise."""
    document = parseString(refusal_of("sns", error, "r-1").body)
    (found,) = document.getElementsByTagName("Code")
    assert code == found.firstChild.data  # type: ignore[union-attr]


async def test_who_asks_for_a_queue_in_sqss_old_protocol_is_told_which_one_is_spoken() -> None:
    """The form is SNS's here, and "topics are those of templates" alone would lead nowhere."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b"Action=SendMessage&QueueUrl=x&MessageBody=y"
    request = Request("r", "POST", "/", "", "localhost", form, "HTTP/1.1", "127.0.0.1", 9000, 0.0, body=body)
    unused: Any = None
    reply: Reply = await AwsEvents(unused, unused).answer(request, "sns")
    assert (400, True) == (reply.status, b"SQS is asked in JSON" in reply.body)
