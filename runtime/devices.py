"""Where a function runs on this node, the CPU or the GPU, and what it needs there. Pure."""

from __future__ import annotations

from .spec import FunctionSpec

CUDA = "cuda:0"
"""The device of every function on a GPU: the first. More than one is not built."""

CPU = "cpu"
CONTEXT_MIB = 512
"""What a context is reckoned to take of the device's memory: torch's kernels, the driver's own heap and stacks. Between
300 and 600 MiB are reported for current devices; nobody has measured it here."""

_ON_CPU_ONLY = frozenset({"onnxruntime"})
_READ_ONCE = ("CUDA_", "NVIDIA_", "PYTORCH_", "TORCH_")


def device_of(spec: FunctionSpec, *, present: bool, auto: str) -> str:
    """Return where a function's models run on a node that has a GPU (``present``) or has none: ``cpu`` or ``cuda:0``.

    ``auto`` is what the operator has ``Device: auto`` mean, ``cpu`` or ``cuda``; the latter moves a function with a
    model that torch or TensorRT runs, and no other.
    """
    if not present or spec.gpu.device == "cpu":
        return CPU
    if spec.gpu.device == "cuda":
        return CUDA
    torch = any(model.engine not in _ON_CPU_ONLY for model in spec.models)
    return CUDA if auto == "cuda" and torch else CPU


def context_obstacle(spec: FunctionSpec) -> str:
    """Return why a context that was made beforehand is none for this function; empty when it is.

    What the driver and torch read once, when they make it, cannot be changed any more.
    """
    for name in sorted(spec.environment):
        if name.startswith(_READ_ONCE):
            return f"Environment sets {name}, which is read when a context is made"
    return spec.exec_reason


def needed_mib(spec: FunctionSpec) -> int:
    """Return the device memory of an instance in MiB: what the template says, else its weights and half as much again
    for activations, and a context."""
    if spec.gpu.vram_mib is not None:
        return spec.gpu.vram_mib
    weights = sum(file.size for model in spec.models for file in model.files if file.name.endswith(".safetensors"))
    return weights * 3 // 2 // 2**20 + CONTEXT_MIB
