"""A worker starts by importing; every module it drags in is paid at each start by exec, and held by each zygote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
TOO_HEAVY = (
    "aiohttp asyncio boto3 click concurrent.futures email fsspec http.client logging.config multiprocessing numpy rich "
    "safetensors sqlite3 ssl torch urllib.request uvloop yaml"
).split()


@pytest.mark.parametrize(
    "module", ["glowplug.runtime.worker.loop", "glowplug.runtime.process.zygote", "glowplug.runtime.process.wire"]
)
def test_a_child_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(set({TOO_HEAVY!r}) & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (0, "", "") == (ran.returncode, ran.stderr, ran.stdout.strip())


def test_what_a_node_and_the_baker_of_an_onnx_file_ask_of_snapshots_needs_no_torch() -> None:
    program = (
        "import sys, glowplug.snapshot.engines.table, glowplug.snapshot.bakeoff, glowplug.snapshot.reuse, "
        "glowplug.snapshot.trial; print(*sorted({'torch', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (0, "", "") == (ran.returncode, ran.stderr, ran.stdout.strip())


def test_the_command_line_imports_neither_the_translator_nor_the_node_before_it_must() -> None:
    program = (
        "import sys, glowplug.deploy.cli, glowplug.deploy.apply; "
        "print(*sorted({'samtranslator', 'boto3', 'aiohttp', 'torch'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (0, "", "") == (ran.returncode, ran.stderr, ran.stdout.strip())
