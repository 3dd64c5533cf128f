"""Weights files made to hurt: each is refused with a typed error before a tensor exists."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from glowplug.cache.errors import WeightsError, WeightsMalformed, WeightsTruncated
from glowplug.cache.header import MAX_HEADER_BYTES
from glowplug.cache.weights import read_header, tensors

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changed: Any) -> dict[str, Any]:
    return {"w": {**F32, **changed}}


def file_of(path: Path, header: object, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


MALFORMED: dict[str, object] = {
    "not an object": b"[]",
    "leading space": b' {"w": 1}',
    "not JSON": b'{"w": ',
    "not UTF-8": b'{"\xff": 1}',
    "NaN": b'{"w": NaN}',
    "doubled name": b'{"w": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"w": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "doubled field": b'{"w": {"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "nested to death": b'{"w": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "number of 10,000 digits": b'{"w": {"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}',
    "entry is a list": {"w": [1]},
    "field missing": {"w": {"dtype": "F32", "shape": [2]}},
    "field too many": entry(extra=1),
    "unknown dtype": entry(dtype="Q4"),
    "dtype is a number": entry(dtype=5),
    "dtype is a list": entry(dtype=[]),
    "shape is a number": entry(shape=2),
    "negative extent": entry(shape=[-2]),
    "extent is true": entry(shape=[True, 2]),
    "extent is a float": entry(shape=[2.0]),
    "extents that overflow 64 bits": entry(shape=[2**32, 2**32, 2**32]),
    "extents that overflow behind a zero": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
    "three offsets": entry(data_offsets=[0, 8, 8]),
    "offsets backwards": entry(data_offsets=[8, 0]),
    "negative offset": entry(data_offsets=[-8, 0]),
    "offset of 2**64": entry(data_offsets=[2**64, 2**64 + 8]),
    "size does not fit the shape": entry(shape=[3]),
    "bytes that belong to nothing": {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "nothing but bytes": {},
    "does not begin at 0": {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "overlap": {"a": F32, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "same place twice": {"a": F32, "b": F32},
    "hole": {
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [6, 8]},
    },
    "metadata is a list": {**entry(), "__metadata__": []},
    "metadata of numbers": {**entry(), "__metadata__": {"format": 1}},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_header_is_refused(tmp_path: Path, case: str) -> None:
    path = file_of(tmp_path / "w.safetensors", MALFORMED[case])
    with pytest.raises(WeightsMalformed, match=r"w\.safetensors"):
        tensors(path)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_without_room_for_a_header_is_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(WeightsTruncated):
        tensors(path)


def test_every_truncation_of_a_good_file_is_refused(tmp_path: Path) -> None:
    good = save({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.int8)})
    path = tmp_path / "w.safetensors"
    path.write_bytes(good)
    assert 2 == len(tensors(path))
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(WeightsError):
            read_header(path)


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(8 + MAX_HEADER_BYTES + 1)  # a sparse file: present as far as sizes go
    with pytest.raises(WeightsMalformed, match="limit"):
        read_header(path)


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00." + bytes(100), b"GGUF" + bytes(100)])
def test_other_formats_are_not_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError):
        tensors(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_byte_changed_gives_tensors_inside_the_file_or_a_typed_error(
    tmp_path: Path, position: int, value: int
) -> None:
    good = bytearray(save({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.int8)}))
    good[position % len(good)] = value
    path = tmp_path / "w.safetensors"
    path.write_bytes(good)
    try:
        header = read_header(path)
    except WeightsError:
        return
    assert all(0 < view.begin <= view.end <= len(good) for view in header.tensors.values())
    assert sorted(header.tensors) == sorted(tensors(path))
