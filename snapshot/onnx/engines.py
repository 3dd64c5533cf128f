"""The engines of a model that is an ONNX file. They go through the steps that ``snapshot.engines`` describes.

``eager`` is ONNX Runtime on the author's file as it is: what it optimises, it optimises anew in every process.
``onnxruntime`` is what a bake has made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable, FingerprintMismatch, OnnxInvalid
from ..manifest import EngineRecord
from . import calls, outline
from .arrays import ArrayFiles
from .record import unusable
from .session import UNPACKED, Session, import_early, obstacle


class OnnxEngine:
    """One way to run an ONNX file. Its session exists from ``open`` on."""

    fork_safe = False

    def __init__(self) -> None:
        self._inputs: tuple[outline.Value, ...] = ()
        self._session: Session | None = None

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the model: one output is an array, several are a tuple.

        Raises ``TypeError``, ``ValueError``, ``EngineFailed``.
        """
        if self._session is None:
            raise RuntimeError("run before open")
        outputs = self._session.run(calls.feeds(self._inputs, args, kwargs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class AsItIs(OnnxEngine):
    """Runs the author's file."""

    def __init__(self, name: str, file: str, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._name, self._file, self._files = name, file, files
        self._external: frozenset[str] = frozenset()

    def bind(self) -> int:
        """Read what the file says of itself; nothing is shared. Raises ``OnnxInvalid``."""
        found = outline.read(Path(self._files[self._file]), self._file)
        outline.refuse_escapes(found, self._file, self._files)
        self._inputs, self._external = found.inputs, found.external
        return 0

    def open(self, threads: int) -> None:
        """Make the session. Raises ``EngineUnavailable``, ``OnnxInvalid`` for a file that ONNX Runtime refuses."""
        if missing := obstacle():
            raise EngineUnavailable(f"model {self._name}: {missing}")
        # Handed over by content: the store keeps each file under its digest, so no path in the model leads anywhere.
        external = {name: Path(self._files[name]).read_bytes() for name in sorted(self._external)}
        try:
            self._session = Session(
                Path(self._files[self._file]), {}, threads=threads, optimised=False, external=external
            )
        except EngineUnavailable as error:
            raise OnnxInvalid(f"model {self._name}: {self._file}: {error}") from error


class Optimised(OnnxEngine):
    """Runs the graph of a snapshot on mapped weights."""

    def __init__(self, name: str, directory: Path, record: EngineRecord, signature: Mapping[str, Any]) -> None:
        super().__init__()
        self._name, self._directory, self._record = name, directory, record
        self._arrays = ArrayFiles({}, directory)
        self._inputs = calls.inputs_of(signature)

    def bind(self) -> int:
        """Map the weights. Raises ``EngineUnavailable``, ``FingerprintMismatch``, ``cache.errors.WeightsError``."""
        if missing := obstacle():
            raise EngineUnavailable(f"model {self._name}: {missing}")
        if not self._record.artefact:
            raise EngineUnavailable(f"model {self._name}: the snapshot has no graph for ONNX Runtime")
        if difference := unusable(self._record.options):
            raise FingerprintMismatch(f"model {self._name}: {difference}")
        import_early(self._record.options)
        return self._arrays.map(self._record.constants.values())

    def open(self, threads: int) -> None:
        """Make the session. Raises ``EngineUnavailable``."""
        self._session = Session(
            self._directory / self._record.artefact,
            {name: self._arrays.get(origin) for name, origin in self._record.constants.items()},
            threads=threads,
            unpacked=self._record.variant == UNPACKED,
        )
