"""A model that has been traced, and what a bake writes before it makes engines, for the tests on a real GPU."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.snapshot import cases
from glowplug.snapshot.architecture import assemble
from glowplug.snapshot.checkpoint import TensorFiles
from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.engines import Engine, Given
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.program import Program, export


class Encoder(nn.Module):
    """A small transformer with a convolution in front: every kind of layer that the engines treat in their own way."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 64)
        self.near = nn.Conv1d(64, 64, 3, padding=1)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.scale: Tensor
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 64), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(ids) * mask.unsqueeze(-1)
        hidden = hidden + self.near(hidden.transpose(1, 2)).transpose(1, 2) * self.scale
        for layer in self.layers:
            weights = torch.softmax(hidden @ hidden.transpose(1, 2) / 8, dim=-1)
            hidden = torch.relu(layer(weights @ hidden)) + hidden
        return {"hidden": hidden, "mean": hidden.mean(dim=1)}


def example() -> Example:
    torch.manual_seed(1)
    both = ("batch", "tokens")
    ids = torch.randint(0, 256, (2, 16))
    return Example(args=(ids, torch.ones(2, 16)), dynamic={"ids": both, "mask": both})


DEFINITION = ModelDefinition("encoder", lambda files: Encoder(), example)


@dataclasses.dataclass(frozen=True)
class Traced:
    files: dict[str, Path]
    program: Program
    staging: Path

    def restored(self, make: Callable[[], Engine], record: EngineRecord, name: str, variant: str = "") -> Engine:
        """Load, bind and open an engine as a worker does."""
        engine = make()
        manifest = Manifest(
            key="", source="", graph="", fingerprint={}, signature=self.program.signature.to_json(), computed={},
            aliases={}, engines={}, verdict="", reason="", check={}, artefacts={},
        )  # fmt: skip
        named = dataclasses.replace(record, engine=name, variant=variant)
        engine.load(Given(DEFINITION, self.files, self.staging, manifest, named))
        engine.bind(TensorFiles(self.files, self.staging))
        engine.open(1)
        return engine

    def compare(self, engine: Engine, part: float) -> None:
        """Compare with eager in several sizes: by ``part`` of the largest value of an output."""
        generator = torch.Generator().manual_seed(2)
        for batch, tokens in ((1, 1), (1, 16), (2, 16), (8, 40), (1, 16), (8, 5)):
            inputs = {
                "ids": torch.randint(0, 256, (batch, tokens), generator=generator),
                "mask": torch.rand(batch, tokens, generator=generator),
            }
            for name, wanted in cases.eager(self.program, inputs).items():
                found = engine.run((), inputs)[name]
                assert found.device.type == "cpu"
                torch.testing.assert_close(found, wanted, atol=part * float(wanted.abs().max()), rtol=part)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("encoder")
    source, staging = directory / "model.safetensors", directory / "staging"
    staging.mkdir()
    save_file({name: value.contiguous() for name, value in Encoder().state_dict().items()}, source)
    files = {"model.safetensors": source}
    program = export(assemble(DEFINITION, files, TensorFiles(files)), example())
    cases.write_check(program, cases.expected("encoder", program), staging)
    cases.write_cases(program, (1, 8), staging)
    cases.save(program.tensors(), staging / "extra.safetensors")
    return Traced(files, program, staging)


@pytest.fixture
def traced(once: Traced, tmp_path: Path) -> Traced:
    """The model, with a staging directory for this test alone."""
    return dataclasses.replace(once, staging=shutil.copytree(once.staging, tmp_path / "staging"))
