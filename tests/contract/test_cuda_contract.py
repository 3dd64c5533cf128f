"""What the engines use of torch on a GPU is there, with these signatures.

A build of torch for CPUs has ``torch.cuda``'s classes, but not the native runner of compiled libraries; that one is
read from the stub which every build ships.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export.passes import move_to_device_pass

from glowplug.snapshot.engines import torch_private
from glowplug.snapshot.errors import EngineFailed
from glowplug.snapshot.tensorrt import stream as stream_module
from glowplug.snapshot.tensorrt.stream import CudaStream, Stream
from glowplug.snapshot.tensorrt.testing import HostStream

STUB = Path(torch.__file__).parent / "_C" / "_aoti.pyi"
DEVICE = torch.device("cuda:0")

CALLS: list[tuple[Callable[..., Any], tuple[object, ...], dict[str, object]]] = [
    (torch.cuda.Stream.__new__, (torch.cuda.Stream,), {"device": DEVICE}),
    (torch.cuda.Stream.synchronize, (None,), {}),
    (torch.cuda.stream, (None,), {}),
    (torch.cuda.set_device, (DEVICE,), {}),
    (torch.cuda.get_device_properties, (DEVICE,), {}),
    (torch.cuda.get_device_capability, ("cuda:0",), {}),
    (torch.cuda.CUDAGraph.capture_begin, (None,), {"capture_error_mode": "thread_local"}),
    (torch.cuda.CUDAGraph.capture_end, (None,), {}),
    (torch.cuda.CUDAGraph.replay, (None,), {}),
    (move_to_device_pass, (None, "cuda:0"), {}),
]


@pytest.mark.parametrize(
    ("function", "positional", "keywords"), CALLS, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_called_takes_the_arguments_it_is_given(
    function: Callable[..., Any], positional: tuple[object, ...], keywords: dict[str, object]
) -> None:
    inspect.signature(function).bind(*positional, **keywords)


def test_every_name_of_torch_in_the_stream_exists() -> None:
    tree = ast.parse(inspect.getsource(stream_module))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = sorted(name for name in used if name.startswith("torch."))
    assert "torch.cuda.CUDAGraph" in names
    for name in names:
        found: Any = torch
        for part in name.split(".")[1:]:
            found = getattr(found, part)


@pytest.mark.parametrize("stream", [CudaStream, HostStream])
def test_the_streams_have_the_methods_of_the_protocol(stream: type) -> None:
    for name, method in inspect.getmembers(Stream, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(stream, name)).parameters
            )
    assert isinstance(inspect.getattr_static(stream, "handle"), property)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_refusal_is_typed_and_has_torchs_words() -> None:
    with pytest.raises(EngineFailed, match=r"^cuda:0: stream: \w+"):
        CudaStream()


def runner(name: str) -> dict[str, list[list[str]]]:
    """Return method -> the parameters of each of its overloads, of a class of the stub."""
    tree = ast.parse(STUB.read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    methods: dict[str, list[list[str]]] = {}
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            methods.setdefault(node.name, []).append([argument.arg for argument in node.args.args][1:])
    return methods


def uses() -> Iterator[str]:
    """Yield the methods that ``Library`` calls of its runner."""
    for node in ast.walk(ast.parse(inspect.getsource(torch_private))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._runner":
            yield node.attr


@pytest.mark.parametrize("device", torch_private.RUNNERS)
def test_the_runner_of_each_device_is_bound_and_run_alike(device: str) -> None:
    methods = runner(torch_private.RUNNERS[device])
    assert set(uses()) == set(torch_private._METHODS)
    assert set(uses()) <= set(methods)
    assert [list(torch_private._BINDING)] == methods["update_constant_buffer"]
    assert ["model_so_path", "num_models"] in methods["__init__"]


def test_the_runner_for_a_gpu_takes_the_device() -> None:
    assert ["model_so_path", "num_models", "device_str"] in runner("AOTIModelContainerRunnerCuda")["__init__"]


def test_kernels_can_be_embedded_in_a_library() -> None:
    import torch._inductor.config

    assert hasattr(torch._inductor.config.aot_inductor, "embed_kernel_binary")
