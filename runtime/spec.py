"""What is deployed: ``FunctionSpec``, immutable, keyed by its revision. ``definition`` makes one of what was written.

A spec is valid by how it came about: read from a definition, or from the registry, which holds what was read from one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from glowplug.snapshot.choice import Objective

from .devicespec import DeviceSpec

_EXEC_PREFIXES = ("LD_", "OMP_", "GOMP_", "MKL_", "MALLOC_", "PYTHON")
ARCHITECTURE = "arm64" if os.uname().machine == "aarch64" else "x86_64"
"""What this machine is called in ``Architectures``."""
ENGINES = ("auto", "eager", "aot_inductor", "onnxruntime", "tensorrt")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a resolved model source. ``sha256`` is hex; ``size`` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of a function: where its files are and how to run them.

    ``files`` is empty until the source is resolved, which happens once, at deploy; a revision pins the result.
    ``engine`` and ``precision`` are what the author asked for (``auto`` included), not what serves. ``max_error`` is
    the largest absolute difference from eager in fp32 that an engine may have; None: the precision's own tolerance.
    ``verify_rate`` is the share of warm calls that eager makes again, to compare.
    """

    name: str
    source: str
    engine: str = "auto"
    precision: str = "fp32"
    max_error: float | None = None
    files: tuple[SourceFile, ...] = ()
    verify_rate: float = 0.0

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file, by what its source holds: a torch model has safetensors."""
        names = [file.name for file in self.files]
        return any(name.endswith(".onnx") for name in names) and not any(
            name.endswith(".safetensors") for name in names
        )

    @property
    def source_digest(self) -> str:
        """The digest of the resolved manifest: names, sizes and digests of all files."""
        lines = "".join(f"{file.sha256} {file.size} {file.name}\n" for file in sorted(self.files, key=lambda f: f.name))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer of a function: its version's ARN, the SHA-256 (hex) of its zip, and that zip's bytes."""

    arn: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function at one revision. Durations in seconds, memory in MB as Lambda counts it.

    ``log_format`` is ``Text`` or ``JSON``; only JSON has levels. ``max_instances`` of None means the default of the
    scaling formula. ``layers`` are in their order: what a later one brings hides the same file of an earlier one.
    """

    name: str
    handler: str
    runtime: str
    code_digest: str
    version: str = "$LATEST"
    description: str = ""
    role: str = ""
    timeout_s: float = 3.0
    memory_mb: int = 128
    ephemeral_mb: int = 512
    log_format: str = "Text"
    log_level: str = "INFO"
    system_log_level: str = "INFO"
    environment: Mapping[str, str] = field(default_factory=dict)
    models: tuple[ModelSpec, ...] = ()
    layers: tuple[LayerSpec, ...] = ()
    snap_start: bool = False
    parking: bool = True
    max_instances: int | None = None
    concurrency: int = 1
    idle_timeout_s: float = 60.0
    park_timeout_s: float = 3600.0
    init_timeout_s: float = 900.0
    hold_timeout_s: float = 60.0
    max_held: int = 100
    max_parked_age_s: float = 3600.0
    async_url: bool = False
    warmup_event: str | None = None
    objective: Objective = field(default_factory=Objective)
    gpu: DeviceSpec = field(default_factory=DeviceSpec)

    @property
    def config_digest(self) -> str:
        """The digest of everything but the code."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def revision(self) -> str:
        """The key of this spec: 24 hex digits of (function, version, code digest, configuration digest)."""
        parts = "\0".join((self.name, self.version, self.code_digest, self.config_digest))
        return hashlib.sha256(parts.encode()).hexdigest()[:24]

    @property
    def exec_reason(self) -> str:
        """Why this function must start by exec rather than by fork, from its settings alone; empty when it need not."""
        for name in sorted(self.environment):
            if name.startswith(_EXEC_PREFIXES) or name == "GLIBC_TUNABLES":
                return f"Environment sets {name}, which only takes effect in a new process"
        return ""

    @property
    def foreign(self) -> bool:
        """Whether it is of a runtime that no node has: it can be stored, and not run."""
        return not self.runtime.startswith("python3.")

    @property
    def lean(self) -> bool:
        """Whether the base zygote without torch is enough: no models, or none but ONNX files."""
        return all(model.is_onnx for model in self.models)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON-able values; ``from_json`` reads it back."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        out["environment"] = dict(self.environment)
        out["models"] = [
            {
                "name": model.name, "source": model.source, "engine": model.engine, "precision": model.precision,
                "max_error": model.max_error,
                "files": [[file.name, file.size, file.sha256] for file in model.files],
                "verify_rate": model.verify_rate,
            }
            for model in self.models
        ]  # fmt: skip
        out["objective"] = asdict(self.objective) | {"batch_sizes": list(self.objective.batch_sizes)}
        out["gpu"] = self.gpu.to_json()
        out["layers"] = [[layer.arn, layer.digest, layer.size] for layer in self.layers]
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FunctionSpec:
        """Read what ``to_json`` wrote (the registry's form; trusted)."""
        given = dict(value)
        given["models"] = tuple(
            ModelSpec(**{**model, "files": tuple(SourceFile(*file) for file in model["files"])})
            for model in given["models"]
        )
        if "objective" in given:  # a registry of before there was one
            sizes = tuple(given["objective"]["batch_sizes"])
            given["objective"] = Objective(**{**given["objective"], "batch_sizes": sizes})
        given["gpu"] = DeviceSpec(**given.get("gpu", {}))
        given["layers"] = tuple(LayerSpec(*layer) for layer in given.get("layers", ()))
        return cls(**given)

    def resolved(self, files: Mapping[str, tuple[SourceFile, ...]]) -> FunctionSpec:
        """Return this spec with each model's files pinned; ``files`` maps model name to its resolved source."""
        return replace(self, models=tuple(replace(model, files=files[model.name]) for model in self.models))


def url_id_of(name: str, alias: str = "") -> str:
    """Return the URL id of a function or of one of its aliases."""
    return (f"{name}-{alias}" if alias else name).lower().replace("_", "-")
