"""The engine built by TensorRT: kernels chosen on the GPU that they will run on.

A bake writes a plan with its weights, and but for int8 a stripped one that gets them from the checkpoint (the variant
``refit``); what they cost to restore is measured like any two candidates. Loading touches no CUDA, because the process
may still be forked: all of that is in ``open``.

``snapshot/tensorrt/`` has the parts. None of it has run on a GPU yet: docs/gpu.md.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from glowplug.cache import weights

from ..checkpoint import TensorFiles
from ..errors import CompileFailed, EngineUnavailable, FingerprintMismatch
from ..manifest import CHECK_FILE, EngineRecord
from ..recorded import CASES_FILE, grouped, numbered
from ..signature import Signature
from ..tensorrt import bindings, gpu, plan, profiles, timing
from ..tensorrt.builder import Options, build
from ..tensorrt.refit import refit
from ..tensorrt.session import Session
from ..tensorrt.stream import CudaStream, Stream
from . import Given
from .onto import ring

if TYPE_CHECKING:
    from ..program import Program  # only to name it: torch.export takes 0.1 s to import and serving never needs it

WHOLE = ""
REFIT = "refit"
"""The variants: a plan with its weights, and one that gets them from the checkpoint."""


class TensorRt:
    """Builds and restores plans. ``trt`` and ``stream`` are where TensorRT and the device come from;
    ``version_compatible`` makes plans that a later TensorRT of the same major version takes as well."""

    name: ClassVar[str] = "tensorrt"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")
    fork_safe = False

    def __init__(
        self,
        *,
        trt: Callable[[], Any] = bindings.load,
        stream: Callable[[], Stream] = CudaStream,
        version_compatible: bool = False,
    ) -> None:
        self._trt, self._stream = trt, stream
        self._version_compatible = version_compatible
        self._published: Path | None = None
        self._record: EngineRecord | None = None
        self._path: Path | None = None
        self._signature: Signature | None = None
        self._tensors: TensorFiles | None = None
        self._session: Session | None = None

    @staticmethod
    def obstacle(*, making: bool = False) -> str:
        """Return why there can be no plan here; looks at files alone."""
        return gpu.obstacle()

    def resume(self, published: Path) -> None:
        """Start the next build from the timing cache of an earlier one."""
        self._published = published

    def export(self, program: Program, staging: Path, precision: str) -> dict[str, EngineRecord]:
        """Build the plans of one precision; minutes.

        Batch sizes and calibration data are the cases that the bake has written into ``staging``. Raises
        ``EngineUnavailable``, ``ExportFailed``, ``CompileFailed``, ``EngineFailed``.
        """
        _refuse_obstacle()
        trt, stream = self._trt(), self._stream()
        log = bindings.Log(trt)
        here = gpu.current(stream.properties(), trt.__version__)
        calls = _calls(staging)
        sizes = sorted(int(name.split(".")[1]) for name in calls if name.startswith("batch.")) or profiles.BATCH_SIZES
        shapes = [[tuple(tensor.shape) for tensor in call] for call in calls.values()]
        batch = profiles.batch_dimension(program.signature, program.dynamic)
        made = profiles.profiles(program.signature, shapes, batch, sizes)
        options = {
            "gpu": here.to_json(),
            "profiles": profiles.to_json(made),
            "version_compatible": self._version_compatible,
        }
        base = Options(tf32=precision != "fp32", version_compatible=self._version_compatible)
        records: dict[str, EngineRecord] = {}
        with tempfile.TemporaryDirectory(prefix="tensorrt-") as scratch:
            onnx = _onnx(program, precision, list(calls.values()), Path(scratch))
            for variant in (WHOLE,) if precision == "int8" else (WHOLE, REFIT):
                file = "-".join(part for part in ("tensorrt", precision, variant) if part) + ".plan"
                cache = timing.earlier(here, staging, self._published)
                try:
                    building = dataclasses.replace(base, stripped=variant == REFIT)
                    built = build(trt, log, onnx, made, building, cache)
                except CompileFailed as error:
                    if variant == WHOLE:
                        raise
                    records[variant] = EngineRecord(refused=f"CompileFailed: {error}")
                    continue
                timing.keep(here, staging, built.cache)
                (staging / file).write_bytes(built.plan)
                record = EngineRecord(artefact=file, options=options)
                records[variant] = _weightless(record, onnx, program, staging) if variant == REFIT else record
        return records

    def load(self, given: Given) -> None:
        """Find the plan and read its record. Raises ``EngineUnavailable``, ``SnapshotCorrupt``."""
        _refuse_obstacle()
        manifest, record = given.manifest, given.record
        if given.snapshot is None or manifest is None or record is None or not record.artefact:
            raise EngineUnavailable(f"model {given.definition.name}: the snapshot has no {self.name} engine")
        self._signature = Signature.from_json(manifest.signature)
        gpu.Gpu.from_json(record.options.get("gpu"))
        profiles.from_json(record.options.get("profiles"))
        self._record, self._path = record, given.snapshot / record.artefact

    def bind(self, tensors: TensorFiles) -> int:
        """Remember where the weights are. None of them become shared mappings: they go to the device."""
        self._tensors = tensors
        return 0

    def open(self, threads: int) -> None:
        """Make the CUDA context, compare GPUs, restore the plan and take all memory.

        Raises ``FingerprintMismatch``, ``SnapshotMissing``, ``SnapshotCorrupt``, ``TensorUnbound``, ``EngineFailed``.
        """
        if self._record is None or self._path is None or self._signature is None or self._tensors is None:
            raise RuntimeError("open before load and bind")
        trt, stream = self._trt(), self._stream()
        log = bindings.Log(trt)
        options = self._record.options
        compatible = bool(options.get("version_compatible"))
        here = gpu.current(stream.properties(), trt.__version__)
        differences = gpu.Gpu.from_json(options["gpu"]).differences(here, version_compatible=compatible)
        if differences:
            raise FingerprintMismatch(f"{self._path.name}: {'; '.join(differences)}")
        made = profiles.from_json(options["profiles"])
        engine = plan.deserialize(trt, log, self._path, host_code=compatible)
        plan.check(trt, engine, made, [item.dtype for item in self._signature.inputs if item.dtype is not None])
        if self._record.variant == REFIT:
            turned = frozenset(options.get("transposed", ()))
            with ring(stream.device, self._tensors) as load:
                refit(trt, log, engine, self._record.constants, turned, load, stream)
        self._session = Session(trt, log, engine, made, stream)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the plan. Raises ``InputUnsupported``, ``EngineFailed``."""
        if self._session is None or self._signature is None:
            raise RuntimeError("run before open")
        inputs = self._signature.flatten(args, kwargs)
        return self._signature.unflatten(self._session.run(inputs))


