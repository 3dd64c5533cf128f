"""What is deployed: ``FunctionSpec``, immutable, validated once, keyed by its revision.

A *definition* is the JSON form that travels from the template to the node: Lambda's own property names, and the
``Glowplug`` metadata as the author wrote it. ``FunctionSpec.from_definition`` is the only place that accepts one;
it names the field of whatever it refuses, with the nearest known name. ``deploy`` calls it too, to refuse a template
with file and line before anything is sent.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from glowplug.snapshot import candidates
from glowplug.snapshot.choice import Objective

from .devicespec import KEYS, DeviceSpec
from .errors import DefinitionError

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9-_]{1,64}")
_ENVIRONMENT_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+")
_RESERVED_NAMES = frozenset(  # Lambda refuses these in Environment (spec 6.4)
    "_HANDLER _X_AMZN_TRACE_ID AWS_REGION AWS_DEFAULT_REGION AWS_EXECUTION_ENV AWS_LAMBDA_FUNCTION_NAME "
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE AWS_LAMBDA_FUNCTION_VERSION AWS_LAMBDA_INITIALIZATION_TYPE "
    "AWS_LAMBDA_LOG_GROUP_NAME AWS_LAMBDA_LOG_STREAM_NAME AWS_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY "
    "AWS_SESSION_TOKEN AWS_LAMBDA_RUNTIME_API LAMBDA_TASK_ROOT LAMBDA_RUNTIME_DIR".split()
)
_EXEC_PREFIXES = ("LD_", "OMP_", "GOMP_", "MKL_", "MALLOC_", "PYTHON")
ARCHITECTURE = "arm64" if os.uname().machine == "aarch64" else "x86_64"
"""What this machine is called in ``Architectures``."""
ENGINES = ("auto", "eager", "aot_inductor", "onnxruntime", "tensorrt")
PRECISIONS = (*candidates.PRECISIONS, candidates.AUTO)
_KNOWN = frozenset(
    "FunctionName Handler Runtime CodeSha256 Timeout MemorySize Description Environment EphemeralStorage Role "
    "ReservedConcurrentExecutions SnapStart FunctionUrlConfig Architectures AcceleratorConfig Glowplug".split()
)
_GLOWPLUG = KEYS | frozenset(
    "Model Warmup Parking Objective Concurrency Batching IdleTimeoutSeconds ParkTimeoutSeconds "
    "InitTimeoutSeconds HoldTimeoutSeconds MaxHeldRequests MaxInstances MaxParkedAgeSeconds".split()
)
_MODEL = frozenset("Source Engine Precision MaxError VerifyRate".split())
_OBJECTIVE = frozenset("ColdWeight WarmCalls BatchSizes".split())
_WARMUP = frozenset("Event Compare".split())


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
class UrlSpec:
    """A function URL. ``url_id`` is the name, lower case, ``_`` as ``-``."""

    url_id: str
    auth_type: str = "NONE"
    invoke_mode: str = "BUFFERED"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function at one revision. Durations in seconds, memory in MB as Lambda counts it.

    ``max_instances`` of None means the default of the scaling formula; ``reserved`` of None means no reservation.
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
    environment: Mapping[str, str] = field(default_factory=dict)
    models: tuple[ModelSpec, ...] = ()
    url: UrlSpec | None = None
    snap_start: bool = False
    parking: bool = True
    reserved: int | None = None
    max_instances: int | None = None
    concurrency: int = 1
    idle_timeout_s: float = 60.0
    park_timeout_s: float = 3600.0
    init_timeout_s: float = 900.0
    hold_timeout_s: float = 60.0
    max_held: int = 100
    max_parked_age_s: float = 3600.0
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
        out["url"] = None if self.url is None else [self.url.url_id, self.url.auth_type, self.url.invoke_mode]
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
        given["url"] = None if given["url"] is None else UrlSpec(*given["url"])
        return cls(**given)

    def resolved(self, files: Mapping[str, tuple[SourceFile, ...]]) -> FunctionSpec:
        """Return this spec with each model's files pinned; ``files`` maps model name to its resolved source."""
        return replace(self, models=tuple(replace(model, files=files[model.name]) for model in self.models))

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> FunctionSpec:
        """Validate a definition. Raises ``DefinitionError`` naming the first field that cannot be accepted."""
        read = Reader(definition, "")
        read.only(_KNOWN)
        name = read.text("FunctionName", required=True)
        if not FUNCTION_NAME.fullmatch(name):
            raise DefinitionError("FunctionName", f"{name!r} does not match {FUNCTION_NAME.pattern}")
        runtime = read.text("Runtime", required=True)
        if not runtime.startswith("python3."):
            raise DefinitionError("Runtime", f"{runtime!r} is not supported; python3.x is")
        if read.values.get("Architectures") not in (None, ["x86_64"], ["arm64"]):
            raise DefinitionError("Architectures", "has one entry, x86_64 or arm64")
        snap_start = read.section("SnapStart", {"ApplyOn"}).choice("ApplyOn", ("None", "PublishedVersions"), "None")
        glowplug = read.section("Glowplug", _GLOWPLUG)
        models = _models(glowplug)
        warmup = glowplug.section("Warmup", _WARMUP)
        storage = read.section("EphemeralStorage", {"Size"})
        _refuse_unbuilt(glowplug, warmup, storage)
        return cls(
            name=name,
            handler=read.text("Handler", required=True),
            runtime=runtime,
            code_digest=read.text("CodeSha256", required=True),
            description=read.text("Description"),
            role=read.text("Role"),
            timeout_s=float(read.whole("Timeout", 3, low=1, high=5400)),
            memory_mb=read.whole("MemorySize", 128, low=128, high=32768),
            environment=_environment(read.section("Environment", {"Variables"})),
            models=models,
            url=_url(read, name),
            snap_start=snap_start == "PublishedVersions",
            parking=glowplug.choice("Parking", ("auto", "off"), "auto") == "auto",
            reserved=read.optional_whole("ReservedConcurrentExecutions", low=0),
            max_instances=glowplug.optional_whole("MaxInstances", low=1),
            idle_timeout_s=glowplug.number("IdleTimeoutSeconds", 60, low=0),
            park_timeout_s=glowplug.number("ParkTimeoutSeconds", 3600, low=0),
            init_timeout_s=glowplug.number("InitTimeoutSeconds", 900, low=1),
            hold_timeout_s=glowplug.number("HoldTimeoutSeconds", 60, low=0),
            max_held=glowplug.whole("MaxHeldRequests", 100, low=0),
            max_parked_age_s=glowplug.number("MaxParkedAgeSeconds", 3600, low=1),
            warmup_event=warmup.text("Event") or None,
            objective=_objective(glowplug.section("Objective", _OBJECTIVE)),
            gpu=DeviceSpec.read(read, glowplug),
        )


