"""The pure parts of the tensorrt engine: profiles, fingerprints, obstacles, weights by content; and what it logs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glowplug.snapshot.engines import torch_private
from glowplug.snapshot.engines.tensorrt import TensorRt
from glowplug.snapshot.errors import SnapshotCorrupt
from glowplug.snapshot.signature import Input, Signature
from glowplug.snapshot.tensorrt import bindings, gpu, timing
from glowplug.snapshot.tensorrt.profiles import (
    UNBOUNDED,
    Span,
    batch_dimension,
    choose,
    from_json,
    profiles,
    to_json,
)
from glowplug.snapshot.tensorrt.testing import FakeTensorRt


def signature(ranges: dict[str, tuple[int, int | None]], *shapes: tuple[int | str, ...]) -> Signature:
    inputs = tuple(Input(f"i{number}", torch.float32, shape) for number, shape in enumerate(shapes))
    structure = torch_private.flatten({})[1]
    return Signature(tuple(item.name for item in inputs), inputs, ranges, structure, structure)


def test_fixed_sizes_make_one_fixed_profile() -> None:
    assert [(Span((3, 4), (3, 4), (3, 4)),)] == profiles(signature({}, (3, 4)), [[(3, 4)]])


def test_the_batch_is_divided_and_the_rest_spans_its_range() -> None:
    both = signature({"d0": (1, 64), "d1": (2, 128)}, ("d0", "d1"), ("d0",))
    made = profiles(both, [[(2, 16), (2,)], [(30, 7), (30,)]], "d0", (1, 8))
    assert [
        (Span((1, 2), (1, 16), (1, 128)), Span((1,), (1,), (1,))),
        (Span((2, 2), (8, 16), (8, 128)), Span((2,), (8,), (8,))),
        (Span((9, 2), (30, 16), (30, 128)), Span((9,), (30,), (30,))),
    ] == made


def test_a_dimension_without_a_bound_gets_one_that_holds_every_call() -> None:
    open_ended = signature({"d0": (1, None)}, (4, "d0"))
    assert [(Span((4, 1), (4, 9), (4, UNBOUNDED)),)] == profiles(open_ended, [[(4, 9)]])
    assert UNBOUNDED + 1 == profiles(open_ended, [[(4, 9)], [(4, UNBOUNDED + 1)]])[0][0].most[1]


def test_batch_sizes_outside_the_range_are_its_ends() -> None:
    made = profiles(signature({"d0": (2, 4)}, ("d0",)), [[(3,)]], "d0", (1, 100))
    assert [((2,), (2,)), ((3,), (3,)), ((4,), (4,))] == [(spans[0].least, spans[0].most) for spans in made]


@given(
    high=st.one_of(st.none(), st.integers(1, 200)),
    sizes=st.lists(st.integers(1, 300), max_size=4),
    tried=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    asked=st.integers(1, 200),
)
def test_every_size_up_to_the_largest_tried_has_exactly_one_profile(
    high: int | None, sizes: list[int], tried: list[int], asked: int
) -> None:
    within = [min(size, high) if high else size for size in tried]
    made = profiles(signature({"d0": (1, high)}, ("d0", 3)), [[(size, 3)] for size in within], "d0", sizes)
    takers = [number for number, (span,) in enumerate(made) if span.takes((asked, 3))]
    assert takers[:1] == ([choose(made, [(asked, 3)])] if takers else [])
    assert len(takers) <= 1
    if asked <= max(within):
        assert 1 == len(takers)
    assert all(span.takes(span.usual) for (span,) in made)
    assert made == from_json(to_json(made))


def test_the_batch_is_what_the_author_calls_so_else_the_first_that_varies() -> None:
    one = signature({"d0": (1, None), "d1": (1, None)}, ("d0", "d1"))
    assert "d1" == batch_dimension(one, {"i0": ("tokens", "batch")})
    assert "d0" == batch_dimension(one, {"i0": ("rows", "tokens")})
    assert "" == batch_dimension(signature({"d0": (1, None)}, (3, "d0")), {"i0": (None, "tokens")})


def test_no_profile_takes_another_rank_or_number_of_inputs() -> None:
    made = [(Span((1, 1), (2, 2), (4, 4)),)]
    assert (0, None, None, None) == tuple(
        choose(made, shapes) for shapes in ([(4, 1)], [(4,)], [(4, 5)], [(1, 1), (1, 1)])
    )


@pytest.mark.parametrize("value", [None, [], 3, [[["a"]]], [[[[1], [2]]]], [[7]]])
def test_profiles_that_no_baker_writes_are_corrupt(value: Any) -> None:
    with pytest.raises(SnapshotCorrupt, match="plan: "):
        from_json(value)


HERE = gpu.Gpu("NVIDIA L4", "8.9", "580.65.06", "11.4.0.106")


@pytest.mark.parametrize(
    ("changes", "compatible", "found"),
    [
        ({}, False, []),
        ({"name": "NVIDIA A10"}, True, ["GPU NVIDIA A10, here NVIDIA L4"]),
        ({"sm": "8.6"}, False, ["compute capability 8.6, here 8.9"]),
        ({"driver": "550.54"}, False, ["driver 550.54, here 580.65.06"]),
        ({"tensorrt": "11.3.0.9"}, False, ["TensorRT 11.3.0.9, here 11.4.0.106"]),
        ({"tensorrt": "11.3.0.9"}, True, []),
        ({"tensorrt": "11.4.1.2"}, True, ["TensorRT 11.4.1.2, here 11.4.0.106"]),
        ({"tensorrt": "10.16.1.11"}, True, ["TensorRT 10.16.1.11, here 11.4.0.106"]),
    ],
)
def test_what_differs_is_said_in_words(changes: dict[str, str], compatible: bool, found: list[str]) -> None:
    baked = gpu.Gpu.from_json(dataclasses.replace(HERE, **changes).to_json())
    assert found == baked.differences(HERE, version_compatible=compatible)


@pytest.mark.parametrize("value", [None, {}, {"name": "a"}, {**HERE.to_json(), "sm": 8.9}, {**HERE.to_json(), "x": ""}])
def test_a_gpu_that_no_baker_writes_is_corrupt(value: object) -> None:
    with pytest.raises(SnapshotCorrupt, match="its GPU"):
        gpu.Gpu.from_json(value)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A loaded driver with one GPU, a torch with CUDA, and TensorRT."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)\nGCC version:\n"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "11.4.0.106")
    return tmp_path


def test_a_driver_a_gpu_and_a_tensorrt_of_a_known_major_version_are_no_obstacle(kernel: Path) -> None:
    assert "" == gpu.obstacle(proc=kernel)
    assert "580.65.06" == gpu.driver(kernel)


def test_each_thing_that_is_missing_is_named(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel / "gpus" / "0000:01:00.0").rmdir()
    assert "the NVIDIA driver knows no GPU" == gpu.obstacle(proc=kernel)
    (kernel / "version").unlink()
    assert "no NVIDIA driver is loaded" == gpu.obstacle(proc=kernel)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert f"torch {torch.__version__} is built without CUDA" == gpu.obstacle(proc=kernel)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "8.6.1")
    assert "TensorRT 8.6.1; this engine is written for 10.x and 11.x" == gpu.obstacle(proc=kernel)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the tensorrt package is not installed" == gpu.obstacle(proc=kernel)


def test_looking_for_an_obstacle_makes_no_cuda_call(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("a CUDA call before the fork"))
    gpu.obstacle(proc=kernel)
    TensorRt.obstacle(making=True)


def test_the_last_words_are_kept_once_and_without_chatter() -> None:
    trt: Any = FakeTensorRt()
    log = bindings.Log(trt)
    log.logger.log(trt.ILogger.VERBOSE, "chatter")
    log.logger.log(trt.ILogger.ERROR, " first ")
    log.recorder.report_error(SimpleNamespace(name="INVALID_STATE"), "second")
    log.logger.log(trt.ILogger.ERROR, "second")
    assert "first\nINVALID_STATE: second" == log.words()
    assert "TensorRT said nothing" == log.words()
    assert (1, "second", False) == (
        log.recorder.get_num_errors(),
        log.recorder.get_error_desc(0),
        log.recorder.has_overflowed(),
    )
    log.recorder.clear()
    assert 0 == log.recorder.num_errors()
    for number in range(bindings.KEPT + 5):
        log.logger.log(trt.ILogger.WARNING, f"line {number}")
    assert bindings.KEPT == len(log.words().splitlines())


def test_the_newest_published_timing_cache_of_this_gpu_is_taken(tmp_path: Path) -> None:
    staging, published = tmp_path / "staging", tmp_path / "published"
    staging.mkdir()
    assert b"" == timing.earlier(HERE, staging, published)
    for age, (key, owner) in enumerate([("old", HERE), ("new", HERE), ("other", dataclasses.replace(HERE, sm="9.0"))]):
        (published / key).mkdir(parents=True)
        timing.keep(owner, published / key, key.encode())
        os.utime(published / key / timing.file_name(owner), (age, age))
    assert b"new" == timing.earlier(HERE, staging, published)
    assert b"new" == timing.earlier(dataclasses.replace(HERE, driver="999"), staging, published)
    timing.keep(HERE, staging, b"this bake's own")
    assert b"this bake's own" == timing.earlier(HERE, staging, published)
