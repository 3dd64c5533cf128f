"""The engine that runs the model as an ONNX graph in ONNX Runtime: exported by torch, optimised once, weights mapped.

A model that *is* an ONNX file, with no torch around it, is ``snapshot.onnx``'s; what both share is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..checkpoint import TensorFiles
from ..errors import EngineUnavailable, FingerprintMismatch
from ..manifest import EngineRecord
from ..onnx import session
from ..onnx.record import unusable
from ..signature import Signature
from . import Given

if TYPE_CHECKING:
    from ..onnx.making import Known
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it

INPUTS = "inputs"
"""The option of a record that lists the graph's input names, in the order of the signature's tensors."""


class OnnxRuntime:
    """Opens a session on the snapshot's graph, with initialisers that are views of mapped tensors."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    fork_safe = False

    def __init__(self, providers: Sequence[str] = session.CPU) -> None:
        self._providers = providers
        self._model = Path()
        self._record = EngineRecord()
        self._signature: Signature | None = None
        self._bound: dict[str, Tensor] = {}
        self._session: session.Session | None = None

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return which package is missing; for making it also those that export."""
        return session.obstacle("onnx", "onnxscript") if making else session.obstacle()

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Export and optimise; some seconds. Initialisers are compared with the source's tensors by their bytes.

        Raises ``EngineUnavailable``, ``ExportFailed`` (naming an operator that ONNX lacks), ``CompileFailed``.
        """
        from ..onnx.making import make  # late, both: need packages that serving does without
        from .onnx_export import export_onnx

        _refuse(self.obstacle(making=True))
        with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
            exported = Path(scratch, "exported.onnx")
            inputs = export_onnx(program, exported)
            records = make(exported, staging, precision, _known(program))
        options = {INPUTS: inputs}
        return {
            variant: EngineRecord(
                artefact=record.artefact, constants=record.constants, options={**record.options, **options}
            )
            for variant, record in records.items()
        }

    def load(self, given: Given) -> None:
        """Find the graph's file. Raises ``EngineUnavailable``, ``FingerprintMismatch``."""
        _refuse(self.obstacle())
        manifest, record = given.manifest, given.record
        if given.snapshot is None or manifest is None or record is None or not record.artefact:
            raise EngineUnavailable(f"model {given.definition.name}: the snapshot has no {self.name} engine")
        if difference := unusable(record.options):
            raise FingerprintMismatch(f"model {given.definition.name}: {difference}")
        self._signature = Signature.from_json(manifest.signature)
        self._model, self._record = given.snapshot / record.artefact, record

    def bind(self, tensors: TensorFiles) -> int:
        """Map the tensors, and import what can be; the session is for ``open``."""
        session.import_early(self._record.options)
        self._bound = {name: tensors.get(origin) for name, origin in self._record.constants.items()}
        return sum(tensor.nbytes for tensor in self._bound.values())

    def open(self, threads: int) -> None:
        """Make the session. Raises ``EngineUnavailable``."""
        self._session = session.Session(
            self._model,
            {name: tensor.numpy() for name, tensor in self._bound.items()},
            threads=threads,
            unpacked=self._record.variant == session.UNPACKED,
            providers=self._providers,
        )

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the graph. Raises ``InputUnsupported`` for inputs it was not exported for, ``EngineFailed``."""
        if self._session is None or self._signature is None:
            raise RuntimeError("run before open")
        inputs = [tensor.detach().numpy() for tensor in self._signature.flatten(args, kwargs)]
        outputs = self._session.run(dict(zip(self._record.options[INPUTS], inputs, strict=True)))
        return self._signature.unflatten([torch.from_numpy(output) for output in outputs])


def _refuse(obstacle: str) -> None:
    if obstacle:
        raise EngineUnavailable(f"onnxruntime: {obstacle}")


def _known(program: Program) -> list[Known]:
    """Return the tensors that engines may point to instead of storing them: the source's, as the module has them."""
    from ..onnx.making import Known  # late, as in ``export``

    held = dict(program.exported.state_dict)
    return [
        Known(origin, held[name].detach().numpy())
        for name, origin in program.assembled.origins.items()
        if name in held and held[name].dtype is not torch.bfloat16
    ]
