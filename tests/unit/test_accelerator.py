"""The GPU of a node: none, found by its tool, and what functions get of it. No GPU is needed, nor touched."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from glowplug.runtime import accelerator
from glowplug.runtime.accelerator import Accelerator
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.devicespec import DeviceSpec
from glowplug.runtime.errors import StateError
from glowplug.runtime.process.zygotes import Zygotes
from glowplug.runtime.testing import MODEL, FakeWorker, ManualClock, Script, a_spec
from glowplug.snapshot.cuda import devices, mps
from glowplug.snapshot.errors import MpsUnavailable

ON_GPU = a_spec(models=(MODEL,), gpu=DeviceSpec("cuda"))


class Contexts:
    """In the place of the node's zygotes: makes workers with a context."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.environments: list[dict[str, str]] = []

    async def context(self, name: str, *, device: str, environment: dict[str, str]) -> FakeWorker:
        assert device == "cuda:0"
        self.environments.append(environment)
        return FakeWorker(name, Script(), self.clock, forked=False)


def a_gpu(why_none: str = "", **settings: Any) -> tuple[Accelerator, Contexts, ManualClock]:
    clock = ManualClock()
    contexts = Contexts(clock)
    config = NodeConfig(state=Path("/state"), cache=Path("/cache"), **settings)
    return Accelerator(config, cast(Zygotes, contexts), clock, tool="", why_none=why_none), contexts, clock


def a_tool(directory: Path, script: str) -> dict[str, str]:
    path = directory / devices.TOOL
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": str(directory)}


async def test_without_tool_and_driver_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    found = await accelerator.find({"PATH": str(tmp_path)}, tmp_path / "nvidia")
    assert ("", "this machine has no NVIDIA GPU") == found
    gpu, contexts, clock = a_gpu(found[1], mps=True)
    await gpu.start(NodeConfig(state=tmp_path, cache=tmp_path, mps=True), {"PATH": "/usr/bin"}, tuple)
    await gpu.changed([ON_GPU])
    await clock.advance(600)
    assert (False, [], "cpu", {}) == (
        gpu.present,
        contexts.environments,
        gpu.device_of(ON_GPU),
        gpu.environment(ON_GPU),
    )
    assert "cuda: this machine has no NVIDIA GPU" == gpu.refusal(ON_GPU)
    assert "" == gpu.refusal(a_spec(models=(MODEL,)))
    await gpu.close()


async def test_a_gpu_is_found_by_its_tool_and_a_tool_that_fails_finds_none(tmp_path: Path) -> None:
    environ = a_tool(tmp_path, 'echo "100, 200, L4, 8.9, 550"; echo "1, 2, T4, 7.5, 550"')
    assert (str(tmp_path / devices.TOOL), "") == await accelerator.find(environ)
    a_tool(tmp_path, "echo 'No devices were found'; exit 6")
    assert "nvidia-smi failed with status 6: No devices were found" == (await accelerator.find(environ))[1]


async def test_contexts_are_kept_while_a_function_can_use_one() -> None:
    gpu, contexts, clock = a_gpu(context_pool=2)
    await gpu.changed([a_spec(models=(MODEL,), gpu=DeviceSpec("cpu"))])
    await clock.advance(100)
    assert [] == contexts.environments
    await gpu.changed([ON_GPU])
    await clock.advance(100)
    assert ([devices.ORDER] * 2, 2, "") == (contexts.environments, gpu.contexts.idle, gpu.obstacle(ON_GPU))
    await gpu.changed([])
    await clock.advance(1)
    assert 0 == gpu.contexts.idle
    await gpu.close()


class Supervised:
    """In the place of ``Mps``: ready or not."""

    phase = mps.Phase.DRAINING
    why = "a client's fatal fault; 2 clients have to exit"
    welcome = False

    def environment(self, limits: mps.Limits) -> dict[str, str]:
        return mps.client_environment(Path("/m/pipe"), Path("/m/log"), limits)

    def stop(self) -> None:
        self.phase = mps.Phase.STOPPED


