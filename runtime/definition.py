"""From a definition to a ``FunctionSpec``: the one place that accepts what was written by hand.

A *definition* is the JSON form that travels from the template to the node: Lambda's own property names, and the
``Glowplug`` metadata as the author wrote it. ``spec_of`` names the field of whatever it refuses, with the nearest known
name. ``deploy`` calls it too, to refuse a template with file and line before anything is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from glowplug.snapshot import candidates
from glowplug.snapshot.choice import Objective

from .devicespec import KEYS, DeviceSpec
from .errors import DefinitionError
from .reader import Reader, kind
from .spec import ENGINES, FunctionSpec, ModelSpec

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9-_]{1,64}")
_ENVIRONMENT_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+")
_RESERVED_NAMES = frozenset(  # Lambda refuses these in Environment (spec 6.4)
    "_HANDLER _X_AMZN_TRACE_ID AWS_REGION AWS_DEFAULT_REGION AWS_EXECUTION_ENV AWS_LAMBDA_FUNCTION_NAME "
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE AWS_LAMBDA_FUNCTION_VERSION AWS_LAMBDA_INITIALIZATION_TYPE "
    "AWS_LAMBDA_LOG_GROUP_NAME AWS_LAMBDA_LOG_STREAM_NAME AWS_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY "
    "AWS_SESSION_TOKEN AWS_LAMBDA_RUNTIME_API LAMBDA_TASK_ROOT LAMBDA_RUNTIME_DIR".split()
)
_PRECISIONS = (*candidates.PRECISIONS, candidates.AUTO)
_KNOWN = frozenset(
    "FunctionName Handler Runtime CodeSha256 Timeout MemorySize Description Environment EphemeralStorage Role "
    "SnapStart Architectures AcceleratorConfig Glowplug".split()
)
_BESIDE = frozenset(  # read by ``wanted``: what belongs to the function and makes no revision
    "Layers Tags Settings ReservedConcurrentExecutions FunctionScalingConfig Versions Aliases Urls EventInvokeConfigs "
    "Permissions RecursiveLoop".split()
)
_GLOWPLUG = KEYS | frozenset(
    "AsyncUrl Model Warmup Parking Objective Concurrency Batching IdleTimeoutSeconds ParkTimeoutSeconds "
    "InitTimeoutSeconds HoldTimeoutSeconds MaxHeldRequests MaxInstances MaxParkedAgeSeconds".split()
)
_MODEL = frozenset("Source Engine Precision MaxError VerifyRate".split())
_OBJECTIVE = frozenset("ColdWeight WarmCalls BatchSizes MaxParkedRatio".split())
_WARMUP = frozenset("Event Compare".split())
_LOGGING = frozenset("LogFormat LogGroup ApplicationLogLevel SystemLogLevel".split())
SYSTEM_LOG_LEVELS = ("DEBUG", "INFO", "WARN")
LOG_LEVELS = ("TRACE", *SYSTEM_LOG_LEVELS, "ERROR", "FATAL")
"""What Lambda takes as levels, in their order."""


def spec_of(definition: Mapping[str, Any], *, foreign: bool = False) -> FunctionSpec:
    """Validate a definition. Raises ``DefinitionError`` naming the first field that cannot be accepted; with
    ``foreign`` a runtime other than Python is accepted, for a function that is only stored."""
    read = Reader(definition, "")
    read.only(_KNOWN | _BESIDE)
    name = read.text("FunctionName", required=True)
    if not _FUNCTION_NAME.fullmatch(name):
        raise DefinitionError("FunctionName", f"{name!r} does not match {_FUNCTION_NAME.pattern}")
    runtime = read.text("Runtime", required=True)
    if not (foreign or runtime.startswith("python3.")):
        custom = "a custom runtime, which is not supported yet"
        problem = custom if runtime.startswith("provided") else "not supported"
        raise DefinitionError("Runtime", f"{runtime!r} is {problem}; python3.x is")
    if read.values.get("Architectures") not in (None, ["x86_64"], ["arm64"]):
        raise DefinitionError("Architectures", "has one entry, x86_64 or arm64")
    snap_start = read.section("SnapStart", {"ApplyOn"}).choice("ApplyOn", ("None", "PublishedVersions"), "None")
    glowplug = read.section("Glowplug", _GLOWPLUG)
    models = _models(glowplug)
    warmup = glowplug.section("Warmup", _WARMUP)
    storage = read.section("EphemeralStorage", {"Size"})
    _refuse_unbuilt(glowplug, warmup)
    logs = _logging(read)
    return FunctionSpec(
        name=name,
        handler=read.text("Handler", required=True),
        runtime=runtime,
        code_digest=read.text("CodeSha256", required=True),
        description=read.text("Description"),
        role=read.text("Role"),
        timeout_s=float(read.whole("Timeout", 3, low=1, high=5400)),
        memory_mb=read.whole("MemorySize", 128, low=128, high=32768),
        ephemeral_mb=storage.whole("Size", 512, low=512, high=32768),
        log_format=logs["LogFormat"],
        log_level=logs["ApplicationLogLevel"],
        system_log_level=logs["SystemLogLevel"],
        environment=_environment(read.section("Environment", {"Variables"})),
        models=models,
        snap_start=snap_start == "PublishedVersions",
        parking=glowplug.choice("Parking", ("auto", "off"), "auto") == "auto",
        max_instances=glowplug.optional_whole("MaxInstances", low=1),
        idle_timeout_s=glowplug.number("IdleTimeoutSeconds", 60, low=0),
        park_timeout_s=glowplug.number("ParkTimeoutSeconds", 3600, low=0),
        init_timeout_s=glowplug.number("InitTimeoutSeconds", 900, low=1),
        hold_timeout_s=glowplug.number("HoldTimeoutSeconds", 60, low=0),
        max_held=glowplug.whole("MaxHeldRequests", 100, low=0),
        max_parked_age_s=glowplug.number("MaxParkedAgeSeconds", 3600, low=1),
        async_url=glowplug.flag("AsyncUrl"),
        warmup_event=warmup.text("Event") or None,
        objective=_objective(glowplug.section("Objective", _OBJECTIVE)),
        gpu=DeviceSpec.read(read, glowplug),
    )


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
    precision = section.choice("Precision", _PRECISIONS, "fp32")
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
            section.at("BatchSizes"), f"must be a list of whole numbers, 1 or more, not {kind(sizes)}"
        )
    return Objective(
        cold_weight=section.number("ColdWeight", 1, low=0),
        max_parked_ratio=section.number("MaxParkedRatio", 3, low=0),
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
            raise DefinitionError(reader.at(name), f"must be a string, not {kind(value)}")
    chosen = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in reader.values.items()
    }
    size = len(json.dumps(chosen, separators=(",", ":")))
    if size > 4096:
        raise DefinitionError(reader.path, f"{size} bytes; environment variables may take 4096")
    return chosen


def _logging(read: Reader) -> dict[str, str]:
    """Return the parts of ``Settings.LoggingConfig`` that change what is logged. Text has no levels: all is logged."""
    settings = Reader(read.values.get("Settings") or {}, read.at("Settings"))
    given = settings.section("LoggingConfig", _LOGGING)
    chosen = {"LogFormat": given.choice("LogFormat", ("Text", "JSON"), "Text")}
    for name, allowed in (("ApplicationLogLevel", LOG_LEVELS), ("SystemLogLevel", SYSTEM_LOG_LEVELS)):
        if chosen["LogFormat"] == "Text" and given.values.get(name) is not None:
            raise DefinitionError(given.at(name), "goes with LogFormat JSON only")
        chosen[name] = given.choice(name, allowed, "INFO")
    return chosen


def _refuse_unbuilt(glowplug: Reader, warmup: Reader) -> None:
    """Known keys whose behaviour is not built: refused, never accepted and ignored. A default value changes nothing."""
    if warmup.choice("Compare", ("none", "json"), "none") == "json":
        raise DefinitionError(warmup.at("Compare"), "json is not supported yet; use none")
    if glowplug.whole("Concurrency", 1, low=1) != 1:
        raise DefinitionError(glowplug.at("Concurrency"), "more than 1 is not supported yet")
    batching = glowplug.section("Batching", {"MaxBatchSize", "MaxWaitMilliseconds"})
    if batching.whole("MaxBatchSize", 1, low=1) != 1 or batching.number("MaxWaitMilliseconds", 0, low=0) != 0:
        raise DefinitionError(glowplug.at("Batching"), "is not supported yet")
