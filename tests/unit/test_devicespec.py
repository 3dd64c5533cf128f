"""What a template says about the GPU, and where a function then runs."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.definition import spec_of
from glowplug.runtime.devices import CONTEXT_MIB, context_obstacle, device_of, needed_mib
from glowplug.runtime.devicespec import DeviceSpec
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import FunctionSpec, ModelSpec, SourceFile
from glowplug.runtime.testing import MODEL, a_spec

DEFINITION = {"FunctionName": "f", "Handler": "f.handler", "Runtime": "python3.11", "CodeSha256": "0" * 64}


def read(glowplug: dict[str, Any], **properties: Any) -> DeviceSpec:
    spec = spec_of({**DEFINITION, **properties, "Glowplug": glowplug})
    assert spec.gpu == FunctionSpec.from_json(spec.to_json()).gpu
    return spec.gpu


@pytest.mark.parametrize(
    ("glowplug", "properties", "expected"),
    [
        ({}, {}, DeviceSpec()),
        ({"Device": "cuda", "VramMiB": 3000}, {}, DeviceSpec("cuda", 3000)),
        ({}, {"AcceleratorConfig": {"AcceleratorMemorySize": 24}}, DeviceSpec("auto", 24 * 1024)),
        ({"VramMiB": 512}, {"AcceleratorConfig": {"AcceleratorMemorySize": 3}}, DeviceSpec("auto", 512)),
        ({"Mps": "off"}, {}, DeviceSpec(mps=False)),
        ({"Mps": False}, {}, DeviceSpec(mps=False)),
        ({"Mps": {"ActiveThreadPercentage": 25}}, {}, DeviceSpec(thread_percent=25)),
    ],
)
def test_a_template_says_it(glowplug: dict[str, Any], properties: dict[str, Any], expected: DeviceSpec) -> None:
    assert expected == read(glowplug, **properties)


@pytest.mark.parametrize(
    ("glowplug", "properties", "message"),
    [
        ({"Device": "tpu"}, {}, r"Glowplug\.Device: 'tpu' is not one of auto, cpu, cuda"),
        ({"VramMiB": 0}, {}, r"Glowplug\.VramMiB: 0 is not 1 or more"),
        ({"Mps": "on"}, {}, r"Glowplug\.Mps: 'on' is not one of auto, off"),
        ({"Mps": {"ActiveThreadPercentage": 101}}, {}, r"Mps\.ActiveThreadPercentage: 101 is not between 1 and 100"),
        ({"Mps": {"Threads": 5}}, {}, r"Glowplug\.Mps\.Threads: unknown key"),
        ({}, {"AcceleratorConfig": {"AcceleratorMemorySize": 1.5}}, "AcceleratorMemorySize: must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(glowplug: dict[str, Any], properties: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        read(glowplug, **properties)


def test_a_registry_of_before_there_was_a_gpu_is_read() -> None:
    old = a_spec().to_json()
    del old["gpu"]
    assert DeviceSpec() == FunctionSpec.from_json(old).gpu


@pytest.mark.parametrize(
    ("device", "engine", "present", "auto", "expected"),
    [
        ("auto", "auto", True, "cpu", "cpu"),
        ("auto", "tensorrt", True, "cpu", "cpu"),
        ("auto", "auto", True, "cuda", "cuda:0"),
        ("auto", "eager", True, "cuda", "cuda:0"),
        ("auto", "onnxruntime", True, "cuda", "cpu"),
        ("auto", None, True, "cuda", "cpu"),
        ("auto", "auto", False, "cuda", "cpu"),
        ("cpu", "auto", True, "cuda", "cpu"),
        ("cuda", None, True, "cpu", "cuda:0"),
        ("cuda", "auto", False, "cuda", "cpu"),
    ],
)
def test_where_a_function_runs(device: str, engine: str | None, present: bool, auto: str, expected: str) -> None:
    models = () if engine is None else (ModelSpec("", "package://x/y", engine),)
    assert expected == device_of(a_spec(models=models, gpu=DeviceSpec(device)), present=present, auto=auto)


def test_what_an_instance_needs_is_said_or_reckoned_from_its_weights() -> None:
    files = (SourceFile("model.safetensors", 200 * 2**20, "a"), SourceFile("vocab.txt", 2**30, "b"))
    model = ModelSpec("", "package://x/y", files=files)
    assert 300 + CONTEXT_MIB == needed_mib(a_spec(models=(model,)))
    assert 4000 == needed_mib(a_spec(models=(model,), gpu=DeviceSpec(vram_mib=4000)))


def test_a_context_is_not_for_a_function_that_sets_what_is_read_with_it() -> None:
    assert "" == context_obstacle(a_spec(models=(MODEL,)))
    assert "CUDA_VISIBLE_DEVICES" in context_obstacle(a_spec(environment={"CUDA_VISIBLE_DEVICES": "1"}))
    assert "OMP_NUM_THREADS" in context_obstacle(a_spec(environment={"OMP_NUM_THREADS": "1"}))
