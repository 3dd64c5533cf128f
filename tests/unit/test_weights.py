"""Safetensors as mapped tensors: same values as the reference reader, shared pages, torch only where tensors are made."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glowplug.cache import residency, weights
from glowplug.cache.errors import DtypeUnsupported, PickledWeights, WeightsError, WeightsTruncated
from glowplug.cache.header import Header, parse
from glowplug.cache.weights import opened, read_header, tensors, weight_files


def write(path: Path, header: dict[str, object], data: bytes, *, padded: bool = False) -> Path:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 if padded else 0)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def everything() -> dict[str, torch.Tensor]:
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    eights = [
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    ]
    integers = [
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ]
    made = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in [*floats, *integers]}
    made |= {str(kind): torch.ones(2, 3).to(kind) for kind in eights}
    made["bool"] = torch.tensor([True, False, True])
    made["complex"] = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    made["scalar"] = torch.tensor(7.0)
    made["empty"] = torch.empty(0, 5)
    return made


def test_every_dtype_reads_as_the_reference_reader_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    save_file(everything(), path)
    expected, actual = load_file(path), tensors(path)
    assert sorted(expected) == sorted(actual)
    for name, tensor in expected.items():
        assert (tensor.dtype, tensor.shape) == (actual[name].dtype, actual[name].shape)
        assert (
            tensor.contiguous().view(-1).view(torch.uint8).tolist() == actual[name].view(-1).view(torch.uint8).tolist()
        )


def test_metadata_and_places_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2, 3)}, path, metadata={"format": "pt"})
    script = (
        "import sys; from glowplug.cache.weights import read_header; h = read_header(sys.argv[1]);"
        "assert 'torch' not in sys.modules and 'fsspec' not in sys.modules;"
        "print(dict(h.metadata), h.tensors['w'].shape, h.tensors['w'].end)"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert f"{{'format': 'pt'}} (2, 3) {path.stat().st_size}\n" == run.stdout


def test_four_bit_floats_are_packed_in_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "f4.safetensors", {"w": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}, b"abcd")
    tensor = tensors(path)["w"]
    assert (torch.float4_e2m1fn_x2, (2, 2)) == (tensor.dtype, tuple(tensor.shape))


def test_six_bit_floats_are_named_as_unsupported(tmp_path: Path) -> None:
    entry = {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}
    path = write(tmp_path / "f6.safetensors", {"w": entry}, b"abc")
    with pytest.raises(DtypeUnsupported, match=r"f6\.safetensors.*F6_E2M3"):
        tensors(path)


def test_a_misaligned_tensor_is_copied_and_right(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    header: dict[str, object] = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path = write(tmp_path / "odd.safetensors", header, b"x" + values.numpy().tobytes())
    read = tensors(path)["b"]
    assert [1.5, -2.0] == read.tolist()
    assert 0 == read.data_ptr() % 4


def test_writing_to_a_tensor_changes_neither_the_file_nor_another_mapping(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    before = path.read_bytes()
    mine, other = tensors(path), tensors(path)
    mine["w"].fill_(1.0)
    assert [0.0] * 4 == other["w"].tolist()
    assert before == path.read_bytes()


def test_writing_to_a_tensor_is_not_seen_by_another_process(tmp_path: Path) -> None:
    """The other one maps the file, looks again after this one has written, then writes itself."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4096), "v": torch.ones(3)}, path)
    before = path.read_bytes()
    script = (
        "import sys; from glowplug.cache.weights import tensors; w = tensors(sys.argv[1])['w'];"
        "print(w.sum().item(), flush=True); sys.stdin.readline(); print(w.sum().item(), flush=True);"
        "w.fill_(5.0); print(w.sum().item(), flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert "0.0\n" == other.stdout.readline()
        mine = tensors(path)["w"]
        mine.fill_(1.0)
        other.stdin.write("\n")
        other.stdin.flush()
        assert ["0.0\n", "20480.0\n"] == [other.stdout.readline(), other.stdout.readline()]
        assert 4096.0 == mine.sum().item()
        other.stdin.write("\n")
    assert (0, before) == (other.returncode, path.read_bytes())


def test_the_file_itself_is_open_for_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    path.chmod(0o444)
    with opened(path) as (descriptor, _):
        assert os.O_RDONLY == fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        assert fcntl.FD_CLOEXEC == fcntl.fcntl(descriptor, fcntl.F_GETFD)
    tensors(path)["w"].fill_(1.0)  # still no error: the write goes to a page of its own


def test_a_tensor_can_be_copied_and_pickled_without_the_rest_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"small": torch.ones(2), "large": torch.zeros(1 << 20)}, path)
    assert 8 == tensors(path)["small"].untyped_storage().nbytes()


