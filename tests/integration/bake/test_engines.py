"""What a worker does with a snapshot: bind it, fork, check it, run it, refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("engine", ["eager", "aot_inductor"])
def test_bind_leaves_the_process_fit_for_a_fork(run: Callable[..., Any], engine: str) -> None:
    answer = run(
        "report = models.bind([plan])\n"
        "tasks = len(os.listdir('/proc/self/task'))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    checked = models.check(2)\n"
        "    os._exit(0 if checked.recorded and checked.worst_error < 1e-4 else 1)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "print(json.dumps([report.engines[''], tasks, status]))",
        engine=engine,
    )
    assert [engine, 1, 0] == answer


def test_a_plain_build_agrees_with_the_engine_on_sizes_it_never_saw(run: Callable[..., Any]) -> None:
    answer = run(
        "ids = [torch.randint(0, 50, size) for size in ((1, 1), (1, 5), (3, 31), (4, 1))]\n"
        "eager = [decoder.decoder(each) for each in ids]\n"
        "models.bind([plan])\n"
        "engine = [decoder.decoder(ids=each) for each in ids]\n"
        "worst = max(float((a['logits'] - b['logits']).abs().max()) for a, b in zip(eager, engine))\n"
        "print(json.dumps([decoder.decoder.engine, worst]))",
        engine="aot_inductor",
    )
    assert "aot_inductor" == answer[0]
    assert answer[1] < 1e-4


def test_the_engine_never_builds_the_model(run: Callable[..., Any]) -> None:
    answer = run(
        "def refuse(files): raise AssertionError('built')\n"
        "models.find('').definition = __import__('dataclasses').replace(models.find('').definition, build=refuse)\n"
        "models.bind([plan])\n"
        "print(json.dumps(decoder.handler({'ids': [[1, 2, 3]]}, None)))",
        engine="aot_inductor",
    )
    assert 3 == len(answer[0])


def test_a_call_that_the_engine_does_not_take_runs_eagerly(run: Callable[..., Any]) -> None:
    answer = run(
        "models.bind([plan])\n"
        "ids = torch.tensor([[1, 2, 3]])\n"
        "warm, cool = decoder.decoder(ids)['logits'], decoder.decoder(ids, temperature=2.0)['logits']\n"
        "print(json.dumps(float((warm - 2 * cool).abs().max())))",
        engine="aot_inductor",
    )
    assert answer < 1e-4


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("manifest['fingerprint']['cpu'].append('avx1024')", "FingerprintMismatch", "this CPU lacks avx1024"),
        ("manifest['fingerprint']['torch'] = '2.12.0'", "FingerprintMismatch", "torch 2.12.0, here"),
        ("manifest['engines']['aot_inductor']['constants'].popitem()", "TensorUnbound", "model.so needs"),
        ("manifest['engines'].pop('aot_inductor')", "EngineUnavailable", "has no aot_inductor engine"),
        ("manifest['signature']['inputs'] = 3", "SnapshotCorrupt", "signature"),
        ("(directory / 'model.so').write_bytes(b'no library')", "SnapshotCorrupt", "model.so: cannot be loaded"),
        ("(directory / 'extra.safetensors').write_bytes(b'no tensors')", "WeightsError", "extra.safetensors: "),
        ("(directory / 'extra.safetensors').unlink()", "WeightsError", "extra.safetensors: "),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_by_name(
    run: Callable[..., Any], decoder: Any, tmp_path: Path, damage: str, error: str, message: str
) -> None:
    copy = Path(shutil.copytree(decoder.snapshot, tmp_path / "damaged"))
    answer = run(
        f"manifest = json.loads(plan['manifest'])\n{damage}\n"
        "plan['manifest'] = json.dumps(manifest).encode()\n"
        "try:\n    models.bind([plan])\n"
        "except Exception as error:\n"
        "    print(json.dumps([[kind.__name__ for kind in type(error).__mro__], str(error)]))",
        engine="aot_inductor",
        snapshot=copy,
    )
    assert error in answer[0]
    assert message in answer[1]


def test_an_engine_with_other_outputs_fails_its_check(run: Callable[..., Any], decoder: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(decoder.snapshot, tmp_path / "damaged"))
    recorded = load_file(copy / "check.safetensors")
    save_file({**recorded, "output.0": recorded["output.0"] + 0.01}, copy / "check.safetensors")
    answer = run(
        "models.bind([plan])\n"
        "try:\n    models.check(1)\n"
        "except Exception as error:\n    print(json.dumps([type(error).__name__, str(error)]))",
        engine="aot_inductor",
        snapshot=copy,
    )
    assert "CheckFailed" == answer[0]
    assert answer[1].startswith("model decoder, aot_inductor engine: output 0: value")
