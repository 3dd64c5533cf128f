"""A real node that takes its machine for one with a GPU, by a stand-in for ``nvidia-smi``; and one that does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Handler: index.handler, Runtime: python3.11}
Metadata:
  Glowplug: {Device: cuda, HoldTimeoutSeconds: 1}
Resources:
  Small:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {VramMiB: 1000}}
    Properties:
      FunctionName: small
      InlineCode: |
        import os
        def handler(event, context):
            return os.environ["CUDA_DEVICE_ORDER"]
  Large:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {VramMiB: 8000}}
    Properties: {FunctionName: huge, InlineCode: "def handler(event, context): return 1"}
"""
LISTING = "6000, 23034, NVIDIA L4, 8.9, 550.54.15"


def test_a_function_on_the_gpu_is_admitted_started_and_explained(serving: Any, tmp_path: Path) -> None:
    """Without CUDA behind it no context can be made: the pool says why, and functions start without one."""
    template, tool = tmp_path / "template.yaml", tmp_path / "nvidia-smi"
    template.write_text(TEMPLATE)
    tool.write_text(f"#!/bin/sh\necho '{LISTING}'\n")
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with serving(template, tmp_path / "state", PATH=path, GLOWPLUG_PRELOAD_TORCH="0") as node:
        status, headers, answer = node.request("POST", "/2015-03-31/functions/small/invocations", {})
        assert (200, "PCI_BUS_ID") == (status, answer)
        [start] = node.admin("GET", "starts")["starts"]
        assert ("park and fork", "cuda:0", "ready") == (start["way"], start["device"], start["outcome"])
        assert "memory" == start["phases"][0]["name"]
        said = node.admin("GET", f"explain/{headers['x-amzn-requestid']}")
        assert "no context from the pool: none is ready" in said
        _, _, fault = node.request("POST", "/2015-03-31/functions/huge/invocations", {})
        assert "Glowplug.DeviceFull" == fault["errorType"]
        assert "of the 23034 MiB of NVIDIA L4 6000 are free" in fault["errorMessage"]
        while "no CUDA context could be made: Glowplug.ContextRefused: cuda:0: " not in node.log.read_text():
            time.sleep(0.05)  # the worker that should make it imports torch first


def test_without_a_gpu_a_function_that_needs_one_is_refused_at_its_line(misbehaving: Any, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    done = subprocess.run(
        [sys.executable, "-m", "glowplug.deploy.cli", "deploy", str(template), "--endpoint", misbehaving.endpoint],
        env={**os.environ, "GLOWPLUG_PRELOAD_TORCH": "0"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert 1 == done.returncode
    assert "template.yaml:5: " in done.stderr
    assert "Glowplug.Device: cuda: this machine has no NVIDIA GPU" in done.stderr
