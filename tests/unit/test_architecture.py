"""From checkpoint to module: renamed, tied, computed and converted tensors, and the names of what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.cache.errors import WeightsMalformed, WeightsTruncated
from glowplug.snapshot.architecture import Assembled, assemble
from glowplug.snapshot.checkpoint import Origin, TensorFiles
from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.errors import BuildFailed, TensorUnbound, WeightsMismatch, WeightsMissing
from glowplug.snapshot.plan import Plan
from glowplug.snapshot.restore import restore


class Tied(nn.Module):
    """An embedding whose matrix is also the output's, and a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("frequencies", 1.0 / (torch.arange(4) + 1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids) * self.frequencies)


WEIGHTS = {"embed.weight": torch.arange(20.0).reshape(5, 4)}


class Checkpoint:
    """Writes files of tensors and assembles modules from them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Path] = {}

    def write(self, tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
        self.files[name] = self.directory / name
        save_file(tensors, self.files[name])
        return self.files[name]

    def assemble(self, build: Callable[[], nn.Module], rename: Any = None, **options: Any) -> Assembled:
        definition = ModelDefinition("tiny", lambda files: build(), rename=rename)
        return assemble(definition, self.files, TensorFiles(self.files, self.directory), **options)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


def test_tied_weights_stay_one_tensor_and_buffers_are_computed(checkpoint: Checkpoint) -> None:
    checkpoint.write(WEIGHTS)
    assembled = checkpoint.assemble(Tied)
    module = assembled.module
    assert isinstance(module, Tied)
    assert module.head.weight is module.embed.weight
    assert {"head.weight": "embed.weight"} == assembled.aliases
    assert {"embed.weight": Origin("source", "model.safetensors", "embed.weight")} == assembled.origins
    assert [1.0, 0.5] == assembled.computed["frequencies"].tolist()[:2]
    table = WEIGHTS["embed.weight"]
    assert torch.allclose((table[1] / torch.arange(1, 5)) @ table.T, module(torch.tensor([1]))[0])
    assert 20 * 4 == assembled.mapped_bytes


def test_a_tie_may_be_stored_under_its_other_name(checkpoint: Checkpoint) -> None:
    checkpoint.write({"head.weight": WEIGHTS["embed.weight"]})
    module = checkpoint.assemble(Tied).module
    assert torch.equal(WEIGHTS["embed.weight"], module.get_parameter("embed.weight"))


def test_a_tie_stored_twice_must_be_equal_where_that_is_checked(checkpoint: Checkpoint) -> None:
    checkpoint.write({**WEIGHTS, "head.weight": WEIGHTS["embed.weight"] + 1})
    with pytest.raises(WeightsMismatch, match=r"embed.weight and head.weight are one tensor in the module and two"):
        checkpoint.assemble(Tied, compare_ties=True)


def test_weights_are_views_of_the_file(checkpoint: Checkpoint) -> None:
    path = checkpoint.write(WEIGHTS)
    module = checkpoint.assemble(Tied).module
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    start, end = (int(part, 16) for part in mapped[0].split()[0].split("-"))
    assert start <= module.get_parameter("embed.weight").data_ptr() < end


def test_recorded_tensors_are_read_instead_of_computed(checkpoint: Checkpoint) -> None:
    checkpoint.write(WEIGHTS)
    save_file({"frequencies": torch.full((4,), 7.0)}, checkpoint.directory / "extra.safetensors")
    recorded = {"frequencies": Origin("snapshot", "extra.safetensors", "frequencies")}
    assembled = checkpoint.assemble(Tied, recorded=recorded)
    assert [7.0] * 4 == assembled.module.get_buffer("frequencies").tolist()
    assert {} == assembled.computed


def test_prefixed_keys_are_renamed_and_unwanted_ones_left_out(checkpoint: Checkpoint) -> None:
    checkpoint.write({"model.embed.weight": WEIGHTS["embed.weight"], "position_ids": torch.arange(4)})
    rename = lambda key: None if key == "position_ids" else key.removeprefix("model.")  # noqa: E731
    assert "embed.weight" in checkpoint.assemble(Tied, rename).origins


def test_two_keys_for_one_tensor_are_refused(checkpoint: Checkpoint) -> None:
    checkpoint.write({"a.weight": WEIGHTS["embed.weight"], "b.weight": WEIGHTS["embed.weight"].clone()})
    with pytest.raises(WeightsMismatch, match=r"two tensors for embed.weight: a.weight in .* and b.weight in"):
        checkpoint.assemble(Tied, lambda key: "embed.weight")


def test_everything_that_does_not_fit_is_listed_at_once(checkpoint: Checkpoint) -> None:
    checkpoint.write({"weight": torch.zeros(3, 4), "position_ids": torch.arange(4)})
    with pytest.raises(WeightsMismatch) as caught:
        checkpoint.assemble(lambda: nn.Linear(4, 5))
    assert "not in the checkpoint: bias" in str(caught.value)
    assert "not in the module: position_ids (position_ids in model.safetensors)" in str(caught.value)
    assert "weight: (3, 4) in the file, (5, 4) in the module" in str(caught.value)
    assert "@tiny.weights" in str(caught.value)


def test_the_modules_floating_type_wins_and_others_must_match(checkpoint: Checkpoint) -> None:
    checkpoint.write({"weight": torch.ones(2, 2, dtype=torch.float16), "bias": torch.ones(2)})
    assembled = checkpoint.assemble(lambda: nn.Linear(2, 2))
    assert {"bias"} == set(assembled.origins)
    assert torch.float32 is assembled.computed["weight"].dtype
    assert [[2.0, 2.0]] == (assembled.module(torch.ones(1, 2)) - 1).tolist()
    checkpoint.write({"weight": torch.ones(2, 2, dtype=torch.int32), "bias": torch.ones(2)})
    with pytest.raises(WeightsMismatch, match=r"weight: torch.int32 in the file, torch.float32 in the module"):
        checkpoint.assemble(lambda: nn.Linear(2, 2))


def test_a_module_of_mixed_types_takes_a_file_of_mixed_types_as_it_is(checkpoint: Checkpoint) -> None:
    checkpoint.write({"0.weight": torch.ones(2, 2, dtype=torch.bfloat16), "1.weight": torch.ones(2)})
    build = lambda: nn.Sequential(nn.Linear(2, 2, bias=False).bfloat16(), nn.LayerNorm(2, bias=False))  # noqa: E731
    assembled = checkpoint.assemble(build)
    assert {} == assembled.computed
    assert torch.bfloat16 is assembled.module.get_parameter("0.weight").dtype


class Scaled(nn.Module):
    """Keeps tensors as plain attributes: one by name, one in a list."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.scale = torch.tensor(3.0)
        self.steps = [torch.tensor(5.0)] if nested else []

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * self.scale * (self.steps[0] if self.steps else 1)


