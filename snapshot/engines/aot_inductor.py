"""The engine compiled ahead of time by TorchInductor: a shared library of about 2 MB without weights.

Restoring needs neither the author's builder nor the compiler: the library is loaded (under a millisecond) and its
constants are pointed at the mapped checkpoint.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..checkpoint import SNAPSHOT, Origin, TensorFiles
from ..errors import CompileFailed, EngineUnavailable, SnapshotCorrupt, TensorUnbound
from ..manifest import EXTRA_FILE, EngineRecord
from ..signature import Signature
from . import Given, torch_private

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it

LIBRARY = "model.so"


class AotInductor:
    """Loads the library of a snapshot and binds its constants to mapped tensors."""

    name: ClassVar[str] = "aot_inductor"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")
    fork_safe = True

    def __init__(self) -> None:
        self._library: torch_private.Library | None = None
        self._signature: Signature | None = None
        self._constants: Mapping[str, Origin] = {}

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return what this torch lacks for it; for making it also whether there is a C++ compiler."""
        if making and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "c++")):
            return "no C++ compiler (g++) on this machine; needed to bake, not to serve"
        return torch_private.obstacle()

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Compile a library into ``staging``, and its weights where they are not the checkpoint's; tens of seconds.

        Raises ``EngineUnavailable``, ``ExportFailed``, ``CompileFailed`` (what the compiler said), ``TensorUnbound``.
        """
        from ..cases import save  # late, both: what traces takes 0.1 s to import, and serving never needs it
        from ..precision import converted, weights_file

        _refuse_obstacle()
        chosen = converted(program, precision)
        library = LIBRARY if precision == "fp32" else f"model-{precision}.so"
        # The compiler leaves its sources next to its output, so it writes into a directory that goes away.
        with tempfile.TemporaryDirectory(prefix="aot-") as scratch:
            built = Path(scratch, LIBRARY)
            try:
                torch_private.compile_library(chosen.exported.module(), chosen.inputs, built)
            except Exception as error:  # the compiler's own errors have no common base but Exception
                raise CompileFailed(f"{type(error).__name__}: {_tail(str(error))}") from error
            shutil.move(built, staging / library)
        names = torch_private.Library(staging / library).constants
        stored = EXTRA_FILE
        if precision != "fp32":
            stored = weights_file(precision)
            save(chosen.tensors(), staging / stored)
        return {"": EngineRecord(artefact=library, constants=_weight_map(names, chosen, stored))}

    def load(self, given: Given) -> None:
        """Load the library. Raises ``EngineUnavailable`` or ``SnapshotCorrupt``."""
        _refuse_obstacle()
        manifest, record = given.manifest, given.record
        if given.snapshot is None or manifest is None or record is None or not record.artefact:
            raise EngineUnavailable(f"model {given.definition.name}: the snapshot has no {self.name} engine")
        self._signature = Signature.from_json(manifest.signature)
        try:
            self._library = torch_private.Library(given.snapshot / record.artefact)
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

    def open(self, threads: int) -> None:
        """Do nothing: the library takes its threads from torch, call by call."""

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


def _weight_map(names: Mapping[str, str], program: Program, stored: str) -> dict[str, Origin]:
    """Return where each constant's bytes are: in the source, or in ``stored``, the file of computed tensors."""
    made = program.tensors()
    origins: dict[str, Origin] = {}
    for constant, exported in names.items():
        name = program.assembled.aliases.get(exported, exported)
        origin = program.assembled.origins.get(name)
        if origin is None and name in made:
            origin = Origin(SNAPSHOT, stored, name)
        if origin is None:
            raise TensorUnbound(f"the engine's constant {constant} ({exported or 'unnamed'}) is in no file")
        origins[constant] = origin
    return origins


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
