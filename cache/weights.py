"""Safetensors files as tensors that share one mapping of the file.

``header.py`` says what a file must look like; reading a header needs no torch. ``tensors`` maps the file once and
copies nothing. What the mapping is, and why:

- *The file is read-only.* It is opened O_RDONLY and mapped MAP_PRIVATE: no write through a tensor can reach the file
  or another process, whatever the tensor's owner does.
- *Pages are shared until they are written.* They come from the page cache, one copy for all processes that map the
  blob; who writes to a page gets that page for himself (copy-on-write). The mapping is PROT_WRITE only for this: a
  handler that changes a weight in place changes its own copy instead of dying of a signal, and torch need not warn of a
  read-only buffer.
- *It reserves no swap* (MAP_NORESERVE): mapping a file larger than memory is not a promise to write to all of it.
- *It carries no hint* (madvise). The kernel maps the 16 pages around each fault by itself; MADV_HUGEPAGE does nothing
  for files of ordinary file systems; reading ahead before the first use is ``prefetch.py``'s task, which knows the
  order of use and the free memory.

Each tensor has a storage of its own rather than a slice of one that spans the file: copying, pickling or saving a
tensor must not drag gigabytes along. A file that is truncated while it is mapped raises SIGBUS in whoever touches what
is gone; blobs are never truncated, they are replaced by rename.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DtypeUnsupported, WeightsError, WeightsMalformed, WeightsTruncated
from .header import LENGTH_BYTES, Header, TensorView, header_length, parse, quoted
from .sources.listing import is_pickled, pickled

if TYPE_CHECKING:
    import torch

_MAP_NORESERVE = 0x4000  # linux/mman.h on x86-64 and arm64; the mmap module of Python 3.11 does not name it

_TORCH_NAMES = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
    "U64": "uint64",
}  # fmt: skip


def weight_files(files: Mapping[str, str]) -> dict[str, str]:
    """Return the safetensors among a source's ``files`` (name -> path), by name.

    Raises ``PickledWeights`` when the only weights are pickled.
    """
    chosen = {name: files[name] for name in sorted(files) if name.endswith(".safetensors")}
    refused = sorted(name for name in files if is_pickled(name))
    if refused and not chosen:
        raise pickled(refused[0])
    return chosen


def read_header(path: str | Path) -> Header:
    """Return the checked header of a safetensors file. Raises as ``opened``."""
    with opened(path) as (_, header):
        return header


def tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Map a safetensors file and return its tensors by name; no bytes are read until they are used.

    A tensor whose place in the file is not a multiple of its element size is copied into memory of its own: kernels may
    count on alignment. Today's writers pad the header and sort by size, so this happens to no tensor; where a writer
    did not pad (as in the format's first years) it may happen to all of a file. Raises as ``opened``, and
    ``DtypeUnsupported``.
    """
    mapping, header = mapped(path)
    return _tensors(path, header, mapping)


def mapped(path: str | Path) -> tuple[mmap.mmap, Header]:
    """Map a safetensors file, as the module docstring says, and return it with its checked header; needs no torch.

    Raises as ``opened``.
    """
    with opened(path) as (descriptor, header):
        try:
            mapping = mmap.mmap(
                descriptor,
                header.file_bytes,
                flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        except OSError as error:
            raise WeightsError(f"{path}: cannot be mapped: {error.strerror}") from error
        except ValueError as error:  # how mmap says that the file has become shorter since its header was read
            raise WeightsTruncated(f"{path}: cannot be mapped: {error}") from error
        return mapping, header


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[tuple[int, Header]]:
    """Open a safetensors file for reading and give its descriptor, close-on-exec, and its checked header.

    Raises ``WeightsMalformed``, ``WeightsTruncated``, ``PickledWeights`` (by name), or ``WeightsError`` when the file
    cannot be read; the message begins with the path.
    """
    if is_pickled(str(path)):
        raise pickled(str(path))
    try:  # O_NONBLOCK: opening a FIFO must not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    try:
        yield descriptor, _header(path, descriptor)
    finally:
        os.close(descriptor)


def layout(name: str, view: TensorView) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return torch's dtype and shape for a tensor of a file: the view's own, except that F4 is packed in pairs.

    Raises ``DtypeUnsupported`` naming the tensor.
    """
    dtype = _torch_dtype(view.dtype)
    if dtype is None:
        raise DtypeUnsupported(f"{quoted(name)}: torch has no dtype for {view.dtype}")
    if view.dtype != "F4":
        return dtype, view.shape
    if not view.shape or view.shape[-1] % 2:
        raise DtypeUnsupported(f"{quoted(name)}: F4 of shape {view.shape}: torch packs two, so the last must be even")
    return dtype, (*view.shape[:-1], view.shape[-1] // 2)


def _header(path: str | Path, descriptor: int) -> Header:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError("not a regular file")
        length = header_length(os.pread(descriptor, LENGTH_BYTES, 0), status.st_size)
        text = os.pread(descriptor, length, LENGTH_BYTES)
        if len(text) != length:
            raise WeightsTruncated(f"the file ended within the header, at {LENGTH_BYTES + len(text)} bytes")
        return parse(text, status.st_size)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    except (WeightsTruncated, WeightsMalformed, WeightsError) as error:
        raise type(error)(f"{path}: {error}") from None


@functools.cache
def _torch_dtype(name: str) -> torch.dtype | None:
    import torch  # late, as documented: reading headers must not cost the import of torch

    found: torch.dtype | None = getattr(torch, _TORCH_NAMES.get(name, ""), None)
    return found


def _tensors(path: str | Path, header: Header, mapping: mmap.mmap) -> dict[str, torch.Tensor]:
    import torch  # late, as above

    found: dict[str, torch.Tensor] = {}
    for name, view in header.tensors.items():
        try:
            dtype, shape = layout(name, view)
        except DtypeUnsupported as error:
            raise DtypeUnsupported(f"{path}: {error}") from None
        size = view.end - view.begin
        if size == 0:  # frombuffer takes no empty range
            found[name] = torch.empty(shape, dtype=dtype)
        elif view.begin % dtype.itemsize:
            flat = torch.frombuffer(mapping, dtype=torch.uint8, count=size, offset=view.begin)
            found[name] = flat.clone().view(dtype).view(shape)
        else:
            count = size // dtype.itemsize
            flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=view.begin)
            found[name] = flat if shape == (count,) else flat.view(shape)  # a view takes a microsecond
    return found
