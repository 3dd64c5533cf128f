"""Workers on another Python than the node's: whatever second one this machine has, else one in an environment of its
own, which has none of the node's packages either."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime import interpreters
from glowplug.runtime.interpreters import OWN, Interpreter, Interpreters, note
from glowplug.runtime.testing import MODEL, a_spec

SOURCE = """
import json, sys

def handler(event, context):
    import msgpack
    try:
        import aiohttp
        others = "the node's"
    except ImportError:
        others = ""
    return [f"python{sys.version_info.major}.{sys.version_info.minor}", sys.executable, others]
"""


@pytest.fixture
async def second(tmp_path: Path) -> Interpreter:
    """Return an interpreter that is not the one that runs the tests."""
    found = await interpreters.find(tmp_path / "python", (), os.environ)
    for runtime in found.runtimes:
        return found.of(a_spec(runtime=runtime))  # type: ignore[return-value]  # it has just been found
    home = tmp_path / "venv"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    packages = interpreters._prepare(tmp_path / "python")
    prefixes = (str(home), sys.base_prefix)
    return Interpreter(OWN, str(home / "bin" / "python"), packages, (packages, *prefixes))


@pytest.mark.parametrize("uid", [-1, pytest.param(200_126, marks=pytest.mark.skipif(os.geteuid() != 0, reason="root"))])
async def test_a_worker_runs_on_it(
    node: Any, frames: tuple[Callable[..., Any], ...], second: Interpreter, uid: int
) -> None:
    start, invoke = frames
    node.module(SOURCE)
    worker = await node.zygotes.execute("e1", environment={}, uid=uid, gid=uid, interpreter=second)
    await worker.load(node.load())
    await worker.start(start(restored=False))
    outcome = await worker.invoke(invoke())
    assert not outcome.failed, outcome
    version, executable, others = json.loads(outcome.results[0])
    assert (second.runtime, "") == (version, others), "it has our two packages and none of the node's"
    assert executable == second.path or second.runtime != OWN


async def test_what_cannot_import_a_worker_is_none_and_one_that_was_configured_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, own = tmp_path / "python3.12", Path(sys.executable)
    broken.write_text("#!/bin/sh\necho 'no module named anything' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = await interpreters.find(tmp_path / "python", [broken, own, tmp_path / "missing"], {"PATH": ""})
    assert [] == list(found.runtimes), "the node's own is no other one"
    assert f"{broken} cannot run functions: no module named anything" in caplog.text
    assert f"{tmp_path}/missing cannot run functions: " in caplog.text


def test_the_links_are_those_of_the_installation(tmp_path: Path) -> None:
    packages = Path(interpreters._prepare(tmp_path / "python"))
    (packages / "msgpack").unlink()
    (packages / "msgpack").symlink_to("/nowhere")
    assert packages == Path(interpreters._prepare(packages))
    assert {"glowplug", "msgpack"} == {entry.name for entry in packages.iterdir() if entry.is_symlink()}
    assert (packages / "msgpack" / "fallback.py").exists()


def test_functions_with_models_stay_on_the_nodes_own() -> None:
    other = Interpreter("python3.99", "/usr/bin/python3.99", "/p", ())
    found = Interpreters([other, Interpreter("python3.99", "/second", "/p", ())])
    plain, model = a_spec(runtime="python3.99"), a_spec(runtime="python3.99", models=(MODEL,))
    assert (other, None, None) == (found.of(plain), found.of(model), found.of(a_spec(runtime="python3.98")))
    assert "Runtime python3.99 runs on /usr/bin/python3.99" == other.reason


def test_what_is_said_of_a_runtime_that_is_not_had() -> None:
    here = OWN.replace("python", "Python ")
    assert ["", "", f"f: Runtime python3.98 runs on {here} here"] == [
        note("f", runtime, ("python3.99",), models=False) for runtime in (OWN, "python3.99", "python3.98")
    ]
    assert f"f: Runtime python3.99 runs on {here} here, as every function with a model" == note(
        "f", "python3.99", ("python3.99",), models=True
    )
