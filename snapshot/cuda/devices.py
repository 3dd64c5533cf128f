"""Which GPUs this machine has and how much of their memory is free, as ``nvidia-smi`` lists them.

The node must not touch CUDA: a context costs hundreds of MiB of device memory, and a process that has one cannot be
forked from. NVML in the node's own process (``pynvml``) would do without a context, but a driver that hangs would then
hang the node, and it is one more package; a program can be killed. It takes some 20 ms where the persistence daemon
runs, which a start on a GPU does not notice.

Torch-free and CUDA-free. The devices are in PCI bus order, so CUDA numbers them alike only where
``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set (``ORDER``).
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeviceListingInvalid, DeviceUnavailable

TOOL = "nvidia-smi"
DRIVER = Path("/proc/driver/nvidia")
QUERY = (
    "--query-gpu=memory.free,memory.total,name,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
)
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""What a process that uses CUDA needs in its environment for ``cuda:0`` to be the first device of the listing."""

TIMEOUT_S = 10.0
"""The tool takes some seconds on a machine with many GPUs and without a persistence daemon; a hung driver for ever."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. ``free_mib`` and ``total_mib`` are None where the driver does not tell (unified memory)."""

    index: int
    name: str
    free_mib: int | None
    total_mib: int | None
    compute_capability: str
    driver: str

    def describe(self) -> str:
        """Return the device in one line, for ``glowplug doctor``."""
        size = "memory unknown" if self.total_mib is None else f"{self.total_mib} MiB, {self.free_mib} free"
        return f"{self.name}, {size}, compute capability {self.compute_capability}, driver {self.driver}"


def tool(path: str | None = None) -> str:
    """Return where ``nvidia-smi`` is, looked up in ``path`` (None: the process' own PATH); empty when nowhere."""
    return shutil.which(TOOL, path=path) or ""


def obstacle(found: str, driver: Path = DRIVER) -> str:
    """Return why there is no GPU to be used here, from what needs no program to be run; empty when there may be one.

    ``found`` is what ``tool`` returned. The tool alone is asked (under WSL there is no ``/proc/driver``); the driver
    alone is not enough, because nobody could say how much memory is free.
    """
    if found:
        return ""
    if driver.exists():
        return f"the NVIDIA driver is loaded, but {TOOL} is not on the PATH"
    return "this machine has no NVIDIA GPU"


def listing(found: str, *, timeout_s: float = TIMEOUT_S) -> tuple[Gpu, ...]:
    """Ask the tool at ``found``; blocks for as long as that takes.

    Raises ``DeviceUnavailable`` when it fails, hangs or lists nothing, ``DeviceListingInvalid``.
    """
    try:
        done = subprocess.run([found, *QUERY], capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise DeviceUnavailable(f"{TOOL} did not answer within {timeout_s:.0f} s") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceUnavailable(f"{TOOL} cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
        raise DeviceUnavailable(f"{TOOL} failed with status {done.returncode}: {said or 'it said nothing'}")
    devices = parse(done.stdout)
    if not devices:
        raise DeviceUnavailable(f"{TOOL} lists no device")
    return devices


def parse(text: str) -> tuple[Gpu, ...]:
    """Read the answer to ``QUERY``, one line per device. Raises ``DeviceListingInvalid`` naming the line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return tuple(_device(index, line) for index, line in enumerate(lines))


def _device(index: int, line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) < 5:
        raise DeviceListingInvalid(f"{TOOL}, line {index + 1}: {line[:200]!r} has {len(fields)} fields, not 5")
    free, total, *name, capability, driver = fields
    free_mib, total_mib = _mebibytes(index, free), _mebibytes(index, total)
    if free_mib is not None and total_mib is not None and free_mib > total_mib:
        raise DeviceListingInvalid(f"{TOOL}, line {index + 1}: {free} MiB are free of {total}")
    return Gpu(index, ", ".join(name), free_mib, total_mib, capability, driver)


def _mebibytes(index: int, text: str) -> int | None:
    """Return a size; None for ``[N/A]``, ``[Not Supported]`` and whatever else the tool brackets."""
    if text.startswith("[") and text.endswith("]"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise DeviceListingInvalid(f"{TOOL}, line {index + 1}: {text[:50]!r} is not a number of MiB")
    return int(text)
