"""A baker to run, and a decoder that it has baked once for all tests of this folder (half a minute of compiling)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bakes import one_core
from safetensors.torch import save_file

from glowplug.runtime.process.wire import Load
from glowplug.snapshot.choice import Wanted
from glowplug.snapshot.manifest import Manifest

MODELS = Path(__file__).parent / "models"


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


@dataclasses.dataclass(frozen=True)
class Bakery:
    """Runs the baker as a node does, and publishes what it makes.

    ``compiler`` is where the compiler keeps what it has found out about this machine, which takes ten seconds: a node's
    bakes each begin without, those of the tests share it.
    """

    compiler: Path

    @staticmethod
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
            observe=False,
        )

    def environment(self, directory: Path, path: str | None = None) -> dict[str, str]:
        """The allow-listed environment that a node gives its bakers."""
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(self.compiler),
            "PATH": path if path is not None else os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory / "tmp"),
            "OPENBLAS_NUM_THREADS": "1",
            "GOMP_SPINCOUNT": "1000",
        }

    def bake(
        self,
        directory: Path,
        load: Load,
        *,
        wanted: Wanted | None = None,
        published: Path,
        path: str | None = None,
        again: str = "",
    ) -> Bake:
        """Run the baker on ``load``; ``published`` is where finished snapshots are."""
        staging = directory / "staging"
        for made in (staging, directory / "tmp", published):
            made.mkdir(parents=True, exist_ok=True)
        job = {
            "load": dataclasses.asdict(load),
            "model": "",
            "wanted": (wanted or Wanted()).to_json(),
            "again": again,
        }
        receive, send = os.pipe()
        with (directory / "log").open("w+") as log, os.fdopen(receive) as events, one_core():
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "glowplug.runtime.worker.bake", "--events-fd", str(send)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment(directory, path),
                cwd=directory,
                pass_fds=(send,),
            )
            os.close(send)
            child.communicate(json.dumps({**job, "staging": str(staging), "snapshots": str(published)}).encode())
            lines = [json.loads(line) for line in events]
            return Bake(lines, staging, child.returncode, (directory / "log").read_text())

    @staticmethod
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

    def changed(self, directory: Path, before: str, after: str) -> Load:
        """The same function with its module edited: ``before`` replaced by ``after``."""
        code = directory / "code"
        shutil.copytree(self.task_root, code, ignore=shutil.ignore_patterns("__pycache__"))
        text = (code / "decoder.py").read_text()
        assert before in text
        (code / "decoder.py").write_text(text.replace(before, after))
        return Bakery.load_of(code, "decoder.handler", self.files)


@pytest.fixture(scope="session")
def bakery(shared_directory: Path) -> Bakery:
    return Bakery(shared_directory / "compiler")


@pytest.fixture(scope="session")
def decoder(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    root = tmp_path_factory.mktemp("decoder")
    task_root = root / "code"
    shutil.copytree(MODELS, task_root, ignore=shutil.ignore_patterns("__pycache__"))
    files = {"model.safetensors": root / "model.safetensors"}
    save_file(decoder_weights(root), files["model.safetensors"])
    load = bakery.load_of(task_root, "decoder.handler", files)
    baked = bakery.bake(root / "bake", load, published=root / "snapshots")
    assert 0 == baked.status, baked.log
    return Decoder(load, root / "snapshots", baked, bakery.publish(baked, root / "snapshots"), task_root, files)


ZYGOTE = """
import json, os, sys, traceback
from pathlib import Path
import torch
from glowplug.runtime.worker import models

torch.set_num_threads(1)
load = json.loads(sys.argv[1])
models.declare(load["models"])
sys.path.insert(0, load["task_root"])
import decoder

for line in sys.stdin:
    job = json.loads(line)
    directory, engine = Path(job["directory"]), job["engine"]
    plan = dict(
        name="", engine=engine, snapshot=str(directory), manifest=(directory / "manifest.json").read_bytes()
    )
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exec(job["code"])
            status = 0
        except Exception:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports torch and the decoder, which takes two seconds, and runs programs in forks of itself, as a zygote does."""


@pytest.fixture(scope="session")
def zygote(
    bakery: Bakery, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, json.dumps(dataclasses.asdict(decoder.load))],
        env=bakery.environment(tmp_path_factory.mktemp("zygote")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def run(zygote: subprocess.Popen[str], decoder: Decoder) -> Callable[..., Any]:
    """Run ``code`` in a fresh single-threaded process where ``plan`` and ``models`` are those of the decoder, and
    return the JSON that it prints."""

    def go(code: str, *, engine: str, snapshot: Path = decoder.snapshot) -> Any:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps({"code": code, "engine": engine, "directory": str(snapshot)}) + "\n")
        zygote.stdin.flush()
        printed = [zygote.stdout.readline()]
        while printed[-1] and not printed[-1].startswith("ended with "):
            printed.append(zygote.stdout.readline())
        assert "ended with 0\n" == printed[-1], "".join(printed)
        return json.loads(printed[-2])

    return go