@pytest.mark.parametrize(("nested", "expected"), [(False, 3.0), (True, 15.0)])
def test_plain_attributes_get_their_values(checkpoint: Checkpoint, nested: bool, expected: float) -> None:
    checkpoint.write({"weight": torch.ones(2)})
    module = checkpoint.assemble(lambda: Scaled(nested=nested)).module
    assert [expected, expected] == module(torch.ones(2)).tolist()


def test_a_builder_that_needs_values_runs_on_the_cpu(checkpoint: Checkpoint) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
            self.weight = nn.Parameter(torch.zeros(2))

    checkpoint.write({"weight": torch.ones(2)})
    module = checkpoint.assemble(Deep).module
    assert [0.0, 0.5, 1.0] == module.rates
    assert [1.0, 1.0] == module.get_parameter("weight").tolist()


def test_a_tensor_left_on_meta_is_named(checkpoint: Checkpoint) -> None:
    class Stuck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(2, device="meta"), persistent=False)

    checkpoint.write({"weight": torch.ones(2)})
    with pytest.raises(TensorUnbound, match="model tiny: table has no values"):
        checkpoint.assemble(Stuck, lambda key: None)


def test_building_twice_leaves_the_random_generator_alone(checkpoint: Checkpoint) -> None:
    checkpoint.write(WEIGHTS)
    before = torch.get_rng_state()
    checkpoint.assemble(Tied)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("build", "message"),
    [(lambda: 1 / 0, "builder raised ZeroDivisionError"), (lambda: 3, "builder returned int, not an nn.Module")],
)
def test_a_builder_that_fails_is_named(checkpoint: Checkpoint, build: Any, message: str) -> None:
    checkpoint.write(WEIGHTS)
    with pytest.raises(BuildFailed, match=f"model tiny: the {message}"):
        checkpoint.assemble(build)


