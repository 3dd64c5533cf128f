"""Which GPU a plan was built on, and whether there is one here.

A plan is machine code for one GPU under one TensorRT. What must match is compared before TensorRT sees the plan: it
would refuse most mismatches itself, but in its log and with ``None``, and a wrong driver it finds out too late.

``obstacle`` runs in processes that are forked later, where the first CUDA call would make every fork useless. So it
asks the kernel module's files and never the driver.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import SnapshotCorrupt

MAJORS = (10, 11)
"""Versions of the API that this package is written for; both have strongly typed networks and refitting by name."""

_DRIVER = Path("/proc/driver/nvidia")
_VERSION = re.compile(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a plan depends on. ``sm`` is the compute capability (``8.9``), ``tensorrt`` the version of the library."""

    name: str
    sm: str
    driver: str
    tensorrt: str

    def to_json(self) -> dict[str, str]:
        """Return the fields as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Gpu:
        """Read what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
        if not isinstance(value, Mapping) or set(value) != set(cls.__dataclass_fields__):
            raise SnapshotCorrupt("plan: its GPU is not recorded with name, sm, driver and tensorrt")
        if not all(isinstance(field, str) for field in value.values()):
            raise SnapshotCorrupt("plan: its GPU's name, sm, driver and tensorrt are not all texts")
        return cls(**value)

    def differences(self, here: Gpu, *, version_compatible: bool = False) -> list[str]:
        """Return, in words, why a plan of this GPU must not be loaded ``here``; empty when it may be.

        A version compatible plan may be loaded by a later TensorRT of the same major version.
        """
        found = [
            f"{label} {theirs}, here {ours}"
            for label, theirs, ours in (
                ("GPU", self.name, here.name),
                ("compute capability", self.sm, here.sm),
                ("driver", self.driver, here.driver),
            )
            if theirs != ours
        ]
        fits = self.tensorrt == here.tensorrt
        if version_compatible and not fits:
            theirs, ours = _numbers(self.tensorrt), _numbers(here.tensorrt)
            fits = theirs[:1] == ours[:1] and theirs <= ours
        return found if fits else [*found, f"TensorRT {self.tensorrt}, here {here.tensorrt}"]


def obstacle(*, proc: Path = _DRIVER) -> str:
    """Return why TensorRT can neither build nor serve here, in words; empty when it can. Makes no CUDA call."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the tensorrt package is not installed"
    version = importlib.metadata.version("tensorrt")
    if not version.partition(".")[0].isdigit() or int(version.partition(".")[0]) not in MAJORS:
        return f"TensorRT {version}; this engine is written for {' and '.join(f'{major}.x' for major in MAJORS)}"
    return device_obstacle(proc=proc)


def device_obstacle(*, proc: Path = _DRIVER) -> str:
    """Return why there is no CUDA device for torch here, in words; empty when there is. Makes no CUDA call."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not driver(proc):
        return "no NVIDIA driver is loaded"
    gpus = proc / "gpus"
    if not gpus.is_dir() or not any(gpus.iterdir()):
        return "the NVIDIA driver knows no GPU"
    return ""


def driver(proc: Path = _DRIVER) -> str:
    """Return the version of the loaded driver, empty when none is."""
    try:
        text = (proc / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = _VERSION.search(text)
    return found[1] if found else ""


def current(device: Any, version: str) -> Gpu:
    """Return this machine's GPU: ``device`` as ``torch.cuda.get_device_properties`` describes it. Makes a context."""
    return Gpu(device.name, f"{device.major}.{device.minor}", driver(), version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
