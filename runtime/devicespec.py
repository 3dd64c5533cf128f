"""What a template says about the GPU: ``Device``, ``VramMiB``, ``Mps``, and Lambda's ``AcceleratorConfig``.

Whether there is a GPU is the node's to know (``devices``). A template for one can be checked on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import DefinitionError
from .reader import Reader

DEVICES = ("auto", "cpu", "cuda")
KEYS = frozenset({"Device", "VramMiB", "Mps"})


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
