"""PutEvents and Publish as SDKs send them: what a refusal looks like."""

from __future__ import annotations

from xml.dom.minidom import parseString

import pytest

from glowplug.runtime.errors import GlowplugError, InvalidParameter, NotSupported, ResourceNotFound
from glowplug.runtime.http.awsevents import refusal_of


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
