"""Configuration that is accepted, stored and shown, under Lambda's own names and in the shapes of its API.

None of it changes what runs, except LoggingConfig, which ``definition`` reads as well. What is stored so of a
template's function is what CreateFunction would have stored (``http/lambda_api/functioninput.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import DefinitionError
from .reader import Reader, kind

_KNOWN = frozenset(
    "LoggingConfig VpcConfig DeadLetterConfig KMSKeyArn TracingConfig FileSystemConfigs CapacityProviderConfig".split()
)
_VPC = frozenset("SubnetIds SecurityGroupIds Ipv6AllowedForDualStack".split())
_CAPACITY = "LambdaManagedInstancesCapacityProviderConfig"
_CAPACITY_KEYS = frozenset(
    "CapacityProviderArn PerExecutionEnvironmentMaxConcurrency ExecutionEnvironmentMemoryGiBPerVCpu".split()
)


def settings_of(definition: Reader) -> dict[str, Any]:
    """Return what is stored of a definition: its ``Settings``, and what it says that only the API shows.

    Raises ``DefinitionError``.
    """
    given = definition.section("Settings", _KNOWN)
    found: dict[str, Any] = {}
    if given.values.get("LoggingConfig"):
        found["LoggingConfig"] = dict(given.values["LoggingConfig"])  # ``definition`` has judged it
    if given.values.get("VpcConfig") is not None:
        vpc = given.section("VpcConfig", _VPC)
        dual_stack = _flag(vpc, "Ipv6AllowedForDualStack")
        found["VpcConfig"] = vpc_config(_texts(vpc, "SubnetIds"), _texts(vpc, "SecurityGroupIds"), dual_stack)
    if target := given.section("DeadLetterConfig", {"TargetArn"}).unordered_arn("TargetArn", "sqs", "sns"):
        found["DeadLetterConfig"] = {"TargetArn": target}
    if key := given.text("KMSKeyArn"):
        found["KMSKeyArn"] = key
    if given.values.get("TracingConfig") is not None:
        mode = given.section("TracingConfig", {"Mode"}).choice("Mode", ("PassThrough", "Active"), "PassThrough")
        found["TracingConfig"] = {"Mode": mode}
    if systems := _file_systems(given):
        found["FileSystemConfigs"] = systems
    if given.values.get("CapacityProviderConfig"):
        found["CapacityProviderConfig"] = _capacity(given.section("CapacityProviderConfig", {_CAPACITY}))
    if definition.values.get("Environment") is not None:
        found["Environment"] = {}  # shown, although it may be empty
    if definition.values.get("Architectures"):
        found["Architectures"] = list(definition.values["Architectures"])
    return found


def vpc_config(subnets: Sequence[str], groups: Sequence[str], dual_stack: bool) -> dict[str, Any]:
    """Return a VpcConfig as it is shown. It has no effect here: there is no VPC, and no id is looked up."""
    return {
        "SubnetIds": list(subnets),
        "SecurityGroupIds": list(groups),
        "VpcId": "vpc-none" if subnets else "",
        "Ipv6AllowedForDualStack": dual_stack,
    }


def _file_systems(given: Reader) -> list[dict[str, str]]:
    value = given.values.get("FileSystemConfigs") or []
    if not isinstance(value, list):
        raise DefinitionError(given.at("FileSystemConfigs"), f"must be a list, not {kind(value)}")
    found = []
    for number, one in enumerate(value):
        section = Reader(one, f"{given.at('FileSystemConfigs')}.{number}")
        section.only({"Arn", "LocalMountPath"})
        found.append({name: section.text(name, required=True) for name in ("Arn", "LocalMountPath")})
    return found


def _capacity(given: Reader) -> dict[str, Any]:
    section = given.section(_CAPACITY, _CAPACITY_KEYS)
    found: dict[str, Any] = {"CapacityProviderArn": section.text("CapacityProviderArn", required=True)}
    concurrency = section.optional_whole("PerExecutionEnvironmentMaxConcurrency", low=1)
    if concurrency is not None:
        found["PerExecutionEnvironmentMaxConcurrency"] = concurrency
    if section.values.get("ExecutionEnvironmentMemoryGiBPerVCpu") is not None:
        memory = section.number("ExecutionEnvironmentMemoryGiBPerVCpu", 2, low=2, high=8)
        found["ExecutionEnvironmentMemoryGiBPerVCpu"] = memory
    return {_CAPACITY: found}


def _texts(section: Reader, name: str) -> list[str]:
    value = section.values.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DefinitionError(section.at(name), f"must be a list of strings, not {kind(value)}")
    return value


def _flag(section: Reader, name: str) -> bool:
    value = section.values.get(name, False)
    if not isinstance(value, bool):
        raise DefinitionError(section.at(name), f"must be true or false, not {kind(value)}")
    return value
