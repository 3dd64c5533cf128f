"""What a template says about the GPU: ``Device``, ``VramMiB``, ``Mps``, and Lambda's ``AcceleratorConfig``.

Pure: whether there is a GPU is the node's to know. A template for one can be planned and checked on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import DefinitionError

if TYPE_CHECKING:
    from .spec import FunctionSpec, Reader

DEVICES = ("auto", "cpu", "cuda")
KEYS = frozenset({"Device", "VramMiB", "Mps"})
CUDA = "cuda:0"
"""The device of every function on a GPU: the first. More than one is not built."""

CPU = "cpu"
CONTEXT_MIB = 512
"""What a context is reckoned to take of the device's memory: torch's kernels, the driver's own heap and stacks. Between
300 and 600 MiB are reported for current devices; nobody has measured it here."""

_ON_CPU_ONLY = frozenset({"onnxruntime"})
_READ_ONCE = ("CUDA_", "NVIDIA_", "PYTORCH_", "TORCH_")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """The GPU as a function wants it. ``device`` is one of ``DEVICES``; ``vram_mib`` is the device memory that an
    instance needs, None where the template does not say; ``mps`` is False where it must not share a context server;
    ``thread_percent`` is its share of the device's threads under MPS, None for no limit."""

    device: str = "auto"
    vram_mib: int | None = None
    mps: bool = True
    thread_percent: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields; ``DeviceSpec(**…)`` reads them back."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def read(cls, definition: Reader, glowplug: Reader) -> DeviceSpec:
        """Read the keys from a definition and its Glowplug metadata. Raises ``DefinitionError`` naming the field.

        ``AcceleratorMemorySize`` is in GiB per device, as Lambda's; ``VramMiB`` is finer, and wins.
        """
        vram_mib = glowplug.optional_whole("VramMiB", low=1)
        gib = definition.section("AcceleratorConfig", {"AcceleratorMemorySize"})
        size_gib = gib.optional_whole("AcceleratorMemorySize", low=1)
        if vram_mib is None and size_gib is not None:
            vram_mib = size_gib * 1024
        mps, percent = True, None
        if isinstance(glowplug.values.get("Mps"), Mapping):
            section = glowplug.section("Mps", {"ActiveThreadPercentage"})
            percent = section.optional_whole("ActiveThreadPercentage", low=1)
            if percent is not None and percent > 100:
                raise DefinitionError(section.at("ActiveThreadPercentage"), f"{percent} is not between 1 and 100")
        else:
            mps = glowplug.choice("Mps", ("auto", "off"), "auto") == "auto"
        return cls(glowplug.choice("Device", DEVICES, "auto"), vram_mib, mps, percent)


def device_of(spec: FunctionSpec, *, present: bool) -> str:
    """Return where a function's models run on a node that has a GPU (``present``) or has none: ``cpu`` or ``cuda:0``.

    ``auto`` is the GPU for a function with a model that torch or TensorRT runs.
    """
    wanted = spec.gpu.device
    if not present or wanted == "cpu":
        return CPU
    torch = any(model.engine not in _ON_CPU_ONLY for model in spec.models)
    return CUDA if wanted == "cuda" or torch else CPU


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