async def test_under_mps_clients_get_its_place_and_wait_until_they_are_welcome() -> None:
    gpu, contexts, clock = a_gpu()
    supervised = Supervised()
    gpu._mps = cast(mps.Mps, supervised)
    limited = a_spec(models=(MODEL,), gpu=DeviceSpec("cuda", 3000, thread_percent=25))
    apart = a_spec(models=(MODEL,), gpu=DeviceSpec("cuda", mps=False))
    assert "0=3000M" == gpu.environment(limited)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"]
    assert devices.ORDER == gpu.environment(apart)
    assert ["", True, True] == [gpu.obstacle(ON_GPU), "limits" in gpu.obstacle(limited), "off" in gpu.obstacle(apart)]
    await gpu.changed([ON_GPU])
    await gpu.welcome(apart)
    waiting = asyncio.create_task(gpu.welcome(ON_GPU))
    await clock.advance(accelerator.MPS_WAIT_S + 1)
    with pytest.raises(MpsUnavailable, match="have to exit"):
        await waiting
    assert ([], "2 clients have to exit" in gpu.contexts.refusal) == (contexts.environments, True)
    supervised.welcome = True
    await gpu.welcome(ON_GPU)
    await clock.advance(100)
    assert "/m/pipe" == contexts.environments[0]["CUDA_MPS_PIPE_DIRECTORY"]
    await gpu.close()
    assert mps.Phase.STOPPED is supervised.phase


async def test_a_fault_ends_clients_and_nobody_else() -> None:
    gpu, _, clock = a_gpu()
    workers = [FakeWorker(name, Script(), clock) for name in ("client", "foreign", "apart")]
    specs = [ON_GPU, ON_GPU, a_spec(models=(MODEL,), gpu=DeviceSpec("cuda", mps=False))]
    gpu._clients = lambda: list(zip(specs, workers, strict=True))
    await gpu.changed([ON_GPU])
    await clock.advance(10)
    gpu._end_clients((workers[0].pid, workers[2].pid))
    await clock.advance(0)
    assert [False, True, True] == [worker.alive for worker in workers]
    assert 0 == gpu.contexts.idle
    gpu._end_clients(None)
    await clock.advance(0)
    assert [False, False, True] == [worker.alive for worker in workers]
    await gpu.close()


async def test_auto_is_the_cpu_until_the_operator_says_otherwise() -> None:
    anywhere = a_spec(models=(MODEL,))
    devices_of = []
    for settings in ({}, {"device": "cuda"}):
        gpu, _, _ = a_gpu(**settings)
        devices_of.append([gpu.device_of(spec) for spec in (anywhere, ON_GPU)])
        await gpu.close()
    assert [["cpu", "cuda:0"], ["cuda:0", "cuda:0"]] == devices_of


def test_a_setting_that_cannot_be_is_named() -> None:
    environ = {"GLOWPLUG_CONTEXT_POOL": "3", "GLOWPLUG_CONTEXT_POOL_MIB": "900", "GLOWPLUG_MPS": "1", "HOME": "/h"}
    config = NodeConfig.from_env(environ)
    assert (3, 900, True) == (config.context_pool, config.context_pool_mib, config.mps)
    with pytest.raises(StateError, match="GLOWPLUG_CONTEXT_POOL: -1 is not"):
        NodeConfig.from_env({**environ, "GLOWPLUG_CONTEXT_POOL": "-1"})
    assert "cuda" == NodeConfig.from_env({**environ, "GLOWPLUG_DEVICE": "cuda"}).device
    with pytest.raises(StateError, match="GLOWPLUG_DEVICE: 'gpu' does not match"):
        NodeConfig.from_env({**environ, "GLOWPLUG_DEVICE": "gpu"})
