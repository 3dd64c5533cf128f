"""What this machine has: one small probe per subject, each with a verdict and what to do about it.

No probe imports torch, touches CUDA, or changes anything but a temporary file in the state directory.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glowplug.snapshot.cuda import devices as nvidia
from glowplug.snapshot.cuda import mps as nvidia_mps
from glowplug.snapshot.errors import DeviceError

from .output import size

Verdict = Literal["ok", "warn"]

_PROGRAM_TIMEOUT_S = 10.0  # nvidia-smi takes some seconds on a machine with many GPUs and no persistence daemon
_MEMORY_WARN_BYTES = 2_000_000_000  # torch imported once takes 0.3 GB, one bake of a small model about 1 GB
_FILES_WARN = 4096  # a worker costs the node 6 descriptors, a connection one
_PROCESSES_WARN = 1024
_VECTOR_FLAGS = "avx2 fma avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 asimd sve bf16 i8mm".split()
_VIEW = "from glowplug.runtime.process import view; print(view.refusal())"
_UNSHARE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x00020000) != 0)"  # CLONE_NEWNS


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``glowplug doctor``. ``advice`` is empty when nothing needs doing."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


def probes() -> list[Callable[[], Finding]]:
    """Return every probe that needs no state directory, in the order they are shown."""
    return [python, torch, compiler, cpu, cores, memory, gpu, mps, files, processes, kernel, mount_namespace, view]


def python() -> Finding:
    """Say which Python runs the node; functions run on the same one."""
    found = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    return Finding("Python", "ok", found)


def torch() -> Finding:
    """Say which torch is installed, without importing it."""
    try:
        return Finding("torch", "ok", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("torch", "warn", "not installed", "functions with a model need it: pip install torch")


def compiler() -> Finding:
    """Find the C++ compiler that torch's inductor would use: $CXX, g++, clang++."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        if path := shutil.which(name):
            return Finding("C++ compiler", "ok", _first_line([path, "--version"]) or path)
    advice = "install g++: without a compiler no engine is baked and models are served by eager"
    return Finding("C++ compiler", "warn", "none", advice)


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Name the processor and the vector instructions that engines are compiled for."""
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    model = fields.get("model name") or platform.machine()
    vector = [flag for flag in _VECTOR_FLAGS if flag in flags]
    if not {"avx2", "asimd"} & set(vector):
        advice = "engines are slow here: the processor, or the virtual machine, has no AVX2"
        return Finding("CPU", "warn", f"{model}: no AVX2", advice)
    return Finding("CPU", "ok", f"{model}: {', '.join(vector)}")


def cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> Finding:
    """Count the cores that this process may use, and compare with the container's quota."""
    usable = len(os.sched_getaffinity(0))
    words = _read(quota_file).split()
    if len(words) == 2 and words[0] != "max":
        quota = int(words[0]) / int(words[1])
        if quota < usable:
            advice = f"set GLOWPLUG_CORES={max(1, int(quota))}, or too many starts share the quota"
            return Finding("Cores", "warn", f"{usable}, of which the container may use {quota:.1f}", advice)
    return Finding("Cores", "ok", str(usable))


def memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """Tell the memory that is free for weights and instances: the machine's, or the container's when that is less."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free_bytes = min(free_bytes, max(0, int(limit) - int(used)))
    found = f"{size(free_bytes)} free"
    if free_bytes < _MEMORY_WARN_BYTES:
        return Finding("Memory", "warn", found, "a bake of a small model takes about 1 GB; free some or bake elsewhere")
    return Finding("Memory", "ok", found)


def gpu(devices: Path = Path("/dev"), settings: Mapping[str, str] | None = None) -> Finding:
    """Look for NVIDIA GPUs by their tool or device files, and say who uses them; CUDA itself is not touched, a context
    would cost seconds."""
    if path := nvidia.tool():
        asked = (os.environ if settings is None else settings).get("GLOWPLUG_DEVICE") == "cuda"
        who = "Device: auto is the GPU (GLOWPLUG_DEVICE)" if asked else "only for functions with Device: cuda"
        try:
            return Finding("GPU", "ok", f"{'; '.join(one.describe() for one in nvidia.listing(path))}; {who}")
        except DeviceError as error:
            return Finding("GPU", "warn", str(error), "check the driver; functions run on the CPU meanwhile")
    found = sorted(entry.name for entry in devices.glob("nvidia[0-9]*"))
    if found:
        advice = "install the driver's nvidia-smi; functions run on the CPU meanwhile"
        return Finding("GPU", "warn", f"{', '.join(found)}, but no nvidia-smi", advice)
    return Finding("GPU", "ok", "none; functions run on the CPU")


def mps(settings: Mapping[str, str] | None = None) -> Finding:
    """Say whether functions may share the GPU at the same time: the operator asks for it, the program is there."""
    environ = os.environ if settings is None else settings
    asked = environ.get("GLOWPLUG_MPS", "").lower() in ("1", "true")
    program = nvidia_mps.program(environ.get("PATH"))
    if asked and not program:
        advice = f"install {nvidia_mps.PROGRAM}, or unset GLOWPLUG_MPS; functions take turns on a GPU meanwhile"
        return Finding("MPS", "warn", f"asked for, but there is no {nvidia_mps.PROGRAM}", advice)
    if asked:
        return Finding("MPS", "ok", f"on (GLOWPLUG_MPS): {program}")
    return Finding("MPS", "ok", "off; there to be switched on with GLOWPLUG_MPS=1" if program else "off")


def files() -> Finding:
    """Compare the limit of open files with what a busy node uses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} (hard limit {_limit(hard)})"
    if soft != resource.RLIM_INFINITY and soft < _FILES_WARN:
        return Finding("Open files", "warn", found, f"raise it before `glowplug up`: ulimit -n {_FILES_WARN}")
    return Finding("Open files", "ok", found)


