"""The weights side of a model: which tensors its source holds, and under which names the module knows them.

A source may hold several safetensors files; ``cache.sharded`` says which of them make the checkpoint, and refuses an
index that does not agree with its shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowplug.cache import sharded, weights

from .definition import Rename
from .errors import SnapshotCorrupt, WeightsMismatch, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source"
SNAPSHOT = "snapshot"


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
            with sharded.naming(file):
                found = self._open[place, file] = weights.tensors(self.path(place, file))
        return found

    def get(self, origin: Origin) -> Tensor:
        """Return one tensor. Raises ``WeightsMissing`` when its file does not hold it."""
        tensor = self.of(origin.place, origin.file).get(origin.tensor)
        if tensor is None:
            raise WeightsMissing(f"{origin.file}: no tensor {origin.tensor}")
        return tensor

    def path(self, place: str, file: str) -> Path:
        """Return where a file is. Raises ``WeightsMissing``."""
        return located(self._files, self._snapshot, place, file)


def located(files: Mapping[str, Path], snapshot: Path | None, place: str, file: str) -> Path:
    """Return where a file of a source (``files``) or of a snapshot is. Raises ``WeightsMissing``."""
    if place == SNAPSHOT and snapshot is not None:
        return snapshot / file
    if place == SNAPSHOT or file not in files:
        raise WeightsMissing(f"{file}: not among the files of the {place}")
    return Path(files[file])


def source_tensors(tensors: TensorFiles, files: Mapping[str, Path]) -> dict[str, Mapping[str, Tensor]]:
    """Return the tensors of each of the source's files that make its checkpoint (file -> tensors), in order.

    Raises ``WeightsMissing`` when there is none, ``PickledWeights`` when the only weights are pickled,
    ``cache.errors.WeightsError`` for a bad file or for an index that does not agree with the files.
    """
    chosen = sharded.placement(files)
    if not chosen.files:
        raise WeightsMissing(f"no .safetensors file in the source; it has {', '.join(sorted(files)) or 'no files'}")
    found = {file: tensors.of(SOURCE, file) for file in chosen.files}
    chosen.check(found)
    return found


def named_origins(tensors: TensorFiles, files: Mapping[str, Path], rename: Rename | None) -> dict[str, Origin]:
    """Return module tensor name -> where the checkpoint holds it, after the author's renaming.

    Raises ``WeightsMismatch`` when two tensors get one name; else as ``source_tensors``.
    """
    origins: dict[str, Origin] = {}
    for file, held in source_tensors(tensors, files).items():
        for key in held:
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