def test_tensors_of_a_file_share_one_mapping_and_copy_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1 << 20), "b": torch.ones(1 << 20)}, path)
    read = tensors(path)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert 1 == len(maps)
    assert "rw-p" == maps[0].split()[1]
    begin, end = (int(part, 16) for part in maps[0].split()[0].split("-"))
    assert all(begin <= tensor.data_ptr() < end for tensor in read.values())


def test_tensors_keep_their_mapping_after_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.full((1000,), 3.0)}, path)
    read = tensors(path)
    save_file({"w": torch.zeros(1)}, tmp_path / "new")
    os.replace(tmp_path / "new", path)
    assert 3.0 == read["w"][999].item()


def test_two_gigabytes_in_a_thousand_tensors_are_mapped_without_being_read(tmp_path: Path) -> None:
    """Sparse: what is not touched costs nothing. How long it takes is the bench's to say."""
    path, rows = tmp_path / "m.safetensors", 7812
    header = {
        f"model.layers.{number}.self_attn.q_proj.weight": {
            "dtype": "F32", "shape": [rows, 64], "data_offsets": [number * rows * 256, (number + 1) * rows * 256],
        }
        for number in range(1000)
    }  # fmt: skip
    write(path, dict(header), b"", padded=True)
    os.truncate(path, path.stat().st_size + 1000 * rows * 256)
    residency.drop(path)
    assert 1000 == len(tensors(path))
    assert residency.resident_bytes(path) < 256 * 1024 * 1024  # the header, and what the kernel reads on by itself


def test_a_header_that_cannot_be_read_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)

    def io_error(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", io_error)
    with pytest.raises(WeightsError, match=r"m\.safetensors: Input/output error"):
        read_header(path)


def test_a_header_that_ends_early_is_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: real(descriptor, min(length, 20), offset))
    with pytest.raises(WeightsTruncated, match="ended within the header, at 28 bytes"):
        read_header(path)


def test_a_file_that_shrinks_between_header_and_mapping_is_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)

    def shrinking(text: bytes, file_bytes: int) -> Header:
        os.truncate(path, file_bytes - 1)
        return parse(text, file_bytes)

    monkeypatch.setattr(weights, "parse", shrinking)
    with pytest.raises(WeightsTruncated, match=r"m\.safetensors: cannot be mapped"):
        tensors(path)


def test_a_mapping_that_the_kernel_refuses_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)

    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("mmap.mmap", refused)
    with pytest.raises(WeightsError, match=r"m\.safetensors: cannot be mapped: Cannot allocate memory"):
        tensors(path)


@pytest.mark.parametrize("read", [tensors, read_header])
def test_no_descriptor_is_left_open(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        read(path)
    path.write_bytes(b"no safetensors")
    for _ in range(3):
        with pytest.raises(WeightsError):
            read(path)
    assert before == len(os.listdir("/proc/self/fd"))


def test_the_safetensors_of_a_source_are_chosen() -> None:
    files = {"config.json": "/c", "model-2.safetensors": "/2", "model-1.safetensors": "/1", "pytorch_model.bin": "/p"}
    assert {"model-1.safetensors": "/1", "model-2.safetensors": "/2"} == weight_files(files)
    assert {} == weight_files({"config.json": "/c"})
    with pytest.raises(PickledWeights, match=r"model\.pt"):
        weight_files({"config.json": "/c", "model.pt": "/p"})


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(PickledWeights):
        tensors(tmp_path / "pytorch_model.bin")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        with pytest.raises(WeightsError, match=str(path)):
            read_header(path)
