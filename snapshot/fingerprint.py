"""What must match for an engine to be usable here.

An engine is machine code that was compiled for the instructions of one CPU (the compiler is told ``-march=native``)
against the C++ interface of one torch. Loading it elsewhere ends in SIGILL or worse, so it is compared first.

Torch-free: the node compares fingerprints and never imports torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SnapshotCorrupt

ENGINE_FORMAT = 1
"""Raised whenever a change here makes engines baked by an earlier release unusable."""

_FEATURES = {
    "flags": tuple("sse4 ssse3 avx fma f16c bmi amx vnni abm movbe popcnt adx sha gfni vaes vpclmul".split()),  # x86-64
    "Features": tuple("asimd sve sme fphp bf16 i8mm atomics".split()),  # arm64
}
"""Beginnings of the CPU flags that decide which instructions a compiler may emit. The others (virtualisation, power,
mitigations) change with the kernel and would only cost bakes."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One machine with its software, as far as an engine depends on them."""

    engine_format: int
    torch: str
    machine: str
    cpu: tuple[str, ...]
    python: str
    libc: str

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as JSON-able values; ``from_json`` reads it back."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"cpu": list(self.cpu)}

    @classmethod
    def from_json(cls, value: object) -> Fingerprint:
        """Read what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
        if not isinstance(value, Mapping) or set(value) != set(cls.__dataclass_fields__):
            raise SnapshotCorrupt("fingerprint: not the fields a baker writes")
        if not isinstance(value["cpu"], list):
            raise SnapshotCorrupt("fingerprint: cpu is not a list")
        return cls(**{**value, "cpu": tuple(value["cpu"])})

    def differences(self, here: Fingerprint) -> list[str]:
        """Return, in words, why an engine with this fingerprint must not be loaded ``here``; empty when it may be."""
        found = [
            f"{label} {theirs}, here {ours}"
            for label, theirs, ours in (
                ("engine format", self.engine_format, here.engine_format),
                ("torch", self.torch, here.torch),
                ("machine", self.machine, here.machine),
                ("Python", self.python, here.python),
                ("libc", self.libc, here.libc),
            )
            if theirs != ours
        ]
        lacking = sorted(set(self.cpu) - set(here.cpu))
        extra = sorted(set(here.cpu) - set(self.cpu))
        if lacking:
            found.append(f"this CPU lacks {' '.join(lacking)}")
        if extra:
            found.append(f"not built for this CPU's {' '.join(extra)}")
        return found


@functools.cache
def current() -> Fingerprint:
    """Return the fingerprint of this machine and installation, without importing torch."""
    return Fingerprint(
        engine_format=ENGINE_FORMAT,
        torch=importlib.metadata.version("torch"),
        machine=platform.machine(),
        cpu=cpu_features(_first_core(Path("/proc/cpuinfo"))),
        python=str(sys.implementation.cache_tag),
        libc=os.confstr("CS_GNU_LIBC_VERSION") or "",
    )


def compare(recorded: Mapping[str, Any]) -> list[str]:
    """Return what differs between a manifest's fingerprint and this machine, in words; empty when nothing does.

    Raises ``SnapshotCorrupt`` when ``recorded`` is not a fingerprint.
    """
    return Fingerprint.from_json(recorded).differences(current())


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Return the flags that matter from the text of ``/proc/cpuinfo``, sorted (x86: ``flags``, arm64: ``Features``)."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        chosen = _FEATURES.get(name.strip())
        if chosen is not None:
            return tuple(sorted(flag for flag in set(value.split()) if flag.startswith(chosen)))
    return ()


def _first_core(path: Path) -> str:
    """Read up to the first blank line: the kernel writes one block per core, and 128 of them take milliseconds."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        block: list[str] = []
        for line in lines:
            if not line.strip():
                break
            block.append(line)
        return "".join(block)
