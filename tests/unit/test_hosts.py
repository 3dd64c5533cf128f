"""Hosts and origins: who is served by which listener (design section 11)."""

from __future__ import annotations

import pytest

from glowplug.runtime.errors import Forbidden
from glowplug.runtime.http.hosts import ControlGuard, hostname, is_loopback, url_id_of_host

GUARD = ControlGuard(("gpu-box.lan",))


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("localhost:9000", "localhost"),
        ("LocalHost.", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:9000", "::1"),
        ("[::1]", "::1"),
        ("[::1]evil", ""),
        ("[::1", ""),
        ("localhost:9000@evil.example", ""),
        ("evil.example:80:80", ""),
        ("", ""),
    ],
)
def test_hostname(authority: str, expected: str) -> None:
    assert expected == hostname(authority)


@pytest.mark.parametrize(
    ("host", "url_id"),
    [
        ("echo.lambda-url.us-east-1.on.aws", "echo"),
        ("my-fn-live.lambda-url.us-east-1.localhost", "my-fn-live"),
        ("echo.lambda-url", "echo"),
        ("localhost", None),
        ("lambda-url.us-east-1.on.aws", None),
        ("a.b.lambda-url.us-east-1.on.aws", None),
        ("echo.lambda-urlx.example", None),
    ],
)
def test_function_hosts(host: str, url_id: str | None) -> None:
    assert url_id == url_id_of_host(host)


@pytest.mark.parametrize(
    "authority", ["localhost:9000", "127.0.0.1:1", "[::1]:9000", "gpu-box.lan:9000", "GPU-BOX.lan"]
)
def test_control_answers_its_own_names_at_any_port(authority: str) -> None:
    GUARD.check_host(hostname(authority))


def test_a_name_that_is_none_does_not_let_in_hosts_that_are_none() -> None:
    with pytest.raises(Forbidden):
        ControlGuard(("::1", "a:b:c")).check_host(hostname("evil.example:80:80"))


@pytest.mark.parametrize("authority", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.2", "gpu-box.lan.evil"])
def test_control_refuses_other_hosts(authority: str) -> None:
    with pytest.raises(Forbidden):
        GUARD.check_host(hostname(authority))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin", "origin": "http://localhost:9000"},
        {"origin": "https://localhost:9000"},
    ],
)
def test_our_own_pages_and_programs_pass(headers: dict[str, str]) -> None:
    GUARD.check_origin("localhost:9000", headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:9000.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "something-new"},
    ],
)
def test_what_a_browser_marks_as_foreign_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        GUARD.check_origin("localhost:9000", headers)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert expected == is_loopback(host)
