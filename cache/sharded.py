"""Checkpoints of several safetensors files: which files make the model, and which tensor is in which.

``model.safetensors.index.json`` decides where it exists. It is the file that Hugging Face's libraries write next to
the shards (https://huggingface.co/docs/safetensors/metadata_parsing): ``{"metadata": {"total_size": …}, "weight_map":
{tensor: shard}}``. Without it ``model.safetensors`` alone counts where that exists, else every safetensors file:
repositories often hold a second copy of the weights in another layout next to the one that counts.

The rules, and why:

- A shard's name is a relative path that stays below the source's directory, ends in ``.safetensors`` and is among the
  source's files: an index is somebody else's text, and its names are looked up, never joined to a directory.
- A tensor is in one shard only, and in the one that the index names: of two copies nobody could say which one counts.
- A tensor that the index does not mention is kept, as long as its name is nobody else's: tools that add a tensor do not
  always mend the index.
- ``metadata`` is not looked at; writers disagree on what ``total_size`` counts (shared tensors once or twice), and the
  shards' own headers say how large they must be.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SourceInvalid, WeightsError, WeightsMalformed
from .header import MAX_HEADER_BYTES, quoted, unique_names
from .sources.listing import checked_name
from .weights import read_header, tensors, weight_files

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Placement:
    """The files of a checkpoint, ordered by name (name -> path), and the index's tensor -> file; None without one."""

    files: Mapping[str, str]
    index: Mapping[str, str] | None

    def check(self, held: Mapping[str, Collection[str]]) -> None:
        """Compare with the tensors that the files were found to hold (file -> tensor names).

        Raises ``WeightsMalformed`` naming the tensor that is in two files, or not where the index says.
        """
        found: dict[str, str] = {}
        for file, names in held.items():
            for name in names:
                if name in found:
                    raise WeightsMalformed(f"{quoted(name)} is in two files, {found[name]} and {file}")
                found[name] = file
        for name, file in (self.index or {}).items():
            if found.get(name) != file:
                where = f"it is in {found[name]}" if name in found else "none of the files in use has it"
                raise WeightsMalformed(f"{INDEX} has {quoted(name)} in {file}, but {where}")


def placement(files: Mapping[str, str | Path]) -> Placement:
    """Return which of a source's ``files`` (name -> path) make its checkpoint; no shard is opened.

    Empty when there is no safetensors file. Raises ``WeightsMalformed`` for an index that is not one or that names a
    file which is unsafe or not there, ``WeightsError`` when it cannot be read, ``PickledWeights`` when the only weights
    are pickled.
    """
    found = weight_files({name: str(path) for name, path in files.items()})
    if INDEX in files:
        index = _read_index(files[INDEX])
        return Placement({name: _shard(name, found) for name in sorted(set(index.values()))}, index)
    return Placement({SINGLE: found[SINGLE]} if SINGLE in found else found, None)


def shards(files: Mapping[str, str | Path]) -> dict[str, str]:
    """Return the safetensors files (name -> path) that make a source's checkpoint, after comparing index and headers.

    Raises as ``placement`` and ``weights.read_header``, and ``WeightsMalformed`` for a tensor that is in two files or
    not where the index says; the message begins with the file's name.
    """
    chosen = placement(files)
    held: dict[str, Collection[str]] = {}
    for name, path in chosen.files.items():
        with naming(name):
            held[name] = read_header(path).tensors
    chosen.check(held)
    return dict(chosen.files)


def checkpoint(files: Mapping[str, str | Path]) -> dict[str, torch.Tensor]:
    """Map every file of a source's checkpoint once and return all its tensors by name; empty when it has no weights.

    Raises as ``shards`` and ``weights.tensors``.
    """
    chosen = placement(files)
    mapped: dict[str, dict[str, torch.Tensor]] = {}
    for name, path in chosen.files.items():
        with naming(name):
            mapped[name] = tensors(path)
    chosen.check(mapped)
    return {name: tensor for found in mapped.values() for name, tensor in found.items()}


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Put the name that people know before the message of a ``WeightsError``, which has the path: often a digest."""
    try:
        yield
    except WeightsError as error:
        raise type(error)(f"{file}: {error}") from error


def _read_index(path: str | Path) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{INDEX}: {error.strerror}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise WeightsMalformed(f"{INDEX} is larger than {MAX_HEADER_BYTES} bytes")
    try:
        found: Any = json.loads(text.decode(), object_pairs_hook=unique_names)
    except WeightsMalformed as error:
        raise WeightsMalformed(f"{INDEX}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise WeightsMalformed(f"{INDEX} is not JSON: {str(error)[:200]}") from None
    index = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise WeightsMalformed(f"{INDEX} has no weight_map of tensor names to file names")
    return index


def _shard(name: str, found: Mapping[str, str]) -> str:
    """Return the path of the shard that the index calls ``name``."""
    try:
        checked_name(name)
    except SourceInvalid as error:
        raise WeightsMalformed(f"{INDEX} names {quoted(name)}, which is not a safe file name") from error
    if not name.endswith(".safetensors"):
        raise WeightsMalformed(f"{INDEX} names {quoted(name)}, which is not a .safetensors file")
    if name not in found:
        raise WeightsMalformed(f"{INDEX} names {name}, which the source does not have")
    return found[name]
