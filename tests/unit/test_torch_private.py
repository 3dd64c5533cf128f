"""The private parts of torch that engines are built on: there, and in the form that is used. Run once per torch."""

from __future__ import annotations

import pytest
import torch

from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.engines import Given, torch_private
from glowplug.snapshot.engines.table import create
from glowplug.snapshot.errors import EngineUnavailable


def test_this_torch_has_what_ahead_of_time_engines_need() -> None:
    assert "" == torch_private.obstacle()
    assert callable(torch._inductor.aot_compile)


def test_a_torch_without_the_loader_is_named_and_the_engine_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C._aoti, "AOTIModelContainerRunnerCpu")
    monkeypatch.setattr(torch_private, "obstacle", torch_private.obstacle.__wrapped__)
    assert "has no torch._C._aoti.AOTIModelContainerRunnerCpu" in torch_private.obstacle()
    definition = ModelDefinition("tiny", lambda files: torch.nn.Identity())
    with pytest.raises(EngineUnavailable, match=r"aot_inductor: torch .* has no torch\._C\._aoti"):
        create("aot_inductor").load(Given(definition, {}))


def test_a_loader_that_takes_other_parameters_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runner:
        def run(self) -> None: ...
        def get_constant_names_to_original_fqns(self) -> None: ...
        def update_constant_buffer(self) -> None:
            """update_constant_buffer(tensor_map, use_inactive, validate_full_updates)"""

    monkeypatch.setattr(torch._C._aoti, "AOTIModelContainerRunnerCpu", Runner)
    assert "update_constant_buffer takes no user_managed" in torch_private.obstacle.__wrapped__()


def test_leaves_have_readable_names() -> None:
    assert ["ids", "['states'][0]", "['states'][1]"] == torch_private.leaf_names({"ids": 1, "states": (2, 3)})


def test_structures_survive_text() -> None:
    value = {"a": (1, [2, None]), "b": 3}
    leaves, structure = torch_private.flatten(value)
    again = torch_private.read_structure(torch_private.write_structure(structure))
    assert structure == again
    assert value == torch_private.unflatten(leaves, again)


def test_an_unknown_engine_is_unavailable() -> None:
    with pytest.raises(
        EngineUnavailable, match="no engine 'steam'; there are eager, aot_inductor, onnxruntime, tensorrt"
    ):
        create("steam")
