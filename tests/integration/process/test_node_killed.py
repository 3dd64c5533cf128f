"""A node that is killed leaves nothing: its processes notice by themselves, and the next start sweeps the records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glowplug.runtime.process.sweep import sweep

NODE = """
import asyncio, sys
from pathlib import Path
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.process import wire
from glowplug.runtime.process.zygotes import Zygotes

async def main(state):
    config = NodeConfig(state=state, cache=state / "cache", preload_torch=False)
    zygotes = Zygotes(config, on_stray_log=lambda name, data: sys.stderr.buffer.write(data))
    await zygotes.start()
    zygote = await zygotes.function_zygote("z1", lean=True)
    await zygote.load(wire.Load("f", "h.handler", str(state / "code"), [], {}, [], "on-demand", True, False))
    start = wire.Start("i1", {}, True, 0, 128, "$LATEST", "group", "stream", 1)
    forked = await zygote.fork("w1")
    await forked.start(start)
    executed = await zygotes.execute("e1", environment={})
    await executed.load(wire.Load("f", "h.handler", str(state / "code"), [], {}, [], "on-demand", True, False))
    await executed.start(start)
    invoke = wire.Invoke("r1", [b"{}"], 2**42, "arn", "", b"", b"", 1)
    calls = [asyncio.create_task(worker.invoke(invoke)) for worker in (forked, executed)]
    while not all(b"hanging" in worker.take_log() for worker in (forked, executed)):
        await asyncio.sleep(0.01)
    print(zygote.pid, forked.pid, executed.pid, flush=True)
    await asyncio.wait(calls)

asyncio.run(main(Path(sys.argv[1])))
"""
HANDLER = "import time\ndef handler(event, context):\n    print('hanging', flush=True)\n    time.sleep(600)\n"

Alive = Callable[[int], bool]


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, list[int]]:
    """Run a node with a hanging handler in a forked and in an exec'ed worker; kill the node."""
    for name in ("code", "snapshots", "cache/blobs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "code" / "h.py").write_text(HANDLER)
    node = subprocess.Popen([sys.executable, "-c", NODE, str(tmp_path)], stdout=subprocess.PIPE)
    assert node.stdout is not None
    pids = [int(word) for word in node.stdout.readline().split()]
    node.kill()
    node.wait()
    node.stdout.close()
    return tmp_path / "run" / "processes", pids


def test_processes_of_a_killed_node_end_by_themselves_also_in_a_handler_that_hangs(
    killed: tuple[Path, list[int]], alive: Alive
) -> None:
    records, pids = killed
    recorded = [int(name) for name in os.listdir(records)]
    assert set(pids) < set(recorded)  # and the base zygote
    deadline_s = time.monotonic() + 10.0
    while any(alive(pid) for pid in recorded) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert [] == [pid for pid in recorded if alive(pid)]
    assert ([], []) == (sweep(records), os.listdir(records))
