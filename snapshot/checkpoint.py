"""The weights side of a model: which tensors its source holds, and under which names the module knows them.

A source may hold several safetensors files. ``model.safetensors.index.json`` decides which belong to the model where it
exists (the shards that Hugging Face's libraries write: https://huggingface.co/docs/safetensors/metadata_parsing), else
``model.safetensors`` alone where that exists, else all of them: repositories often hold a second copy of the weights in
another layout next to the one that counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowplug.cache import weights
from glowplug.cache.errors import WeightsError

from .definition import Rename
from .errors import SnapshotCorrupt, WeightsMismatch, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source"
SNAPSHOT = "snapshot"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor's bytes are: ``place`` is ``source`` (the model's files) or ``snapshot`` (made at bake)."""

    place: str
    file: str
    tensor: str

    def to_json(self) -> list[str]:
        """Return ``[place, file, tensor]``."""
        return [self.place, self.file, self.tensor]

    @classmethod
    def from_json(cls, value: Any) -> Origin:
        """Read what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, str) for part in value):
            raise SnapshotCorrupt(f"weight map: {value!r} is not [place, file, tensor]")
        if value[0] not in (SOURCE, SNAPSHOT):
            raise SnapshotCorrupt(f"weight map: {value[0]!r} is neither {SOURCE} nor {SNAPSHOT}")
        return cls(*value)

    def __str__(self) -> str:
        return f"{self.tensor} in {self.file}"


class TensorFiles:
    """Opens each safetensors file of a source and of a snapshot once and hands out its mapped tensors."""

    def __init__(self, files: Mapping[str, Path], snapshot: Path | None = None) -> None:
        self._files = files
        self._snapshot = snapshot
        self._open: dict[tuple[str, str], Mapping[str, Tensor]] = {}

    def of(self, place: str, file: str) -> Mapping[str, Tensor]:
        """Return the tensors of one file. Raises ``WeightsMissing``, or what ``cache.weights`` raises for bad files."""
        found = self._open.get((place, file))
        if found is None:
            try:
                found = self._open[place, file] = weights.tensors(self._path(place, file))
            except WeightsError as error:  # it knows the path, which is a digest; people know the file's name
                raise type(error)(f"{file}: {error}") from error
        return found

    def get(self, origin: Origin) -> Tensor:
        """Return one tensor. Raises ``WeightsMissing`` when its file does not hold it."""
        tensor = self.of(origin.place, origin.file).get(origin.tensor)
        if tensor is None:
            raise WeightsMissing(f"{origin.file}: no tensor {origin.tensor}")
        return tensor

    def _path(self, place: str, file: str) -> Path:
        if place == SNAPSHOT and self._snapshot is not None:
            return self._snapshot / file
        if place == SNAPSHOT or file not in self._files:
            raise WeightsMissing(f"{file}: not among the files of the {place}")
        return Path(self._files[file])


def weight_files(files: Mapping[str, Path]) -> list[str]:
    """Return the names of the source's files that hold the model's weights, in order.

    Raises ``WeightsMissing`` when there is none or the index names one that is not there, ``PickledWeights`` when the
    only weights are pickled.
    """
    found = weights.weight_files({name: str(path) for name, path in files.items()})
    if INDEX in files:
        try:
            shards = sorted(set(json.loads(Path(files[INDEX]).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsMissing(f"{INDEX}: not an index with a weight_map ({error})") from error
        absent = [name for name in shards if name not in found]
        if absent:
            raise WeightsMissing(f"{INDEX} names {absent[0]}, which the source does not have")
        return shards
    if not found:
        raise WeightsMissing(f"no .safetensors file in the source; it has {', '.join(sorted(files)) or 'no files'}")
    return ["model.safetensors"] if "model.safetensors" in found else list(found)


def named_origins(tensors: TensorFiles, files: Mapping[str, Path], rename: Rename | None) -> dict[str, Origin]:
    """Return module tensor name -> where the checkpoint holds it, after the author's renaming.

    Raises ``WeightsMismatch`` when two tensors get one name, ``WeightsMissing``, ``cache.errors.WeightsError``.
    """
    origins: dict[str, Origin] = {}
    for file in weight_files(files):
        for key in tensors.of(SOURCE, file):
            name = key if rename is None else rename(key)
            if name is None:
                continue
            if not isinstance(name, str):
                raise WeightsMismatch(f"weights({key!r}) returned {type(name).__name__}, not a name or None")
            origin = Origin(SOURCE, file, key)
            if name in origins:
                raise WeightsMismatch(f"two tensors for {name}: {origins[name]} and {origin}")
            origins[name] = origin
    return origins
