"""Every way to get the tensors of a checkpoint that the benches compare, each in a process of its own.

A child (``python -m bench.cache_loaders LOADER``) imports its library, says ``{"ready": …}`` or why it cannot run here,
and then obeys one JSON object a line: ``{"do": "write", "source", "target"}`` makes the file in the loader's own
format, ``{"do": "check", "source", "target"}`` compares every tensor with the safetensors file,
``{"do": "load", "target"}`` answers how long a load took. Imports are not part of any time: a node has them in
its zygote.

Two moments are timed, because "loaded" means different things:

    available   the call has returned all tensors by name; a mapping may not have read one byte of them yet
    touched     afterwards one byte of every page of every tensor has been read, so that all of them are in memory
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache_children import Child, child

Tensors = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loader:
    """``load`` gives the tensors for the length of a block, ``gives`` says what they are: views of a mapping or a copy.

    ``write`` makes the loader's own file, named with ``suffix``, from the safetensors file; without it that is read.
    """

    title: str
    gives: str
    modules: tuple[str, ...]
    load: Callable[[Path], AbstractContextManager[Tensors]]
    write: Callable[[Path, Path], None] | None = None
    suffix: str = ".safetensors"

    def file(self, checkpoint: Path) -> Path:
        """Return the file that is loaded in place of ``checkpoint``."""
        return checkpoint.with_suffix(self.suffix)


@contextlib.contextmanager
def _map(path: Path) -> Iterator[Tensors]:
    from glowplug.cache.sharded import checkpoint

    yield checkpoint({"model.safetensors": str(path)})


@contextlib.contextmanager
def _start(path: Path) -> Iterator[Tensors]:
    """As a start does it: reading begins at once in another process, the mapping does not wait for it."""
    reader = _reader()
    reader.send(path=str(path))
    with _map(path) as tensors:
        arriving = _Arriving(tensors, reader.answer)
        yield arriving
        arriving.wait()


class _Arriving(dict[str, Any]):
    """Tensors whose bytes are still being read. A start has a handler to import before it touches the first of them;
    here ``wait`` stands for that."""

    def __init__(self, tensors: Tensors, answer: Callable[[], object]) -> None:
        super().__init__(tensors)
        self._answer: Callable[[], object] | None = answer

    def wait(self) -> None:
        """Return when the reading is over."""
        if self._answer is not None:
            self._answer()
            self._answer = None


@functools.cache
def _reader() -> Child:
    """Return the process that reads ahead, started with the first load, which is never timed."""
    return _running.enter_context(child("bench.cache_readahead"))


_running = contextlib.ExitStack()
"""What ends with this process."""


@contextlib.contextmanager
def _load_file(path: Path) -> Iterator[Tensors]:
    from safetensors.torch import load_file

    yield load_file(path)


@contextlib.contextmanager
def _safe_open(path: Path) -> Iterator[Tensors]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        yield {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)


@contextlib.contextmanager
def _streamer(path: Path) -> Iterator[Tensors]:
    package = importlib.import_module("runai_model_streamer")
    with package.SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        yield dict(streamer.get_tensors())


@contextlib.contextmanager
def _tensorizer(path: Path) -> Iterator[Tensors]:
    package = importlib.import_module("tensorizer")
    deserializer = package.TensorDeserializer(str(path), device="cpu", num_readers=len(os.sched_getaffinity(0)))
    try:
        yield {name: deserializer[name] for name in deserializer}
    finally:
        deserializer.close()


def _write_tensorizer(source: Path, target: Path) -> None:
    package = importlib.import_module("tensorizer")
    serializer = package.TensorSerializer(str(target))
    with _safe_open(source) as tensors:
        serializer.write_state_dict(dict(tensors))
    serializer.close()


@contextlib.contextmanager
def _torch_load(path: Path, *, mmap: bool = False) -> Iterator[Tensors]:
    import torch

    yield torch.load(path, weights_only=True, mmap=mmap)


def _torch_load_mapped(path: Path) -> AbstractContextManager[Tensors]:
    return _torch_load(path, mmap=True)


def _write_pickle(source: Path, target: Path) -> None:
    import torch

    with _safe_open(source) as tensors:
        torch.save(dict(tensors), target)


_TORCH_MODULES = ("torch",)
_OWN_MODULES = ("torch", "glowplug.cache.sharded")
_COPIED = "copied"
_MAPPED = "mapped"
LOADERS: Mapping[str, Loader] = {
    "map": Loader("glowplug checkpoint()", _MAPPED, _OWN_MODULES, _map),
    "glowplug": Loader("glowplug, read-ahead and map", _MAPPED, _OWN_MODULES, _start),
    "load_file": Loader("safetensors load_file", _MAPPED, ("safetensors.torch",), _load_file),
    "safe_open": Loader("safetensors safe_open", _MAPPED, ("safetensors.torch",), _safe_open),
    "streamer": Loader("runai-model-streamer", _COPIED, ("torch", "runai_model_streamer"), _streamer),
    "tensorizer": Loader("tensorizer", _COPIED, ("torch", "tensorizer"), _tensorizer, _write_tensorizer, ".tensors"),
    "torch": Loader("torch.load", _COPIED, _TORCH_MODULES, _torch_load, _write_pickle, ".pt"),
    "torch-mmap": Loader("torch.load(mmap=True)", _MAPPED, _TORCH_MODULES, _torch_load_mapped, _write_pickle, ".pt"),
}


def main(name: str) -> None:
    """Be the child of one loader until standard input ends."""
    loader = LOADERS[name]
    try:
        for module in loader.modules:
            importlib.import_module(module)
    except Exception as error:  # a library's own reason, whatever its class, is what the table shows
        print(json.dumps({"unavailable": f"{type(error).__name__}: {error}"}), flush=True)
        return
    importlib.import_module("torch").set_num_threads(1)  # reading pages is what is timed, not how many cores sum them
    print(json.dumps({"ready": name}), flush=True)
    with _running:
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(_obey(loader, order)), flush=True)
            gc.collect()


def _obey(loader: Loader, order: dict[str, str]) -> dict[str, Any]:
    target = Path(order["target"])
    if order["do"] == "load":
        return _timed(loader, target)
    if order["do"] == "check":
        return {"different": _different(loader, Path(order["source"]), target)}
    if loader.write is not None and not target.exists():
        loader.write(Path(order["source"]), target)
        os.sync()  # a later bench's disk is not to be busy with it
    return {"written": str(target)}


def _timed(loader: Loader, path: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    with loader.load(path) as tensors:
        available = time.perf_counter()
        if isinstance(tensors, _Arriving):
            tensors.wait()
        touch(tensors)
        touched = time.perf_counter()
        count = len(tensors)
    return {"available_ms": (available - begun) * 1e3, "touched_ms": (touched - begun) * 1e3, "tensors": count}


def touch(tensors: Tensors) -> None:
    """Read one byte of every page of every tensor."""
    import torch

    for tensor in tensors.values():
        tensor.flatten().view(torch.uint8)[:: os.sysconf("SC_PAGE_SIZE")].sum()


def _different(loader: Loader, source: Path, target: Path) -> list[str]:
    """Return the names of tensors that are not bit for bit those of the safetensors file."""
    import torch

    with _safe_open(source) as expected, loader.load(target) as actual:
        odd = [name for name in expected if name not in actual or expected[name].dtype != actual[name].dtype]
        odd += [name for name in actual if name not in expected]
        both = [name for name in expected if name not in odd]
        return odd + [n for n in both if not torch.equal(_bits(expected[n]), _bits(actual[n]))]


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.flatten().view(torch.uint8)  # noise has NaNs, which equal nothing


if __name__ == "__main__":
    main(sys.argv[1])
