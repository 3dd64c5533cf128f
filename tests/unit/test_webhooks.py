"""Which URLs a caller may have results sent to: the node must not be made to call what its caller cannot."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.catalog import Url
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http.deferred import Deferred
from glowplug.runtime.http.messages import Request
from glowplug.runtime.http.webhooks import checked_webhook
from glowplug.runtime.principal import Principal
from glowplug.runtime.testing import FakeAcceptor

METADATA = "http://169.254.169.254/latest/meta-data/"
OPERATOR = Principal("AKIA1", "0" * 12, "arn:operator", "AIDA1", "operator", frozenset({"control"}))
CALLER = Principal("AKIA2", "0" * 12, "arn:web", "AIDA2", "web", frozenset({"invoke", "queue"}))
UNUSED: Any = None


@pytest.mark.parametrize("principal", [None, OPERATOR])
def test_who_may_control_the_node_names_any_host(principal: Principal | None) -> None:
    """Without credentials everybody may; and code that is deployed calls what it likes."""
    assert METADATA == checked_webhook(METADATA, principal, ())
    assert "" == checked_webhook("", principal, ())


def test_who_may_only_invoke_names_none_and_is_told_which_setting_it_is() -> None:
    with pytest.raises(InvalidParameter, match=r"169\.254\.169\.254.*arn:web.*GLOWPLUG_WEBHOOK_HOSTS"):
        checked_webhook(METADATA, CALLER, ())
    assert "" == checked_webhook("", CALLER, ())


@pytest.mark.parametrize("principal", [None, OPERATOR, CALLER])
def test_hosts_that_are_listed_may_be_named_by_all_and_no_others(principal: Principal | None) -> None:
    assert "https://hooks.example/x" == checked_webhook("https://hooks.example/x", principal, ("hooks.example",))
    with pytest.raises(InvalidParameter, match=r"'169\.254\.169\.254' is none of the hosts in GLOWPLUG_WEBHOOK_HOSTS"):
        checked_webhook(METADATA, principal, ("hooks.example",))


@pytest.mark.parametrize(
    ("url", "hosts", "allowed"),
    [
        ("https://Hooks.Example/", ("hooks.example",), True),
        ("https://hooks.example./", ("hooks.example",), True),
        ("https://hooks.example:8443/", ("hooks.example",), True),
        ("https://hooks.example/", ("hooks.example:443",), True),
        ("http://hooks.example/", ("hooks.example:443",), False),
        ("https://hooks.example:8443/", ("hooks.example:443",), False),
        ("http://hooks.example/", ("other.example", "hooks.example"), True),
        ("http://a.hooks.example/", ("hooks.example",), False),
        ("http://a.b.hooks.example/", ("*.hooks.example",), True),
        ("http://hooks.example/", ("*.hooks.example",), False),
        ("http://evilhooks.example/", ("*.hooks.example",), False),
        ("http://hooks.example.evil/", ("hooks.example", "*.hooks.example"), False),
        ("http://[::1]:90/", ("[::1]:90",), True),
        ("http://[::1]:91/", ("[::1]:90",), False),
        ("http://2130706433/", ("127.0.0.1",), False),
        (METADATA, ("*",), True),
        (METADATA, ("none",), False),
    ],
)
def test_what_a_listed_host_is(url: str, hosts: tuple[str, ...], allowed: bool) -> None:
    if allowed:
        assert url == checked_webhook(url, CALLER, hosts)
    else:
        with pytest.raises(InvalidParameter, match="GLOWPLUG_WEBHOOK_HOSTS"):
            checked_webhook(url, CALLER, hosts)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://hooks.example:0/",
        "http://hooks.example:99999/",
        "http://[::1/",
        "http://user@hooks.example/",
        "http://169.254.169.254@hooks.example/",
        "http://169.254.169.254\\@hooks.example/",
        "http://hooks.example\\.evil/",
        "http://hooks.example /",
        "http://hooks\t.example/",
        "http://hooks。example/",
        "http://hooks.example/" + "x" * 2048,
    ],
)
def test_what_is_no_url_or_could_be_read_as_two_is_refused_for_everybody(url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"X-Glowplug-Webhook: .* is not an http or https URL, with no name"):
        checked_webhook(url, OPERATOR, ("*",))


async def test_a_request_to_a_function_url_names_no_webhook() -> None:
    """Whatever it says: its caller is the public."""
    events = FakeAcceptor()
    headers = {"prefer": "respond-async", "x-glowplug-webhook": METADATA}
    request = Request("r", "POST", "/_url/open/", "", "localhost", headers, "HTTP/1.1", "192.0.2.1", 80, 0.0)
    for public in (True, False):
        url = Url("open", "f", "$LATEST", "NONE", "BUFFERED")
        await Deferred(events, UNUSED, b"key", public=public).accept(request, url, "/", b"{}", "Root=1")
    assert ["", ""] == [event.webhook for event, _ in events.accepted]
