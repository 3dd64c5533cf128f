"""Torch models in ONNX Runtime: exported, bound to the checkpoint in place, right, and refused by the operator's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.snapshot import program as programs
from glowplug.snapshot.apart import apart
from glowplug.snapshot.architecture import assemble
from glowplug.snapshot.checkpoint import SOURCE, TensorFiles
from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.engines import Given
from glowplug.snapshot.engines.onnxruntime import OnnxRuntime
from glowplug.snapshot.errors import ExportFailed, InputUnsupported
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.program import Program
from glowplug.snapshot.rounds import private_bytes

pytestmark = pytest.mark.slow

WIDTH = 1024


class Ranker(nn.Module):
    """What exporters change: linear layers (transposed), a norm (folded), words (looked up), a switch (compiled in)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.norm = nn.LayerNorm(4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, ids: Tensor, halved: bool = False) -> dict[str, Tensor]:
        hidden = self.down(torch.nn.functional.gelu(self.norm(self.up(self.words(ids)))))
        scores = hidden.mean(-1)
        return {"scores": scores / 2 if halved else scores, "best": scores.argmax(-1)}


def checkpoint(path: Path, module: nn.Module) -> dict[str, Path]:
    save_file({f"model.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return {path.name: path}


def exported(build: type[nn.Module], files: dict[str, Path], *args: Any) -> tuple[ModelDefinition, Program]:
    definition = ModelDefinition("m", lambda given: build(), rename=lambda key: key.removeprefix("model."))
    assembled = assemble(definition, files, TensorFiles(files))
    dynamic = {"ids": ("batch", "words")} if build is Ranker else {}
    return definition, programs.export(assembled, Example(args=args, dynamic=dynamic))


class Made:
    """A ranker's snapshot, as far as the engine needs one."""

    def __init__(self, directory: Path) -> None:
        torch.manual_seed(0)
        self.module = Ranker().eval()
        self.files = checkpoint(directory / "model.safetensors", self.module)
        self.definition, self.program = exported(Ranker, self.files, torch.ones(2, 4, dtype=torch.long))
        self.staging = directory / "staging"
        self.staging.mkdir()
        self.records = OnnxRuntime().export(self.program, self.staging, "fp32")

    def restored(self, record: EngineRecord) -> OnnxRuntime:
        manifest = Manifest(
            key="", source="", graph="", fingerprint={}, signature=self.program.signature.to_json(), computed={},
            aliases={}, engines={}, verdict="", reason="", check={}, artefacts={},
        )  # fmt: skip
        engine = OnnxRuntime()
        engine.load(Given(self.definition, self.files, self.staging, manifest, record))
        self.shared_bytes = engine.bind(TensorFiles(self.files, self.staging))
        return engine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("ranker"))


def test_the_snapshot_holds_no_copy_of_the_checkpoint(made: Made) -> None:
    assert {"", "unpacked"} == set(made.records)
    bound = {origin.tensor for origin in made.records[""].constants.values() if origin.place == SOURCE}
    assert {"model.words.weight", "model.up.weight", "model.down.weight"} <= bound
    assert (
        sum(file.stat().st_size for file in made.staging.iterdir())
        < 100_000
        < sum(file.stat().st_size for file in made.files.values())
    )


@pytest.mark.parametrize("variant", ["", "unpacked"])
def test_it_says_what_eager_says_for_sizes_it_never_saw(made: Made, variant: str) -> None:
    record = replace(made.records[variant], variant=variant)
    engine = made.restored(record)
    engine.open(1)
    for size in ((1, 1), (3, 7)):
        ids = torch.randint(0, 100, size)
        said, expected = engine.run((ids,), {}), made.module(ids)
        assert ["scores", "best"] == list(said)
        assert torch.allclose(expected["scores"], said["scores"], atol=1e-4)
        assert torch.equal(expected["best"], said["best"])


def test_unpacked_weights_stay_pages_of_the_checkpoint(made: Made) -> None:
    """Matrices of 34 MB: prepacking copies them, without it a process owns next to nothing of them."""

    def grown(variant: str) -> Any:
        def work() -> int:
            import onnxruntime  # noqa: F401 - its own pages are not what is measured

            engine = made.restored(replace(made.records[variant], variant=variant))
            before = private_bytes()
            engine.open(1)
            engine.run((torch.ones(1, 2, dtype=torch.long),), {})
            return private_bytes() - before

        return apart(work, seconds=60)

    weights = 2 * 4 * WIDTH * WIDTH * 4
    assert grown("unpacked") < weights / 4
    assert grown("") > weights / 2


def test_a_call_it_was_not_exported_for_is_left_to_eager(made: Made) -> None:
    engine = made.restored(made.records[""])
    engine.open(1)
    with pytest.raises(InputUnsupported, match="halved"):
        engine.run((torch.ones(1, 2, dtype=torch.long),), {"halved": True})


def test_int8_keeps_its_own_weights_and_the_checkpoints_embeddings(made: Made, tmp_path: Path) -> None:
    records = OnnxRuntime().export(made.program, tmp_path, "int8")
    assert [""] == list(records)
    bound = {origin.tensor for origin in records[""].constants.values() if origin.place == SOURCE}
    assert "model.words.weight" in bound
    assert "model.up.weight" not in bound
    assert 8 * WIDTH * WIDTH < (tmp_path / "onnxruntime-int8.safetensors").stat().st_size < 10 * WIDTH * WIDTH


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    @torch.library.custom_op("glowplugtest::twist", mutates_args=())
    def twist(x: Tensor) -> Tensor:
        return x.flip(0)

    @twist.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Twisted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.glowplugtest.twist(x) * self.weight

    program = exported(Twisted, checkpoint(tmp_path / "model.safetensors", Twisted()), torch.ones(3))[1]
    with pytest.raises(ExportFailed, match=r"ONNX has no counterpart of the operator glowplugtest\.twist"):
        OnnxRuntime().export(program, tmp_path, "fp32")


def test_a_model_without_a_linear_layer_has_no_int8(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    program = exported(Scaled, checkpoint(tmp_path / "model.safetensors", Scaled()), torch.ones(3))[1]
    with pytest.raises(ExportFailed, match="no linear layer"):
        OnnxRuntime().export(program, tmp_path, "int8")
