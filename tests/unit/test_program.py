"""Exporting: what a model takes is found out, calls are compared with it, and equal computations have equal digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.snapshot.architecture import assemble
from glowplug.snapshot.checkpoint import TensorFiles
from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.errors import ExampleInvalid, ExportFailed, InputUnsupported, SnapshotCorrupt
from glowplug.snapshot.program import Program, export
from glowplug.snapshot.signature import Signature

DYNAMIC = {"x": ("batch", None), "y": ("batch", None)}


class Adds(nn.Module):
    """Two inputs that must have as many rows, a number that is compiled in, and two outputs."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.factor: Tensor
        self.register_buffer("factor", torch.tensor(factor), persistent=False)

    def forward(self, x: Tensor, y: Tensor, times: int = 1) -> dict[str, Any]:
        return {"sum": x + y * self.factor, "parts": (x * times + self.weight,)}


def traced(directory: Path, module: Any, example: Example) -> Program:
    save_file({"weight": torch.ones(3)}, directory / "model.safetensors")
    files = {"model.safetensors": directory / "model.safetensors"}
    return export(assemble(ModelDefinition("adds", lambda files: module()), files, TensorFiles(files)), example)


def example(rows: int = 2, **kwargs: Any) -> Example:
    return Example(args=(torch.ones(rows, 3), torch.ones(rows, 3)), kwargs=kwargs, dynamic=DYNAMIC)


@pytest.fixture(scope="module")
def signature(tmp_path_factory: pytest.TempPathFactory) -> Signature:
    return traced(tmp_path_factory.mktemp("adds"), Adds, example(times=2)).signature


def test_inputs_are_described(signature: Signature) -> None:
    assert ("x", "y", "times") == signature.names
    assert [("d0", 3), ("d0", 3), ()] == [item.shape for item in signature.inputs]
    assert [torch.float32, torch.float32, None] == [item.dtype for item in signature.inputs]
    assert {"d0": (1, None)} == signature.ranges


def test_a_signature_survives_json(signature: Signature) -> None:
    again = Signature.from_json(signature.to_json())
    assert signature.to_json() == again.to_json()
    rows = torch.rand(5, 3)
    assert {"x": rows, "y": rows, "times": 2} == again.unflatten_inputs([rows, rows])


def test_a_call_that_fits_is_flattened_in_order(signature: Signature) -> None:
    x, y = torch.rand(4, 3), torch.rand(3, 4).T
    flat = signature.flatten((x,), {"times": 2, "y": y})
    assert flat[0] is x
    assert torch.equal(y, flat[1])
    assert flat[1].is_contiguous(), "the engine reads memory in order"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((torch.ones(2, 3),), {"times": 2}, "no input y"),
        ((torch.ones(2, 3), torch.ones(2, 3), 2, 4), {}, "4 inputs"),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"times": 2, "z": 1}, "input z"),
        ((torch.ones(2, 3), torch.ones(1, 3), 2), {}, "y: dimension 0 is 1; the engine needs 2"),
        ((torch.ones(2, 4), torch.ones(2, 3), 2), {}, "x: dimension 1 is 4; the engine needs 3"),
        ((torch.ones(0, 3), torch.ones(0, 3), 2), {}, "x: dimension 0 is 0, outside 1 to …"),
        ((torch.ones(2, 3).double(), torch.ones(2, 3), 2), {}, "x: torch.float64 with 2 dimensions"),
        ((torch.ones(2), torch.ones(2, 3), 2), {}, "x: torch.float32 with 1 dimensions"),
        (([[1.0]], torch.ones(2, 3), 2), {}, "nested in another way"),
        ((None, torch.ones(2, 3), 2), {}, "x: NoneType, not a tensor"),
        ((torch.ones(2, 3), torch.ones(2, 3), 3), {}, "times: 3; the engine was compiled for 2"),
        ((torch.ones(2, 3), torch.ones(2, 3), True), {}, "times: True; the engine was compiled for 2"),
        ((torch.ones(2, 3, device="meta"), torch.ones(2, 3), 2), {}, "on meta"),
    ],
)
def test_a_call_that_would_read_past_its_ends_is_refused(
    signature: Signature, args: Any, kwargs: Any, message: str
) -> None:
    with pytest.raises(InputUnsupported, match=message):
        signature.flatten(args, kwargs)


@pytest.mark.parametrize(
    "change", [{"inputs": [{}]}, {"inputs": [{"name": "x", "dtype": "nn", "shape": []}]}, {"in_structure": "[]"}]
)
def test_a_signature_that_no_baker_writes_is_corrupt(signature: Signature, change: dict[str, Any]) -> None:
    with pytest.raises(SnapshotCorrupt, match="signature"):
        Signature.from_json(signature.to_json() | change)


def test_the_digest_is_that_of_the_computation(tmp_path: Path) -> None:
    digest = traced(tmp_path, Adds, example()).digest
    assert digest == traced(tmp_path, Adds, example()).digest
    assert digest == traced(tmp_path, Adds, example(rows=3)).digest, "a size that varies is not part of the computation"
    others = {
        traced(tmp_path, lambda: Adds(3.0), example()).digest,
        traced(tmp_path, Adds, example(times=2)).digest,
        traced(tmp_path, Adds, Example(args=example().args)).digest,
    }
    assert 4 == len(others | {digest})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (Example(args=example(1).args, dynamic=DYNAMIC), ExampleInvalid, "varies but is 1 in the example"),
        (Example(args=example().args, dynamic={"x": ("batch", 4)}), ExampleInvalid, "is 4 by dynamic and 3"),
        (example(times=torch), ExportFailed, "torch.export: "),
    ],
)
def test_an_example_that_cannot_be_traced_says_why(tmp_path: Path, wrong: Example, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        traced(tmp_path, Adds, wrong)


def test_a_model_that_branches_on_values_does_not_export(tmp_path: Path) -> None:
    class Branches(Adds):
        def forward(self, x: Tensor, y: Tensor, times: int = 1) -> Any:
            return x if x.sum() > 0 else y

    with pytest.raises(ExportFailed, match=r"torch.export: "):
        traced(tmp_path, Branches, example())


def test_a_model_that_changes_itself_does_not_export(tmp_path: Path) -> None:
    class Counts(Adds):
        def forward(self, x: Tensor, y: Tensor, times: int = 1) -> Any:
            self.get_buffer("factor").add_(1)
            return x + y

    with pytest.raises(ExportFailed, match="changes factor in place"):
        traced(tmp_path, Counts, example())