def processes(pids_file: Path = Path("/sys/fs/cgroup/pids.max")) -> Finding:
    """Compare the limits of processes, the user's and the container's, with what a busy node uses."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {} if soft == resource.RLIM_INFINITY else {"user": soft}
    container = _read(pids_file).strip()
    if container.isdigit():
        limits["container"] = int(container)
    if not limits:
        return Finding("Processes", "ok", "unlimited")
    whose, least = min(limits.items(), key=lambda item: item[1])
    if least < _PROCESSES_WARN:
        advice = f"raise the {whose}'s limit: threads count too, and a model instance has one per core"
        return Finding("Processes", "warn", f"{least} ({whose})", advice)
    return Finding("Processes", "ok", f"{least} ({whose})")


def kernel() -> Finding:
    """Check the calls that the node cannot do without: pidfd (Linux 5.3) and memfd (3.17)."""
    release = platform.release()
    missing = []
    for name in ("pidfd_open", "memfd_create"):
        try:
            os.close(os.pidfd_open(os.getpid()) if name == "pidfd_open" else os.memfd_create("doctor"))
        except (OSError, AttributeError):
            missing.append(name)
    if missing:
        advice = "glowplug needs Linux 5.3 or later, and a sandbox that allows these calls"
        return Finding("Kernel", "warn", f"{release}: no {' and no '.join(missing)}", advice)
    return Finding("Kernel", "ok", f"{release}: pidfd, memfd")


def mount_namespace() -> Finding:
    """Check whether a node that is root can hide its directories from the users that functions run under."""
    if os.geteuid() != 0:
        return Finding("Mount namespaces", "ok", "not needed: only a node that runs as root uses them")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _UNSHARE], timeout=_PROGRAM_TIMEOUT_S, check=False, capture_output=True
    )
    if done.returncode == 0:
        return Finding("Mount namespaces", "ok", "available")
    advice = "functions keep the node's user; give the container CAP_SYS_ADMIN, or run the node as another user"
    return Finding("Mount namespaces", "warn", "not permitted", advice)


def view() -> Finding:
    """Try whether functions get Lambda's directories and a /tmp of their own, in a process that ends with it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _VIEW],
        timeout=_PROGRAM_TIMEOUT_S, check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    refused = done.stdout.strip() if done.returncode == 0 else f"could not be tried: {done.stderr.strip()[-200:]}"
    if not refused:
        return Finding("/var/task, /tmp", "ok", "code at /var/task, and a /tmp of EphemeralStorage size per instance")
    advice = "TMPDIR is a directory of each instance's instead; its size is not bounded. Allow user namespaces"
    if "/var/task" not in refused and os.geteuid() != 0:
        advice = "Landlock forbids it: TMPDIR is a directory of each instance's instead; or run the node as root"
    return Finding("/var/task, /tmp", "warn", f"functions have {refused}", advice)


def _first_line(command: list[str]) -> str:
    return (_output(command).splitlines() or [""])[0].strip()


def _output(command: list[str]) -> str:
    """Return what a program prints; nothing when it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _read(path: Path) -> str:
    """Return a kernel file's text; nothing where this kernel or container has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
