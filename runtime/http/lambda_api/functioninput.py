"""What CreateFunction and UpdateFunction* are given: checked as AWS checks it, and put into a definition's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.errors import InvalidParameter, NotSupported
from glowplug.runtime.http import names
from glowplug.runtime.reader import IS_FIFO
from glowplug.runtime.settings import vpc_config
from glowplug.runtime.spec import FunctionSpec

from .call import Services
from .constraints import Body, between, matches, missing, no_longer, one_of, problem, refuse

_ROLE = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
_DEAD_LETTER = r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()"
LAYER_VERSION = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:"
    r"[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)"
)
RUNTIMES = (  # those that may be created, in the order in which AWS lists them in its refusal (recorded)
    "nodejs20.x", "python3.14", "provided.al2023", "python3.12", "python3.13", "nodejs24.x", "nodejs22.x", "java25",
    "python3.10", "python3.11", "java21", "ruby3.3", "ruby3.4", "ruby3.2", "python3.8", "python3.9", "java17",
    "nodejs16.x", "dotnet10", "dotnet8", "java11", "dotnet6", "nodejs18.x", "provided.al2", "java8.al2",
)  # fmt: skip
_GONE = frozenset(
    "java8 go1.x provided ruby2.7 ruby2.5 nodejs14.x nodejs12.x nodejs10.x nodejs8.10 nodejs6.10 nodejs4.3 nodejs "
    "python3.7 python3.6 python2.7 dotnetcore3.1 dotnetcore2.1 dotnetcore2.0 dotnetcore1.0 dotnet7 dotnet5.0".split()
)
ARCHITECTURES = ("x86_64", "arm64")
_STORED = tuple("VpcConfig DeadLetterConfig KMSKeyArn TracingConfig FileSystemConfigs CapacityProviderConfig".split())
_REFUSED = ("ImageConfig", "DurableConfig", "TenancyConfig")
_MAX_TAGS = 50
_ENVIRONMENT_BYTES = 4096


def new_name(services: Services, body: Body) -> names.FunctionRef:
    """Return the name of a function that is to be created: a name or an ARN, without a qualifier."""
    name = body.text("FunctionName")
    refuse(missing(name, "functionName"))
    return names.parse_new(name or "", region=services.region, account_id=services.account_id)


def check(body: Body, *, creating: bool, foreign: bool = False) -> None:
    """Refuse what AWS refuses about single parameters, in its order and words; and runtimes other than Python, unless
    ``foreign`` ones are stored."""
    architectures, layers = body.texts("Architectures"), body.texts("Layers")
    logs, snap, tracing = body.section("LoggingConfig"), body.section("SnapStart"), body.section("TracingConfig")
    if creating:
        refuse(missing(body.text("Role"), "role"), missing(body.map("Code"), "code"))
    refuse(
        matches(body.text("Role"), "role", _ROLE),
        matches(body.section("DeadLetterConfig").text("TargetArn"), "deadLetterConfig.targetArn", _DEAD_LETTER),
        no_longer(architectures, "architectures", 1),
        _architectures(architectures),
        between(body.whole("Timeout"), "timeout", 1, None),
        between(body.whole("MemorySize"), "memorySize", 128, 32768),
        between(body.section("EphemeralStorage").whole("Size"), "ephemeralStorage.size", 512, 32768),
        no_longer(body.text("Handler"), "handler", 128),
        no_longer(body.text("Description"), "description", 256),
        one_of(snap.text("ApplyOn"), "snapStart.applyOn", ("PublishedVersions", "None")),
        one_of(body.text("PackageType"), "packageType", ("Zip", "Image")),
        one_of(tracing.text("Mode"), "tracingConfig.mode", ("PassThrough", "Active")),
        one_of(logs.text("LogFormat"), "loggingConfig.logFormat", ("JSON", "Text")),
        _layers(layers),
    )
    if body.text("PackageType") == "Image":
        raise NotSupported("PackageType Image is not supported: code is a zip here")
    for name in _REFUSED:
        if body.map(name):
            raise NotSupported(f"{name} is not supported")
    _check_runtime(body.text("Runtime"), required=creating, foreign=foreign)
    if creating and body.text("Handler") is None:
        raise InvalidParameter(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages."
        )
    _check_environment(body.section("Environment").string_map("Variables") or {})


def definition(body: Body, name: str, digest: str, before: FunctionSpec | None = None) -> dict[str, Any]:
    """Return a function's definition; what is not given comes from ``before``, or is Lambda's default."""
    known: dict[str, Any] = {}
    if before is not None:
        known = {
            "Handler": before.handler,
            "Runtime": before.runtime,
            "Role": before.role,
            "Description": before.description,
            "Timeout": int(before.timeout_s),
            "MemorySize": before.memory_mb,
            "Environment": {"Variables": dict(before.environment)},
            "EphemeralStorage": {"Size": before.ephemeral_mb},
            "SnapStart": {"ApplyOn": "PublishedVersions" if before.snap_start else "None"},
            "Settings": {"LoggingConfig": logging_of(before)},
        }
    chosen = body.chosen((*known, *_DEFINED))
    if "Environment" in chosen:
        chosen["Environment"] = {"Variables": chosen["Environment"].get("Variables") or {}}
    if body.map("LoggingConfig") is not None:
        known["Settings"] = {"LoggingConfig": _logging(body, {} if before is None else logging_of(before))}
    return known | chosen | {"FunctionName": name, "CodeSha256": digest}


def logging_of(spec: FunctionSpec) -> dict[str, str]:
    """Return what a spec says of logging, as a definition does."""
    if spec.log_format == "Text":
        return {"LogFormat": "Text"}
    levels = {"ApplicationLogLevel": spec.log_level, "SystemLogLevel": spec.system_log_level}
    return {"LogFormat": spec.log_format, **levels}


def _logging(body: Body, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a LoggingConfig: what is given, over what was there before. Text takes the levels away."""
    logs = {**before, **body.section("LoggingConfig").values}
    if body.section("LoggingConfig").text("LogFormat") == "Text":
        logs = {name: value for name, value in logs.items() if not name.endswith("LogLevel")}
    return logs