def test_a_source_without_weights_says_what_it_has(checkpoint: Checkpoint) -> None:
    checkpoint.files["config.json"] = checkpoint.directory / "config.json"
    with pytest.raises(WeightsMissing, match=r"no .safetensors file in the source; it has config.json"):
        checkpoint.assemble(Tied)


def test_shards_are_those_of_the_index(checkpoint: Checkpoint) -> None:
    checkpoint.write({"weight": torch.ones(2, 2)}, "model-1.safetensors")
    checkpoint.write({"bias": torch.ones(2)}, "model-2.safetensors")
    checkpoint.write({"weight": torch.zeros(2, 2)}, "consolidated.safetensors")
    index = checkpoint.files["model.safetensors.index.json"] = checkpoint.directory / "index"
    index.write_text('{"weight_map": {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}}')
    module = checkpoint.assemble(lambda: nn.Linear(2, 2)).module
    assert [[1.0, 1.0], [1.0, 1.0]] == module.get_parameter("weight").tolist()
    index.write_text('{"weight_map": {"weight": "model-3.safetensors"}}')
    with pytest.raises(WeightsMalformed, match=r"names model-3.safetensors, which the source does not have"):
        checkpoint.assemble(lambda: nn.Linear(2, 2))


def test_a_two_shard_checkpoint_is_restored_eagerly(checkpoint: Checkpoint) -> None:
    """As a start does it: through ``restore``, which knows files by name and builds on mapped tensors."""
    tensors = {"0.weight": torch.arange(4.0).reshape(2, 2), "0.bias": torch.ones(2), "1.weight": 3 * torch.ones(1, 2)}
    first = checkpoint.write(
        {name: tensors[name] for name in ("0.weight", "0.bias")}, "model-00001-of-00002.safetensors"
    )
    second = checkpoint.write({"1.weight": tensors["1.weight"]}, "model-00002-of-00002.safetensors")
    index = checkpoint.files["model.safetensors.index.json"] = checkpoint.directory / "index"
    weight_map = {name: (second if name == "1.weight" else first).name for name in tensors}
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    definition = ModelDefinition("tiny", lambda files: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False)))
    restored = restore(definition, checkpoint.files, Plan())
    assert [[24.0]] == restored.engine.run((torch.tensor([[1.0, 1.0]]),), {}).tolist()
    assert 32 == restored.mapped_bytes
    index.write_text(json.dumps({"weight_map": weight_map | {"0.bias": second.name}}))
    with pytest.raises(
        WeightsMalformed, match=r"'0.bias' in model-00002-of-00002.safetensors, but it is in model-00001"
    ):
        restore(definition, checkpoint.files, Plan())


def test_damaged_weights_keep_the_caches_error(checkpoint: Checkpoint) -> None:
    path = checkpoint.write(WEIGHTS)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsTruncated, match=r"^model.safetensors: "):
        checkpoint.assemble(Tied)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(WeightsMalformed):
        checkpoint.assemble(Tied)