def url_id_of(name: str, alias: str = "") -> str:
    """Return the URL id of a function or of one of its aliases."""
    return (f"{name}-{alias}" if alias else name).lower().replace("_", "-")


class Reader:
    """Reads typed values out of one mapping and names the field in every complaint."""

    def __init__(self, values: object, path: str) -> None:
        if not isinstance(values, Mapping):
            raise DefinitionError(path or "definition", f"must be a mapping, not {_kind(values)}")
        self.values: Mapping[str, Any] = values
        self.path = path

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def only(self, known: frozenset[str] | set[str]) -> None:
        for name in self.values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
                raise DefinitionError(self.at(name), f"unknown key; {hint}")

    def section(self, name: str, known: frozenset[str] | set[str]) -> Reader:
        value = self.values.get(name)
        section = Reader({} if value is None else value, self.at(name))
        section.only(known)
        return section

    def text(self, name: str, *, required: bool = False) -> str:
        value = self.values.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            raise DefinitionError(self.at(name), f"must be a string, not {_kind(value)}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.values.get(name, default)
        if value is False and "off" in allowed:
            value = "off"  # YAML 1.1 reads a bare off as a boolean
        if value not in allowed:
            raise DefinitionError(self.at(name), f"{value!r} is not one of {', '.join(allowed)}")
        return str(value)

    def number(self, name: str, default: float, *, low: float, high: float = math.inf) -> float:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DefinitionError(self.at(name), f"must be a number, not {_kind(value)}")
        if not (low <= value <= high and math.isfinite(value)):
            allowed = f"{low:g} or more" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise DefinitionError(self.at(name), f"{value} is not {allowed}")
        return float(value)

    def whole(self, name: str, default: int, *, low: int, high: float = math.inf) -> int:
        value = self.number(name, default, low=low, high=high)
        if not value.is_integer():
            raise DefinitionError(self.at(name), f"must be a whole number, not {value:g}")
        return int(value)

    def optional_whole(self, name: str, *, low: int) -> int | None:
        if self.values.get(name) is None:
            return None
        return self.whole(name, low, low=low)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _models(glowplug: Reader) -> tuple[ModelSpec, ...]:
    if glowplug.values.get("Model") is None:
        return ()
    section = Reader(glowplug.values["Model"], glowplug.at("Model"))
    if "Source" in section.values or not all(isinstance(value, Mapping) for value in section.values.values()):
        section.only(_MODEL)
        return (_model("", section),)
    return tuple(_model(name, section.section(name, _MODEL)) for name in sorted(section.values))


def _model(name: str, section: Reader) -> ModelSpec:
    source = section.text("Source", required=True)
    if "://" not in source:
        raise DefinitionError(section.at("Source"), f"{source!r} is not a URL such as package://… or s3://…")
    engine = section.text("Engine") or "auto"
    if engine not in ENGINES:
        raise DefinitionError(section.at("Engine"), f"{engine!r} is not one of {', '.join(ENGINES)}")
    precision = section.choice("Precision", PRECISIONS, "fp32")
    max_error = None
    if section.values.get("MaxError") is not None:
        max_error = section.number("MaxError", 0, low=0)
    elif precision == candidates.AUTO:
        raise DefinitionError(section.at("MaxError"), "is missing: Precision auto chooses within that error")
    verify_rate = section.number("VerifyRate", 0, low=0, high=1)
    return ModelSpec(name, source, engine, precision, max_error, verify_rate=verify_rate)


def _objective(section: Reader) -> Objective:
    sizes = section.values.get("BatchSizes") or []
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 1 for size in sizes):
        raise DefinitionError(
            section.at("BatchSizes"), f"must be a list of whole numbers, 1 or more, not {_kind(sizes)}"
        )
    return Objective(
        cold_weight=section.number("ColdWeight", 1, low=0),
        warm_calls=section.number("WarmCalls", 20, low=0),
        batch_sizes=tuple(sizes),
    )


