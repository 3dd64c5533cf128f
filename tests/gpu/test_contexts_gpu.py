"""Contexts, the device's memory and MPS on a real GPU: ``pytest -m gpu``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glowplug.runtime.clock import SystemClock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.process import wire
from glowplug.runtime.process.contextpool import ContextPool, Pacing
from glowplug.runtime.process.zygotes import Zygotes
from glowplug.snapshot.cuda import context, devices, mps
from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.plan import Plan
from glowplug.snapshot.restore import restore

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not devices.tool(), reason="no nvidia-smi")]

USER = 200_127 if os.getuid() == 0 else -1
HANDLER = """
import os
import torch

def handler(event, context):
    there = torch.arange(1000, device="cuda:0")
    return {"sum": int(there.sum()), "uid": os.getuid(), "initialised": torch.cuda.is_initialized()}
"""


def test_the_listing_agrees_with_torch() -> None:
    listed = devices.listing(devices.tool())
    code = "import torch; free, total = torch.cuda.mem_get_info(0); print(torch.cuda.get_device_name(0), total >> 20, sep='|')"
    asked = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **devices.ORDER}, capture_output=True, text=True, check=True
    )
    name, total_mib = asked.stdout.strip().split("|")
    assert name == listed[0].name
    if listed[0].total_mib is not None:
        assert abs(int(total_mib) - listed[0].total_mib) < 0.1 * listed[0].total_mib


async def test_a_pooled_context_serves_a_function_as_its_user(tmp_path: Path) -> None:
    """The one thing that no stand-in can show: a context that was made as root works after setresuid."""
    state = tmp_path / "state"
    code = state / "code" / "f"
    for directory in (code, state / "snapshots", state / "cache" / "blobs"):
        directory.mkdir(parents=True)
    (code / "h.py").write_text(HANDLER)
    zygotes = Zygotes(
        NodeConfig(state=state, cache=state / "cache", preload_torch=False),
        on_stray_log=lambda name, data: None,
        environ=os.environ,
    )
    await zygotes.start()
    try:
        pool = ContextPool(
            lambda name: zygotes.context(name, device="cuda:0", environment=devices.ORDER),
            Pacing(floor=1, budget_mib=2048),
            SystemClock(),
        )
        pool.want(True)
        while pool.idle == 0 and not pool.refusal:
            await SystemClock().sleep(0.1)
        assert pool.refusal == ""
        worker = pool.take()
        assert worker is not None
        await worker.adopt(wire.Adopt(USER, USER))
        names = {"PATH": os.environ["PATH"], "HOME": "/tmp", **devices.ORDER}
        await worker.load(wire.Load("f", "h.handler", str(code), [], names, [], "on-demand", False, False, "cuda:0"))
        await worker.start(wire.Start("i1", {}, False, 0, 128, "$LATEST", "/aws/lambda/f", "stream", 1))
        answer = await worker.invoke(wire.Invoke("r1", [b"{}"], 2**42, "arn:aws:lambda:f", "", b"", b"", 1))
        uid = max(USER, 0) or os.getuid()
        assert f'{{"sum": 499500, "uid": {uid}, "initialised": true}}'.encode() == answer.results[0]
        await pool.close()
    finally:
        await zygotes.close()


def test_eager_gives_the_same_on_the_device(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    definition = ModelDefinition("net", lambda files: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8)))
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    engine = restore(definition, files, Plan(device="cuda:0")).engine
    engine.open(1)
    given = torch.randn(16, 64)
    found = engine.run((given,), {})
    assert "cpu" == found.device.type
    assert torch.allclose(net.eval()(given), found, atol=1e-3, rtol=1e-3)


def test_making_a_context_twice_is_making_it_once() -> None:
    context.make("cuda:0")
    context.make("cuda:0")
    assert torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


@pytest.fixture
def control() -> Iterator[mps.Control]:
    program = mps.program()
    if not program:
        pytest.skip(f"no {mps.PROGRAM}")
    with tempfile.TemporaryDirectory(prefix="mps-", dir="/tmp") as directory:  # a socket's path may have 107 bytes
        os.chmod(directory, 0o755)
        made = mps.Control(program, Path(directory), dict(os.environ), multiuser=os.getuid() == 0)
        yield made
        made.end()


def test_a_client_of_the_real_daemon_is_seen(control: mps.Control) -> None:
    supervised = mps.Mps(control, end_clients=lambda pids: None)
    supervised.start(0.0)
    assert mps.Action.NOTHING is supervised.look(0.0)
    assert supervised.welcome
    code = "import sys, torch; torch.ones(1, device='cuda:0'); print('there', flush=True); sys.stdin.read()"
    environ = {**os.environ, **supervised.environment(mps.Limits(thread_percent=50, memory_mib=2048))}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert b"there\n" == client.stdout.readline()
        seen = control.seen()
        assert (True, mps.Server.ACTIVE, (client.pid,)) == (seen.answers, seen.server, seen.clients)
        client.kill()
    supervised.stop()
    assert not control.seen().answers
