"""``glowplug doctor``: each probe on machines of files made for it."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from glowplug.cache.disk import MEASURED_BYTES, DiskProfile, device_of, read_profile
from glowplug.deploy.cli import disk, doctor, machine
from glowplug.deploy.cli.machine import Finding
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.state import StateDirectory

ROW = "model name\t: A CPU\nflags\t\t: fpu sse {}\n\nmodel name\t: A CPU\nflags\t\t: fpu\n"


def file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_cpu_names_the_vector_instructions_and_warns_without_them(tmp_path: Path) -> None:
    found = machine.cpu(file(tmp_path / "a", ROW.format("avx2 avx512f amx_tile")))
    assert found == Finding("CPU", "ok", "A CPU: avx2, avx512f, amx_tile")
    assert machine.cpu(file(tmp_path / "b", ROW.format("sse4_1"))).verdict == "warn"
    assert machine.cpu(file(tmp_path / "c", "Features\t: fp asimd bf16\n")).verdict == "ok"


def test_cores_warns_of_a_quota_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine.cores(file(tmp_path / "a", "max 100000\n")) == Finding("Cores", "ok", "8")
    assert machine.cores(tmp_path / "no").verdict == "ok"
    found = machine.cores(file(tmp_path / "b", "250000 100000\n"))
    assert (found.verdict, found.found) == ("warn", "8, of which the container may use 2.5")
    assert "GLOWPLUG_CORES=2" in found.advice


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    meminfo = file(tmp_path / "meminfo", "MemTotal: 64000000 kB\nMemAvailable:   10000000 kB\n")
    assert machine.memory(meminfo, tmp_path).found == "10.2 GB free"
    file(tmp_path / "memory.max", "3000000000\n")
    file(tmp_path / "memory.current", "2500000000\n")
    found = machine.memory(meminfo, tmp_path)
    assert (found.verdict, found.found) == ("warn", "500.0 MB free")
    file(tmp_path / "memory.max", "max\n")
    assert machine.memory(meminfo, tmp_path).verdict == "ok"


def test_gpu_is_found_without_touching_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _, path=None: None)
    assert machine.gpu(tmp_path) == Finding("GPU", "ok", "none; functions run on the CPU")
    file(tmp_path / "nvidia0", "")
    file(tmp_path / "nvidiactl", "")
    assert machine.gpu(tmp_path).found == "nvidia0, but no nvidia-smi"
    tool = file(tmp_path / "nvidia-smi", "#!/bin/sh\necho '22000, 23034, NVIDIA L4, 8.9, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _, path=None: str(tool))
    found = "NVIDIA L4, 23034 MiB, 22000 free, compute capability 8.9, driver 570.1"
    assert machine.gpu(tmp_path, {}) == Finding("GPU", "ok", f"{found}; only for functions with Device: cuda")
    assert machine.gpu(tmp_path, {"GLOWPLUG_DEVICE": "cuda"}).found.endswith(
        "; Device: auto is the GPU (GLOWPLUG_DEVICE)"
    )
    tool.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert machine.gpu(tmp_path).verdict == "warn"


def test_a_missing_compiler_says_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = machine.compiler()
    assert (found.verdict, found.found) == ("warn", "none")
    assert "served by eager" in found.advice


def test_limits_that_are_low_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert (machine.files().verdict, machine.files().found) == ("warn", "256 (hard limit 4096)")
    assert machine.processes(tmp_path / "no").found == "256 (user)"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (machine.files().verdict, machine.files().found) == ("ok", "unlimited (hard limit unlimited)")
    assert machine.processes(tmp_path / "no").found == "unlimited"
    assert machine.processes(file(tmp_path / "pids.max", "100\n")).found == "100 (container)"


def test_a_kernel_without_pidfd_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.kernel().verdict == "ok"

    def refuse(_: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert machine.kernel().found.endswith("no pidfd_open")


def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = file(tmp_path / "mounts", "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /a\\040b xfs rw 0 0\n")
    assert [disk.file_system(Path(path), mounts) for path in ("/usr/x", "/tmp/x", "/tmpx", "/a b/c")] == [
        "ext4",
        "tmpfs",
        "ext4",
        "xfs",
    ]


def test_a_state_directory_that_is_not_there_yet_is_looked_at_above_it(tmp_path: Path) -> None:
    found = disk.state_disk(tmp_path / "not" / "yet")
    assert "State directory" == found.subject
    assert found.found.startswith(str(tmp_path / "not" / "yet"))
    assert [] == list(tmp_path.iterdir())


def test_a_state_directory_in_memory_or_short_of_space_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "file_system", lambda path: "tmpfs")
    assert "it is in memory" in disk.state_disk(tmp_path).advice
    monkeypatch.setattr(disk, "file_system", lambda path: "ext4")
    monkeypatch.setattr(disk, "_free_bytes", lambda path: 10**9)
    assert "free some space" in disk.state_disk(tmp_path).advice
    monkeypatch.setattr(disk, "_free_bytes", lambda path: 10**11)
    assert Finding("State directory", "ok", f"{tmp_path}: ext4, 100.0 GB free") == disk.state_disk(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"{tmp_path}: cannot be written" == disk.state_disk(tmp_path).found


def profile(directory: Path, bytes_per_s: float) -> DiskProfile:
    return DiskProfile(1, 8 << 20, bytes_per_s, True, device_of(directory), ((1, bytes_per_s), (4, 1.05e9)))


def test_the_cache_disk_is_measured_and_kept_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(directory: Path, *, size_bytes: int) -> DiskProfile:
        asked.append(size_bytes)
        return profile(directory, 1.2e9)

    monkeypatch.setattr(disk, "measure", measure)
    state, cache = tmp_path / "state", tmp_path / "state" / "cache"
    found = disk.cache_disk(cache, state)
    said = f"{cache}: 1.20 GB/s with 1 reader (4 readers: 1.05); read-ahead uses it"
    assert Finding("Cache disk", "ok", said) == found
    assert profile(cache, 1.2e9) == read_profile(cache)
    assert [MEASURED_BYTES] == asked
    assert [0o700, 0o755] == [path.stat().st_mode & 0o777 for path in (state, cache)]


def test_a_slow_cache_disk_warns_and_one_in_memory_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "measure", lambda directory, size_bytes: profile(directory, 9e7))
    found = disk.cache_disk(tmp_path, tmp_path)
    assert ("warn", "first starts wait for this disk; an SSD reads at GB/s") == (found.verdict, found.advice)
    assert "0.09 GB/s with 1 reader" in found.found
    (tmp_path / "disk.json").unlink()
    monkeypatch.setattr(disk, "measure", lambda directory, size_bytes: DiskProfile())
    assert "cannot be measured: it stays in memory" in disk.cache_disk(tmp_path, tmp_path).found
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_disk_that_cannot_be_written_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    found = disk.cache_disk(file(tmp_path / "file", "in the way") / "cache", tmp_path)
    assert "warn" == found.verdict
    assert f"not measured: {tmp_path / 'file' / 'cache'}: Not a directory" == found.found


def test_the_cache_disk_is_really_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MEASURED_BYTES", 8 << 20)
    found = disk.cache_disk(tmp_path / "cache", tmp_path)
    measured = read_profile(tmp_path / "cache")
    assert measured.measured == ("GB/s with" in found.found)  # a tmpfs cannot be
    assert [".json"] * measured.measured == [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_kernel_without_cachestat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(disk, "cachestat_pages", refuse)
    assert disk.residency().found.startswith("no cachestat (Function not implemented); read-ahead asks mincore")
    monkeypatch.setattr(disk, "cachestat_pages", lambda descriptor, offset, length: 0)
    assert Finding("Page cache", "ok", "cachestat tells read-ahead what is in memory already") == disk.residency()


@pytest.mark.parametrize(
    ("said", "uid", "verdict", "advice"),
    [
        ("", 0, "ok", ""),
        ("no /var/task and no /tmp of its own: Operation not permitted", 0, "warn", "Allow user namespaces"),
        ("no /tmp of its own: mount on /tmp: Operation not permitted", 1000, "warn", "Landlock forbids it"),
    ],
)
def test_what_functions_see_of_the_file_system(
    monkeypatch: pytest.MonkeyPatch, said: str, uid: int, verdict: str, advice: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(machine, "_VIEW", f"print({said!r})")
    found = machine.view()
    assert (verdict, said in found.found or not said, advice in found.advice) == (found.verdict, True, True)


def test_isolation_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, verdict in (
        ("users", "ok"),
        ("landlock", "ok"),
        ("none: functions on this node trust each other", "warn"),
    ):
        monkeypatch.setattr("glowplug.runtime.process.confine.describe", lambda said=said: said)
        assert doctor.isolation().verdict == verdict


def test_node_says_which_one_runs(tmp_path: Path) -> None:
    assert doctor.node(tmp_path).found == "none runs; start one with `glowplug up`"
    with StateDirectory(NodeConfig(state=tmp_path, cache=tmp_path / "cache")) as state:
        state.create()
        state.lock()
        assert doctor.node(tmp_path).verdict == "warn"
        state.announce("http://127.0.0.1:9")
        assert doctor.node(tmp_path).found == f"pid {os.getpid()} at http://127.0.0.1:9"


def test_doctor_puts_the_advice_below_its_finding_within_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("Moon", "warn", "full " * 30, "wait for another one")
    monkeypatch.setattr(doctor, "probes", lambda: [lambda: finding])
    monkeypatch.setattr(doctor, "state_disk", lambda state: Finding("Disk", "ok", str(state)))
    monkeypatch.setattr(doctor, "cache_disk", lambda cache, state: Finding("Cache", "ok", f"{cache} below {state}"))
    monkeypatch.setattr(doctor, "residency", lambda: Finding("Pages", "ok", ""))
    monkeypatch.setattr(doctor, "isolation", lambda: Finding("Isolation", "ok", ""))
    result = CliRunner().invoke(doctor.doctor, ["--state", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[:2] for line in lines if line.startswith(("ok", "warn"))] == [
        ["warn", "Moon"],
        ["ok", "Isolation"],
        ["ok", "Pages"],
        ["ok", "Disk"],
        ["ok", "Cache"],
        ["ok", "Node"],
    ]
    assert [line.strip() for line in lines if "→" in line] == ["→ wait for another one"]
    as_json = CliRunner().invoke(doctor.doctor, ["--state", str(tmp_path), "--json"])
    assert [found["subject"] for found in json.loads(as_json.stdout)["findings"]] == [
        "Moon",
        "Isolation",
        "Pages",
        "Disk",
        "Cache",
        "Node",
    ]


def test_mps_is_off_unless_it_is_asked_for_and_there(tmp_path: Path) -> None:
    """What is asked for and missing is the only thing to warn about."""
    path = {"PATH": str(tmp_path)}
    assert machine.mps(path) == Finding("MPS", "ok", "off")
    assert machine.mps({**path, "GLOWPLUG_MPS": "1"}).verdict == "warn"
    file(tmp_path / "nvidia-cuda-mps-control", "").chmod(0o755)
    assert machine.mps(path).found == "off; there to be switched on with GLOWPLUG_MPS=1"
    assert machine.mps({**path, "GLOWPLUG_MPS": "1"}).found.startswith("on (GLOWPLUG_MPS): ")
