"""The engine compiled ahead of time by TorchInductor: a shared library of about 2 MB without weights.

Restoring needs neither the author's builder nor the compiler: the library is loaded (under a millisecond) and its
constants are pointed at the mapped checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint import SNAPSHOT, Origin, TensorFiles
from ..definition import ModelDefinition
from ..errors import CompileFailed, EngineUnavailable, SnapshotCorrupt, TensorUnbound
from ..manifest import EXTRA_FILE, EngineRecord, Manifest
from ..signature import Signature
from . import torch_private

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it

LIBRARY = "model.so"


class AotInductor:
    """Loads the library of a snapshot and binds its constants to mapped tensors."""

    name = "aot_inductor"

    def __init__(self) -> None:
        self._library: torch_private.Library | None = None
        self._signature: Signature | None = None
        self._constants: Mapping[str, Origin] = {}

    def export(self, program: Program, staging: Path) -> EngineRecord:
        """Compile ``model.so`` into ``staging``; tens of seconds.

        Raises ``EngineUnavailable``, ``CompileFailed`` (no compiler, or what it said), ``TensorUnbound``.
        """
        _refuse_obstacle()
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
            raise CompileFailed("no C++ compiler (g++) on this machine; aot_inductor needs one to bake, not to serve")
        # The compiler leaves its sources next to its output, so it writes into a directory that goes away.
        with tempfile.TemporaryDirectory(prefix="aot-") as scratch:
            built = Path(scratch, LIBRARY)
            try:
                torch_private.compile_library(program.exported.module(), program.inputs, built)
            except Exception as error:  # the compiler's own errors have no common base but Exception
                raise CompileFailed(f"{type(error).__name__}: {_tail(str(error))}") from error
            shutil.move(built, staging / LIBRARY)
        names = torch_private.Library(staging / LIBRARY).constants
        return EngineRecord(artefact=LIBRARY, constants=_weight_map(names, program))

    def load(
        self, definition: ModelDefinition, files: Mapping[str, Path], snapshot: Path | None, manifest: Manifest | None
    ) -> None:
        """Load the library. Raises ``EngineUnavailable`` or ``SnapshotCorrupt``."""
        _refuse_obstacle()
        record = manifest.engines.get(self.name) if manifest is not None else None
        if snapshot is None or manifest is None or record is None or not record.artefact:
            raise EngineUnavailable(f"model {definition.name}: the snapshot has no {self.name} engine")
        self._signature = Signature.from_json(manifest.signature)
        try:
            self._library = torch_private.Library(snapshot / record.artefact)
        except (RuntimeError, OSError) as error:
            raise SnapshotCorrupt(f"{record.artefact}: cannot be loaded: {error}") from error
        missing = sorted(set(self._library.constants) - set(record.constants))
        if missing:
            raise TensorUnbound(f"{record.artefact} needs {missing[0]}, which the weight map does not have")
        self._constants = record.constants

    def bind(self, tensors: TensorFiles) -> int:
        """Point the library's constants at the mapped tensors."""
        if self._library is None:
            raise RuntimeError("bind before load")
        bound = {name: tensors.get(self._constants[name]) for name in self._library.constants}
        self._library.bind(bound)
        return sum(tensor.nbytes for tensor in bound.values())

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the library. Raises ``InputUnsupported`` for inputs it was not compiled for."""
        if self._library is None or self._signature is None:
            raise RuntimeError("run before load")
        inputs = self._signature.flatten(args, kwargs)
        with torch.inference_mode():
            return self._signature.unflatten(self._library.run(inputs))


def _refuse_obstacle() -> None:
    obstacle = torch_private.obstacle()
    if obstacle:
        raise EngineUnavailable(f"aot_inductor: {obstacle}")


def _weight_map(names: Mapping[str, str], program: Program) -> dict[str, Origin]:
    """Return where each constant's bytes are: in the source, or in the file of computed tensors."""
    made: Mapping[str, Tensor] = {**program.constants(), **program.assembled.computed}
    origins: dict[str, Origin] = {}
    for constant, exported in names.items():
        name = program.assembled.aliases.get(exported, exported)
        origin = program.assembled.origins.get(name)
        if origin is None and name in made:
            origin = Origin(SNAPSHOT, EXTRA_FILE, name)
        if origin is None:
            raise TensorUnbound(f"the engine's constant {constant} ({exported or 'unnamed'}) is in no file")
        origins[constant] = origin
    return origins


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
