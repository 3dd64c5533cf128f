"""Which directories must be veiled for a function's user to reach what it needs."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.process.veil import Veil, plan_exposure

CLOSED = {"/root", "/var/lib/glowplug", "/home/me"}


def mode_of(directory: str) -> int:
    return 0o40700 if directory in CLOSED else 0o40755


@pytest.mark.parametrize(
    ("paths", "veils"),
    [
        ([], []),
        (["/usr/lib/python3.11", "/opt/venv"], []),
        (["/root/.pyenv/versions/3.11"], [Veil("/root", ("/root/.pyenv/versions/3.11",))]),
        (["/root"], []),
        (
            ["/var/lib/glowplug/code", "/root/a", "/var/lib/glowplug/cache/blobs", "/usr/bin"],
            [
                Veil("/root", ("/root/a",)),
                Veil("/var/lib/glowplug", ("/var/lib/glowplug/cache/blobs", "/var/lib/glowplug/code")),
            ],
        ),
        (["/root/a/b", "/root/a", "/root/a"], [Veil("/root", ("/root/a",))]),
        (["/root/a", "/root/ab"], [Veil("/root", ("/root/a", "/root/ab"))]),
    ],
)
def test_plan(paths: Any, veils: Any) -> None:
    assert veils == plan_exposure(paths, mode_of)


def test_the_topmost_closed_directory_is_veiled() -> None:
    modes = {"/a": 0o755, "/a/b": 0o700, "/a/b/c": 0o700}

    assert [Veil("/a/b", ("/a/b/c/d",))] == plan_exposure(["/a/b/c/d"], modes.__getitem__)


def test_search_permission_alone_is_enough() -> None:
    assert [] == plan_exposure(["/a/b"], {"/a": 0o711}.__getitem__)
