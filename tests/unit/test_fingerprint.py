"""Fingerprints: an engine from another CPU, torch or Python is told apart, in words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from glowplug.snapshot import fingerprint
from glowplug.snapshot.errors import SnapshotCorrupt

HERE = fingerprint.Fingerprint(
    engine_format=1, torch="2.13.0+cpu", machine="x86_64", cpu=("avx2", "fma"), python="cpython-311", libc="glibc 2.36"
)


def test_this_machine_is_equal_to_itself() -> None:
    assert [] == fingerprint.compare(fingerprint.current().to_json())


def test_it_survives_json() -> None:
    assert HERE == fingerprint.Fingerprint.from_json(HERE.to_json())


def test_an_engine_from_another_cpu_says_what_this_one_lacks() -> None:
    elsewhere = dataclasses.replace(HERE, cpu=("avx2", "avx512f", "fma"))
    assert ["this CPU lacks avx512f"] == elsewhere.differences(HERE)


def test_an_engine_that_would_not_use_this_cpu_is_different_too() -> None:
    elsewhere = dataclasses.replace(HERE, cpu=("avx2",))
    assert ["not built for this CPU's fma"] == elsewhere.differences(HERE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch": "2.12.1"}, "torch 2.12.1, here 2.13.0+cpu"),
        ({"python": "cpython-313"}, "Python cpython-313, here cpython-311"),
        ({"engine_format": 0}, "engine format 0, here 1"),
        ({"machine": "aarch64"}, "machine aarch64, here x86_64"),
        ({"libc": "glibc 2.31"}, "libc glibc 2.31, here glibc 2.36"),
    ],
)
def test_each_difference_is_put_into_words(change: dict[str, str], words: str) -> None:
    assert [words] == dataclasses.replace(HERE, **change).differences(HERE)  # type: ignore[arg-type]


def test_only_flags_that_a_compiler_can_use_count() -> None:
    text = (
        "processor : 0\nflags\t\t: fpu avx2 hypervisor amx_tile fma avx512f smep vmx\n\nprocessor : 1\nflags : sse2\n"
    )
    assert ("amx_tile", "avx2", "avx512f", "fma") == fingerprint.cpu_features(text)


def test_arm_calls_them_features() -> None:
    assert ("asimd", "sve") == fingerprint.cpu_features("Features\t: fp asimd evtstrm sve cpuid\n")


@pytest.mark.parametrize("value", [None, [], {}, {**HERE.to_json(), "cpu": "avx2"}, {**HERE.to_json(), "more": 1}])
def test_what_is_no_fingerprint_is_corrupt(value: object) -> None:
    with pytest.raises(SnapshotCorrupt, match="fingerprint"):
        fingerprint.Fingerprint.from_json(value)


def test_the_node_compares_without_importing_torch() -> None:
    code = (
        "import sys; from glowplug.snapshot import fingerprint; fingerprint.compare(fingerprint.current().to_json()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
