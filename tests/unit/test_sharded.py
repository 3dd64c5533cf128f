"""Checkpoints of several files: the index is followed, and believed only as far as the shards agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glowplug.cache.errors import PickledWeights, WeightsError, WeightsMalformed, WeightsTruncated
from glowplug.cache.header import MAX_HEADER_BYTES
from glowplug.cache.sharded import INDEX, checkpoint, placement, shards

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a": ONE, "b": ONE, "c": TWO}


class Source:
    """A directory of files, with the index and two shards that agree with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Path] = {}
        self.save(ONE, a=torch.arange(3.0), b=torch.ones(2, 2))
        self.save(TWO, c=torch.arange(4))
        self.index(MAP)

    def save(self, name: str, **tensors: torch.Tensor) -> None:
        self.files[name] = self.directory / name.replace("/", "_")
        save_file(tensors, self.files[name])

    def index(self, weight_map: Any) -> None:
        self.write(json.dumps({"metadata": {"total_size": 60}, "weight_map": weight_map}).encode())

    def write(self, text: bytes) -> None:
        self.files[INDEX] = self.directory / "an-index"
        self.files[INDEX].write_bytes(text)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def values(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def test_a_sharded_checkpoint_is_all_its_shards(source: Source) -> None:
    assert {"a": [0.0, 1.0, 2.0], "b": [[1.0, 1.0], [1.0, 1.0]], "c": [0, 1, 2, 3]} == values(checkpoint(source.files))
    assert {ONE: str(source.files[ONE]), TWO: str(source.files[TWO])} == shards(source.files)


def test_each_shard_is_mapped_once(source: Source) -> None:
    read = checkpoint(source.files)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(source.directory) in line]
    assert sorted([str(source.files[ONE]), str(source.files[TWO])]) == sorted(line.split()[-1] for line in maps)
    assert 3 == len(read)


def test_the_index_decides_which_files_count(source: Source) -> None:
    source.save("model.safetensors", a=torch.zeros(1))
    source.save("consolidated.safetensors", a=torch.zeros(1), d=torch.zeros(1))
    assert [ONE, TWO] == list(shards(source.files))


def test_without_an_index_the_one_of_the_usual_name_counts(source: Source) -> None:
    del source.files[INDEX]
    source.save("model.safetensors", z=torch.zeros(1))
    assert {"z": [0.0]} == values(checkpoint(source.files))


def test_without_an_index_all_files_count_unless_they_share_a_name(source: Source) -> None:
    del source.files[INDEX]
    assert ["a", "b", "c"] == sorted(checkpoint(source.files))
    source.save("z.safetensors", a=torch.arange(3.0))
    for read in (shards, checkpoint):
        with pytest.raises(WeightsMalformed, match=rf"'a' is in two files, {ONE} and z\.safetensors"):
            read(source.files)


def test_a_source_without_weights_has_no_shards(tmp_path: Path) -> None:
    assert {} == shards({"config.json": tmp_path / "config.json"})
    assert {} == checkpoint({})
    with pytest.raises(PickledWeights):
        shards({"model.bin": tmp_path / "model.bin"})


def test_a_tensor_that_the_index_forgot_is_kept(source: Source) -> None:
    source.index({"a": ONE, "c": TWO})
    assert ["a", "b", "c"] == sorted(checkpoint(source.files))


def test_the_total_size_is_not_looked_at(source: Source) -> None:
    source.write(json.dumps({"metadata": {"total_size": -1}, "weight_map": MAP}).encode())
    assert [ONE, TWO] == list(shards(source.files))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": TWO}, rf"index\.json has 'a' in {TWO}, but it is in {ONE}"),
        ({"c": ONE}, rf"index\.json has 'c' in {ONE}, but none of the files in use has it"),
        ({"d": TWO}, rf"index\.json has 'd' in {TWO}, but none of the files"),
        (
            {"a": "model-00003-of-00002.safetensors"},
            "names model-00003-of-00002.safetensors, which the source does not",
        ),
        ({"a": "../" + ONE}, "not a safe file name"),
        ({"a": "/etc/passwd"}, "not a safe file name"),
        ({"a": "x/../" + ONE}, "not a safe file name"),
        ({"a": ".\\" + ONE}, "not a safe file name"),
        ({"a": "a\0" + ONE}, "not a safe file name"),
        ({"a": "\ud800.safetensors"}, "not a safe file name"),
        ({"a": ""}, "not a safe file name"),
        ({"a": "n" * 100_000}, "not a safe file name"),
        ({"a": INDEX}, r"not a \.safetensors file"),
        ({"a": 1}, "has no weight_map of tensor names to file names"),
        ({"a": None}, "has no weight_map of tensor names to file names"),
    ],
)
def test_an_index_that_does_not_agree_is_refused(source: Source, change: dict[str, Any], message: str) -> None:
    source.index(MAP | change)
    for read in (shards, checkpoint):
        with pytest.raises(WeightsMalformed, match=message) as refused:
            read(source.files)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b'{"weight_map":', b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": "a"}',
        b'{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', b"[" * 100_000, b"\xff\xfe", b"9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_index_is_refused(source: Source, text: bytes) -> None:
    source.write(text)
    with pytest.raises(WeightsMalformed, match=r"^model\.safetensors\.index\.json"):
        shards(source.files)


def test_an_index_as_large_as_a_disk_is_not_parsed(source: Source) -> None:
    with source.files[INDEX].open("wb") as file:
        file.truncate(MAX_HEADER_BYTES + 1)  # a sparse file
    with pytest.raises(WeightsMalformed, match="larger than 100000000 bytes"):
        placement(source.files)


def test_a_tensor_in_two_shards_is_refused(source: Source) -> None:
    source.save(TWO, c=torch.arange(4), a=torch.arange(3.0))
    with pytest.raises(WeightsMalformed, match=f"'a' is in two files, {ONE} and {TWO}"):
        checkpoint(source.files)


def test_a_damaged_shard_is_named_as_people_know_it(source: Source) -> None:
    blob = source.directory / ("0" * 64)
    blob.write_bytes(source.files[TWO].read_bytes()[:-8])
    source.files[TWO] = blob
    for read in (shards, checkpoint):
        with pytest.raises(WeightsTruncated, match=f"^{TWO}: {blob}: "):
            read(source.files)


def test_an_index_that_cannot_be_read_is_a_typed_error(source: Source) -> None:
    source.files[INDEX].unlink()
    with pytest.raises(WeightsError, match=r"index\.json: No such file"):
        shards(source.files)
