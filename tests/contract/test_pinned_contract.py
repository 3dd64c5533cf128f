"""What ``CudaDevice`` uses of torch is there, with these signatures; a build of torch for CPUs has them too."""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glowplug.cache import device as device_module
from glowplug.cache.device import CudaDevice, Device
from glowplug.cache.errors import DeviceRefused
from glowplug.cache.pinned import PinnedRing

# Every dotted name of torch in CudaDevice -> the arguments it is called with; None: not called.
USED: dict[str, tuple[tuple[object, ...], dict[str, object]] | None] = {
    "torch.device": (("cuda:0",), {}),
    "torch.empty": ((4,), {"dtype": torch.uint8, "pin_memory": True}),
    "torch.uint8": None,
    "torch.cuda.Stream": ((), {"device": torch.device("cuda:0")}),
    "torch.cuda.Event": ((), {"blocking": True}),
    "torch.cuda.current_stream": ((torch.device("cuda:0"),), {}),
    "torch.cuda.device": ((torch.device("cuda:0"),), {}),
    "torch.cuda.stream": ((None,), {}),
}
METHODS: list[tuple[Callable[..., Any], tuple[object, ...]]] = [
    (torch.cuda.Stream.wait_stream, (None, None)),
    (torch.cuda.Stream.synchronize, (None,)),
    (torch.cuda.Event.record, (None, None)),
    (torch.cuda.Event.synchronize, (None,)),
]
NATIVE = {"torch.device", "torch.empty"}  # without a signature that Python could look at


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return "torch" if before == "self" and node.attr == "_torch" else f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def named(name: str) -> Any:
    found: Any = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_the_table_has_every_name_that_is_used() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(CudaDevice)))
    annotations = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for one in [function.returns, *(argument.annotation for argument in function.args.args)]
        if one is not None
        for inner in ast.walk(one)
    }
    names = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in annotations}
    whole = {name for name in names if name.startswith("torch.")} - {"torch.cuda"}
    assert set(USED) == whole


@pytest.mark.parametrize("name", USED)
def test_what_is_used_takes_the_arguments_it_is_given(name: str) -> None:
    found, arguments = named(name), USED[name]
    if arguments is None or name in NATIVE:
        return
    positional, keywords = arguments
    signature = inspect.signature(found.__new__ if name in ("torch.cuda.Stream", "torch.cuda.Event") else found)
    first = (found,) if name in ("torch.cuda.Stream", "torch.cuda.Event") else ()
    signature.bind(*first, *positional, **keywords)


@pytest.mark.parametrize(("method", "positional"), METHODS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_streams_and_events_have_the_methods(method: Callable[..., Any], positional: tuple[object, ...]) -> None:
    inspect.signature(method).bind(*positional)


def test_native_functions_take_their_arguments() -> None:
    assert ("cuda", 0) == (torch.device("cuda:0").type, torch.device("cuda:0").index)
    assert 4 == torch.empty(4, dtype=torch.uint8, device=torch.device("cpu")).nbytes
    with contextlib.suppress(RuntimeError):  # no accelerator; an unknown argument would be a TypeError
        torch.empty(4, dtype=torch.uint8, pin_memory=True)
    torch.empty(4).copy_(torch.ones(4), non_blocking=True)


def test_running_out_of_memory_and_failing_are_runtime_errors() -> None:
    assert issubclass(torch.OutOfMemoryError, RuntimeError)
    assert issubclass(torch.AcceleratorError, RuntimeError)


def test_the_device_has_the_methods_of_the_protocol() -> None:
    for name, method in inspect.getmembers(Device, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(CudaDevice, name)).parameters
            )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_refusal_is_typed_and_has_torchs_words() -> None:
    with pytest.raises(DeviceRefused, match=r"^cuda:0: stream: \w+"):
        CudaDevice()


class HostStream:
    """In the place of a CUDA stream; what is asked of it is written down."""

    log: list[str]

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.name = "ours" if device is not None else "the caller's"

    def wait_stream(self, stream: HostStream) -> None:
        self.log.append(f"{self.name} waits for {stream.name}")

    def synchronize(self) -> None:
        self.log.append("drained")


class HostEvent:
    """In the place of a CUDA event."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        assert (False, True) == (enable_timing, blocking)

    def record(self, stream: HostStream) -> None:
        stream.log.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        HostStream.log.append("event has come")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let ``CudaDevice`` run on host memory, through its own calls of torch."""
    log: list[str] = []
    real = torch.empty

    @contextlib.contextmanager
    def on(stream: HostStream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    def empty(size: int, *, dtype: torch.dtype, pin_memory: bool = False, device: torch.device | None = None) -> Tensor:
        assert pin_memory != (device is not None)
        log.append("pinned" if pin_memory else "allocated")
        if size > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB.")
        return real(size, dtype=dtype)

    monkeypatch.setattr(HostStream, "log", log, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", HostStream)
    monkeypatch.setattr(torch.cuda, "Event", HostEvent)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: HostStream())
    monkeypatch.setattr(torch, "empty", empty)
    return log


def test_a_load_makes_the_calls_in_the_order_that_cuda_needs(host: list[str], tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0)}, tmp_path / "m.safetensors")
    with PinnedRing(CudaDevice(), slots=1, slot_bytes=16, readers=1) as ring:
        assert [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] == ring.load(tmp_path / "m.safetensors")["a"].tolist()
    expected = [
        *("pinned", "allocated", "ours waits for the caller's"),
        *("on ours", "event on ours", "event has come"),  # the one slot is filled again after its event
        *("on ours", "event on ours", "drained"),
    ]
    assert expected == host


def test_out_of_memory_names_the_device_and_the_size(host: list[str], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1001, dtype=torch.uint8)}, tmp_path / "m.safetensors")
    ring = PinnedRing(CudaDevice("cuda:1"), slots=1, slot_bytes=16)
    with pytest.raises(DeviceRefused, match=r"^cuda:1: 1001 bytes: CUDA out of memory"):
        ring.load(tmp_path / "m.safetensors")
    with pytest.raises(DeviceRefused, match=r"^cuda:1: 4096 bytes of page-locked memory: CUDA out of memory"):
        PinnedRing(CudaDevice("cuda:1"), slots=1, slot_bytes=4096)


def test_importing_the_device_does_not_import_torch() -> None:
    at_load = [
        alias.name
        for node in ast.parse(inspect.getsource(device_module)).body
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert ["contextlib"] == at_load
