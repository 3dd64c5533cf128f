"""The engine compiled ahead of time by TorchInductor: a shared library of about 2 MB without weights.

Restoring needs neither the author's builder nor the compiler: the library is loaded (under a millisecond) and its
constants are pointed at the mapped checkpoint.

Where there is a GPU, a second library is compiled for it (the variant ``cuda``). Its weights are copied to the device
and inputs and outputs with each call; the CUDA context that this takes must not be forked, so all of it is in ``open``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..candidates import CPU
from ..checkpoint import SNAPSHOT, Origin, TensorFiles
from ..errors import (
    CompileFailed,
    EngineFailed,
    EngineUnavailable,
    FingerprintMismatch,
    SnapshotCorrupt,
    TensorUnbound,
)
from ..manifest import EXTRA_FILE, EngineRecord
from ..signature import Signature
from ..tensorrt.gpu import device_obstacle
from . import Given, torch_private
from .onto import copied

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it

LIBRARY = "model.so"
CUDA = "cuda"
"""The variant for a GPU."""

DEVICE = "cuda:0"


class AotInductor:
    """Loads the library of a snapshot and binds its constants to mapped tensors."""

    name: ClassVar[str] = "aot_inductor"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")

    def __init__(self) -> None:
        self._record: EngineRecord | None = None
        self._path = Path()
        self._tensors: TensorFiles | None = None
        self._library: torch_private.Library | None = None
        self._signature: Signature | None = None
        self._device = DEVICE

    @property
    def fork_safe(self) -> bool:
        """Whether it runs on the CPU."""
        return not self._on_gpu

    @property
    def _on_gpu(self) -> bool:
        return self._record is not None and self._record.variant == CUDA

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return what this torch lacks for it; for making it also whether there is a C++ compiler."""
        if making and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "c++")):
            return "no C++ compiler (g++) on this machine; needed to bake, not to serve"
        return torch_private.obstacle()

    def aim(self, device: str) -> None:
        """Compile no library for a GPU in the next ``export`` when the function is not on one."""
        self._device = device

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Compile a library into ``staging``, and its weights where they are not the checkpoint's; tens of seconds.

        Raises ``EngineUnavailable``, ``ExportFailed``, ``CompileFailed`` (what the compiler said), ``TensorUnbound``.
        """
        from ..cases import save  # late, both: what traces takes 0.1 s to import, and serving never needs it
        from ..precision import converted, weights_file

        _refuse(torch_private.obstacle())
        chosen = converted(program, precision)
        stored = EXTRA_FILE
        if precision != "fp32":
            stored = weights_file(precision)
            save(chosen.tensors(), staging / stored)
        stem = "model" if precision == "fp32" else f"model-{precision}"
        records = {"": _compiled(chosen, staging, f"{stem}.so", stored)}
        if precision != "int8" and self._device != CPU and not _gpu_obstacle():
            try:
                records[CUDA] = _compiled(chosen, staging, f"{stem}-cuda.so", stored, CUDA)
            except CompileFailed as error:  # the CPU's library is good all the same
                records[CUDA] = EngineRecord(refused=f"CompileFailed: {error}")
        return records

    def load(self, given: Given) -> None:
        """Load the library, one for a GPU excepted. Raises ``EngineUnavailable`` or ``SnapshotCorrupt``."""
        _refuse(torch_private.obstacle())
        manifest, record = given.manifest, given.record
        if given.snapshot is None or manifest is None or record is None or not record.artefact:
            raise EngineUnavailable(f"model {given.definition.name}: the snapshot has no {self.name} engine")
        self._signature = Signature.from_json(manifest.signature)
        self._record, self._path = record, given.snapshot / record.artefact
        if self._on_gpu:
            _refuse(_gpu_obstacle())
        else:
            self._library = _loaded(self._path, record)

    def bind(self, tensors: TensorFiles) -> int:
        """Point the library's constants at the mapped tensors; for a GPU remember where they are."""
        if self._record is None:
            raise RuntimeError("bind before load")
        self._tensors = tensors
        if self._library is None:
            return 0
        bound = {name: tensors.get(self._record.constants[name]) for name in self._library.constants}
        self._library.bind(bound)
        return sum(tensor.nbytes for tensor in bound.values())

    def open(self, threads: int) -> None:
        """Load the library for a GPU and copy its weights there; on the CPU threads are torch's, call by call.

        Raises ``FingerprintMismatch``, ``SnapshotCorrupt``, ``TensorUnbound``, ``EngineFailed``.
        """
        if not self._on_gpu:
            return
        if self._record is None or self._tensors is None:
            raise RuntimeError("open before load and bind")
        built, here = self._record.options.get("sm"), _sm()
        if built != here:
            raise FingerprintMismatch(f"{self._path.name}: compute capability {built}, here {here}")
        library = _loaded(self._path, self._record, DEVICE)
        needed = {name: self._record.constants[name] for name in library.constants}
        library.bind(copied(DEVICE, self._tensors, needed))
        self._library = library

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the library. Raises ``InputUnsupported`` for inputs it was not compiled for."""
        if self._library is None or self._signature is None:
            raise RuntimeError("run before load, or open on a GPU")
        inputs = self._signature.flatten(args, kwargs)
        with torch.inference_mode():
            if self._on_gpu:
                inputs = [tensor.to(DEVICE) for tensor in inputs]
            outputs = self._library.run(inputs)
            return self._signature.unflatten([tensor.cpu() for tensor in outputs] if self._on_gpu else outputs)


def _refuse(obstacle: str) -> None:
    if obstacle:
        raise EngineUnavailable(f"aot_inductor: {obstacle}")


def _gpu_obstacle() -> str:
    """Return why there can be no library for a GPU here; makes no CUDA call."""
    return device_obstacle() or torch_private.obstacle(CUDA)


def _sm() -> str:
    try:
        return "{}.{}".format(*torch.cuda.get_device_capability(DEVICE))
    except (RuntimeError, AssertionError) as error:  # the driver's refusals, and "not compiled with CUDA"
        raise EngineFailed(f"{DEVICE}: {error}") from error


def _loaded(path: Path, record: EngineRecord, device: str = "cpu") -> torch_private.Library:
    try:
        library = torch_private.Library(path, device)
    except (RuntimeError, OSError) as error:
        raise SnapshotCorrupt(f"{path.name}: cannot be loaded: {error}") from error
    missing = sorted(set(library.constants) - set(record.constants))
    if missing:
        raise TensorUnbound(f"{path.name} needs {missing[0]}, which the weight map does not have")
    return library


def _compiled(program: Program, staging: Path, file: str, stored: str, device: str = "cpu") -> EngineRecord:
    """Compile a program, the last time for a GPU: it is moved there. Raises ``CompileFailed``, ``TensorUnbound``."""
    # The compiler leaves its sources next to its output, so it writes into a directory that goes away.
    with tempfile.TemporaryDirectory(prefix="aot-") as scratch:
        built = Path(scratch, LIBRARY)
        try:
            exported, inputs, options = program.exported, program.inputs, {}
            if device == CUDA:
                exported, options = torch_private.move(exported, DEVICE), {"sm": _sm()}
                leaves, structure = torch_private.flatten(dict(inputs))
                moved = [leaf.to(DEVICE) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
                inputs = torch_private.unflatten(moved, structure)
            torch_private.compile_library(exported.module(), inputs, built, device)
        except Exception as error:  # the compiler's own errors have no common base but Exception
            raise CompileFailed(f"{type(error).__name__}: {_tail(str(error))}") from error
        shutil.move(built, staging / file)
    names = torch_private.Library(staging / file, device if device == "cpu" else DEVICE).constants
    return EngineRecord(artefact=file, constants=_weight_map(names, program, stored), options=options)


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
