"""``FunctionConfiguration`` and its relatives: the JSON in which Lambda's API describes what there is (spec 1.4)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.catalog import LATEST, Alias, Function, Version
from glowplug.runtime.spec import ARCHITECTURE

from .call import Services

_STORED = tuple("VpcConfig DeadLetterConfig KMSKeyArn FileSystemConfigs CapacityProviderConfig".split())
"""Settings that are shown as they were given, where they were."""

_SETTLED = ("State", "LastUpdateStatus", "RuntimeVersionConfig")
"""Fields that lists leave out (recorded), with what begins like them."""


def configuration_of(services: Services, version: Version, *, suffix: str | None = None) -> dict[str, Any]:
    """Return a function's configuration at one version, with the fields that recorded answers of 2025 always hold and
    those that are set.

    ``suffix`` is the qualifier that the ARN ends in; None: the version's own, which ``$LATEST`` has none of.
    """
    spec, settings = version.spec, version.settings
    if suffix is None:
        suffix = "" if version.number == LATEST else version.number
    configuration: dict[str, Any] = {
        "FunctionName": spec.name,
        "FunctionArn": f"{services.arn_prefix}{spec.name}{f':{suffix}' if suffix else ''}",
        "Runtime": spec.runtime,
        "Role": spec.role or f"arn:aws:iam::{services.account_id}:role/glowplug",
        "Handler": spec.handler,
        "CodeSize": version.code_size,
        "Description": spec.description,
        "Timeout": int(spec.timeout_s),
        "MemorySize": spec.memory_mb,
        "LastModified": version.modified,
        "CodeSha256": base64.b64encode(bytes.fromhex(spec.code_digest)).decode(),
        "Version": version.number,
        "TracingConfig": settings.get("TracingConfig") or {"Mode": "PassThrough"},
        "RevisionId": version.revision_id,
        "PackageType": "Zip",
        "Architectures": settings.get("Architectures") or [ARCHITECTURE],
        "EphemeralStorage": {"Size": spec.ephemeral_mb},
        "SnapStart": {
            "ApplyOn": "PublishedVersions" if spec.snap_start else "None",
            "OptimizationStatus": "On" if version.optimized else "Off",
        },
        "RuntimeVersionConfig": {"RuntimeVersionArn": f"arn:aws:lambda:{services.region}::runtime:{spec.runtime}"},
        "LoggingConfig": logging_config(spec.name, settings.get("LoggingConfig") or {}),
        **_states(version),
        **{name: settings[name] for name in _STORED if settings.get(name)},
    }
    if spec.environment or "Environment" in settings:
        configuration["Environment"] = {"Variables": dict(spec.environment)}
    if spec.layers:
        configuration["Layers"] = [{"Arn": layer.arn, "CodeSize": layer.size} for layer in spec.layers]
    return configuration


def in_a_list(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as ListFunctions and ListVersionsByFunction show it."""
    return {name: value for name, value in configuration.items() if not name.startswith(_SETTLED)}


def alias_of(services: Services, function: Function, alias: Alias) -> dict[str, Any]:
    """Return an alias's configuration."""
    shown: dict[str, Any] = {
        "AliasArn": f"{services.arn_prefix}{function.name}:{alias.name}",
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    }
    if alias.weights:
        shown["RoutingConfig"] = {"AdditionalVersionWeights": dict(alias.weights)}
    return shown


def logging_config(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a LoggingConfig with what is not given filled in; only JSON has levels."""
    shown = {"LogFormat": given.get("LogFormat") or "Text", "LogGroup": given.get("LogGroup") or f"/aws/lambda/{name}"}
    if shown["LogFormat"] == "JSON":
        for level in ("ApplicationLogLevel", "SystemLogLevel"):
            shown[level] = given.get(level) or "INFO"
    return shown


def _states(version: Version) -> dict[str, Any]:
    """Return State and LastUpdateStatus, each with its reason where it has one."""
    given = {
        "State": version.state,
        "StateReason": version.state_reason,
        "StateReasonCode": version.state_reason_code,
        "LastUpdateStatus": version.update,
        "LastUpdateStatusReason": version.update_reason,
        "LastUpdateStatusReasonCode": version.update_reason_code,
    }
    return {name: value for name, value in given.items() if value}