def _environment(section: Reader) -> dict[str, str]:
    variables = section.values.get("Variables") or {}
    reader = Reader(variables, section.at("Variables"))
    for name, value in reader.values.items():
        if name in _RESERVED_NAMES:
            raise DefinitionError(reader.at(name), "is set by Lambda and cannot be set")
        if not _ENVIRONMENT_NAME.fullmatch(str(name)):
            raise DefinitionError(reader.at(str(name)), f"name does not match {_ENVIRONMENT_NAME.pattern}")
        if isinstance(value, Mapping | list) or value is None:
            raise DefinitionError(reader.at(name), f"must be a string, not {_kind(value)}")
    chosen = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in reader.values.items()
    }
    size = len(json.dumps(chosen, separators=(",", ":")))
    if size > 4096:
        raise DefinitionError(reader.path, f"{size} bytes; environment variables may take 4096")
    return chosen


def _url(read: Reader, name: str) -> UrlSpec | None:
    if read.values.get("FunctionUrlConfig") is None:
        return None
    section = read.section("FunctionUrlConfig", {"AuthType", "InvokeMode", "Cors"})
    if section.choice("AuthType", ("NONE", "AWS_IAM"), "NONE") == "AWS_IAM":
        raise DefinitionError(section.at("AuthType"), "AWS_IAM is not supported yet; use NONE")
    if section.choice("InvokeMode", ("BUFFERED", "RESPONSE_STREAM"), "BUFFERED") == "RESPONSE_STREAM":
        raise DefinitionError(section.at("InvokeMode"), "RESPONSE_STREAM is not supported yet; use BUFFERED")
    if section.values.get("Cors"):
        raise DefinitionError(section.at("Cors"), "is not supported yet")
    return UrlSpec(url_id=url_id_of(name))


def _refuse_unbuilt(glowplug: Reader, warmup: Reader, storage: Reader) -> None:
    """Known keys whose behaviour is not built: refused, never accepted and ignored. A default value changes nothing."""
    if warmup.choice("Compare", ("none", "json"), "none") == "json":
        raise DefinitionError(warmup.at("Compare"), "json is not supported yet; use none")
    if storage.whole("Size", 512, low=512, high=32768) != 512:
        raise DefinitionError(storage.at("Size"), "other than 512 is not supported yet: nothing bounds /tmp")
    if glowplug.whole("Concurrency", 1, low=1) != 1:
        raise DefinitionError(glowplug.at("Concurrency"), "more than 1 is not supported yet")
    batching = glowplug.section("Batching", {"MaxBatchSize", "MaxWaitMilliseconds"})
    if batching.whole("MaxBatchSize", 1, low=1) != 1 or batching.number("MaxWaitMilliseconds", 0, low=0) != 0:
        raise DefinitionError(glowplug.at("Batching"), "is not supported yet")