def _refuse_obstacle() -> None:
    obstacle = gpu.obstacle()
    if obstacle:
        raise EngineUnavailable(f"tensorrt: {obstacle}")


def _calls(staging: Path) -> dict[str, list[Tensor]]:
    """Return the inputs of the example and of the bake's other cases, by the case's name."""
    found = {"example": numbered(weights.tensors(staging / CHECK_FILE), "input")}
    if (staging / CASES_FILE).exists():
        cases = grouped(weights.tensors(staging / CASES_FILE))
        found |= {name: numbered(case, "input") for name, case in cases.items()}
    return found


def _onnx(program: Program, precision: str, calls: Sequence[Sequence[Tensor]], scratch: Path) -> Path:
    """Write the model as ONNX in ``precision`` and return the file."""
    from ..precision import converted  # late, all three: what traces takes 0.1 s to import
    from ..tensorrt.calibration import quantise
    from .onnx_export import export_onnx

    file = scratch / "model.onnx"
    if precision != "int8":
        export_onnx(converted(program, precision), file)
        return file
    export_onnx(program, file)
    quantise(file, scratch / "int8.onnx", calls)
    return scratch / "int8.onnx"


def _weightless(record: EngineRecord, onnx: Path, program: Program, staging: Path) -> EngineRecord:
    """Return the record of a stripped plan with its weight map; weights that are in no file get one."""
    from ..cases import save  # late, as above
    from ..tensorrt.refit import onnx_weights, sources

    file = record.artefact.removesuffix(".plan") + ".safetensors"
    found = sources(onnx_weights(onnx), program, file)
    if found.derived:
        save(found.derived, staging / file)
    options = {**record.options, "transposed": sorted(found.transposed)}
    return dataclasses.replace(record, constants=found.origins, options=options)