_DEFINED = tuple(
    "Handler Runtime Role Description Timeout MemorySize Environment EphemeralStorage SnapStart "
    "AcceleratorConfig".split()
)


def settings(body: Body, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored under Lambda's own names: what is given, over what was there before."""
    out = dict(before)
    for name in _STORED:
        if body.values.get(name) is not None:
            out[name] = body.values[name]
    if "VpcConfig" in body.values and body.map("VpcConfig") is not None:
        out["VpcConfig"] = _vpc(body.section("VpcConfig"))
    if body.map("DeadLetterConfig") is not None:
        target = body.section("DeadLetterConfig").text("TargetArn")
        if not target:
            out.pop("DeadLetterConfig", None)
        elif target.endswith(".fifo"):
            raise InvalidParameter(f"DeadLetterConfig.TargetArn: {target} {IS_FIFO}")
        elif target.split(":")[2] not in ("sqs", "sns"):
            raise InvalidParameter(f"DeadLetterConfig.TargetArn: {target} is neither a queue nor a topic")
    if body.map("LoggingConfig") is not None:
        out["LoggingConfig"] = _logging(body, before.get("LoggingConfig") or {})
    if body.map("Environment") is not None:
        out["Environment"] = {}  # shown, although it may be empty
    if body.texts("Architectures"):
        out["Architectures"] = body.texts("Architectures")
    return out


def code(body: Body) -> dict[str, Any]:
    """Return the Code of a function that is to be created."""
    return body.map("Code") or {}


def layers(body: Body) -> tuple[str, ...]:
    """Return the ARNs of the layers that are asked for."""
    return tuple(body.texts("Layers") or ())


def tags(body: Body) -> dict[str, str]:
    """Return the tags. Raises ``InvalidParameter`` for too many."""
    given = body.string_map("Tags") or {}
    if len(given) > _MAX_TAGS:
        raise InvalidParameter("Number of tags exceeds resource tag limit.")
    return given


def _architectures(given: list[str] | None) -> str:
    if not given or all(value in ARCHITECTURES for value in given):
        return ""
    allowed = f"[Member must satisfy enum value set: [{', '.join(ARCHITECTURES)}], Member must not be null]"
    return problem(given, "architectures", f"Member must satisfy constraint: {allowed}")


def _layers(given: list[str] | None) -> str:
    if not given or not any(matches(arn, "layers", LAYER_VERSION) for arn in given):
        return ""
    rule = (
        "[Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, "
        f"Member must satisfy regular expression pattern: {LAYER_VERSION}, Member must not be null]"
    )
    return problem(given, "layers", f"Member must satisfy constraint: {rule}")


def _check_runtime(runtime: str | None, *, required: bool, foreign: bool) -> None:
    if runtime is None:
        if required:
            raise InvalidParameter(
                "Runtime and Handler are mandatory parameters for functions created with deployment packages."
            )
        return
    if runtime in _GONE:
        raise InvalidParameter(
            f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda functions. "
            "We recommend you use a supported runtime while creating or updating functions."
        )
    if runtime not in RUNTIMES:
        raise InvalidParameter(
            f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(RUNTIMES)}] or be a valid ARN"
        )
    if not (foreign or runtime.startswith("python3.")):
        raise NotSupported(f"Runtime {runtime} is not supported: python3.x is")


def _check_environment(variables: dict[str, str]) -> None:
    measured = json.dumps(variables, separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode("utf-8", "replace")) > _ENVIRONMENT_BYTES:
        raise InvalidParameter(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. String measured: {measured}"
        )


def _vpc(given: Body) -> dict[str, Any]:
    """Return a VpcConfig as it is shown. Raises ``InvalidParameter``."""
    subnets, groups = given.texts("SubnetIds") or [], given.texts("SecurityGroupIds") or []
    rule = (
        "Member must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length "
        "greater than or equal to 0, Member must satisfy regular expression pattern: {}]"
    )
    for values, field, pattern in (
        (subnets, "vpcConfig.subnetIds", r"subnet-[0-9a-z]*"),
        (groups, "vpcConfig.securityGroupIds", r"sg-[0-9a-zA-Z]*"),
    ):
        if any(matches(value, field, pattern) for value in values):
            refuse(problem(values, field, rule.format(pattern)))
    return vpc_config(subnets, groups, given.flag("Ipv6AllowedForDualStack"))
