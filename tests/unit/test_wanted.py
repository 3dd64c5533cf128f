"""What a template asks for beside a function's own configuration."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wanted import WantedFunction, wanted_of

PERMIT = {"Action": "lambda:InvokeFunction", "Principal": "*", "StatementId": "s"}


def wanted(**more: Any) -> WantedFunction:
    return wanted_of({"FunctionName": "f", "Handler": "h.f", "Runtime": "python3.11", "CodeSha256": "a" * 64, **more})


def test_a_function_alone_asks_for_nothing_else() -> None:
    made = wanted()
    assert ((), {}, None, None, {}, {}, {}, ()) == (
        made.layers, made.tags, made.reserved, made.scaling, made.versions, made.aliases, made.urls, made.permissions
    )  # fmt: skip


def test_versions_aliases_and_urls_are_read() -> None:
    made = wanted(
        Layers=["arn:l:1", {"Ref": "Deps"}],
        Versions={"V1": {"Description": "first"}},
        Aliases={
            "live": {
                "FunctionVersion": {"Ref": "V1"},
                "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.25}},
                "ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 2},
            }
        },
        Urls={"live": {"AuthType": "AWS_IAM", "InvokeMode": "BUFFERED", "Cors": {"AllowOrigins": ["*"]}}},
        FunctionScalingConfig={"MinExecutionEnvironments": 1},
    )
    alias, url = made.aliases["live"], made.urls["live"]
    assert (("arn:l:1", False), ("Deps", True)) == made.layers
    assert ("V1", True, {"1": 0.25}, 2) == (alias.version, alias.by_id, alias.weights, alias.provisioned)
    assert ("AWS_IAM", "BUFFERED", {"AllowOrigins": ["*"]}) == (url.auth_type, url.invoke_mode, url.cors)
    assert (1, None) == made.scaling


@pytest.mark.parametrize(
    ("definition", "field", "problem"),
    [
        ({"ReservedConcurrentExecutions": 0.5}, "ReservedConcurrentExecutions", "must be a whole number, not 0.5"),
        ({"RecursiveLoop": "Maybe"}, "RecursiveLoop", "'Maybe' is not one of Terminate, Allow"),
        ({"ReservedConcurrentExecutions": -1}, "ReservedConcurrentExecutions", "-1 is not 0 or more"),
        ({"Urls": {"$LATEST": {"AuthType": "JWT"}}}, "Urls.$LATEST.AuthType", "not one of NONE, AWS_IAM"),
        ({"Urls": {"$LATEST": {"Cors": {"MaxAge": 86401}}}}, "Urls.$LATEST.Cors.MaxAge", "not between 0 and 86400"),
        ({"Urls": {"$LATEST": {"Cors": {"AllowOrigins": "*"}}}}, "Urls.$LATEST.Cors.AllowOrigins", "list of strings"),
        ({"Aliases": {"live": {}}}, "Aliases.live.FunctionVersion", "None is not a version"),
        ({"Aliases": {"live": {"FunctionVersion": {"Ref": "V"}}}}, "Aliases.live.FunctionVersion", "V is no version"),
        ({"Layers": ["a", "b", "c", "d", "e", "f"]}, "Layers", "6 layers; a function may have 5"),
        ({"Layers": [7]}, "Layers", "7 is not the ARN"),
        (
            {"FunctionScalingConfig": {"MinExecutionEnvironments": 3, "MaxExecutionEnvironments": 2}},
            "FunctionScalingConfig.MinExecutionEnvironments",
            "3 is more than the most, 2",
        ),
        ({"Permissions": [{"Action": "lambda:InvokeFunction"}]}, "Permissions.0.Principal", "must be a string"),
        ({"Versions": {"V": {"Descripton": "x"}}}, "Versions.V.Descripton", "did you mean Description?"),
        ({"Permissions": [{**PERMIT, "Action": "s3:Get"}]}, "Permissions.0.Action", "'s3:Get' does not match"),
        ({"Permissions": [{**PERMIT, "Principal": "me"}]}, "Permissions.0.Principal", "principal was invalid"),
        ({"Permissions": [{**PERMIT, "StatementId": "a b"}]}, "Permissions.0.StatementId", "'a b' does not match"),
        (
            {"Permissions": [{**PERMIT, "InvokedViaFunctionUrl": "x"}]},
            "Permissions.0.InvokedViaFunctionUrl",
            "true or f",
        ),
        (
            {"EventInvokeConfigs": {"l": {"MaximumRetryAttempts": 3}}},
            "EventInvokeConfigs.l.MaximumRetryAttempts",
            "0 and 2",
        ),
        (
            {"EventInvokeConfigs": {"l": {"DestinationConfig": {"OnSuccess": {"Destination": "arn:q.fifo"}}}}},
            "EventInvokeConfigs.l.DestinationConfig.OnSuccess.Destination",
            "arn:q.fifo is FIFO; only standard queues and topics are taken",
        ),
        (
            {"Settings": {"DeadLetterConfig": {"TargetArn": "arn:q.fifo"}}},
            "Settings.DeadLetterConfig.TargetArn",
            "arn:q.fifo is FIFO",
        ),
        (
            {"Settings": {"DeadLetterConfig": {"TargetArn": "dead"}}},
            "Settings.DeadLetterConfig.TargetArn",
            "'dead' is not an ARN of sqs, sns",
        ),
        (
            {"EventInvokeConfigs": {"l": {"DestinationConfig": {"OnSuccess": {"Destination": "arn:aws:s3:::b"}}}}},
            "EventInvokeConfigs.l.DestinationConfig.OnSuccess.Destination",
            "'arn:aws:s3:::b' is not an ARN of lambda, sqs, sns, events",
        ),
        ({"Settings": {"VpcConfig": {"SubnetIds": "a"}}}, "Settings.VpcConfig.SubnetIds", "must be a list of strings"),
        ({"Aliases": {"12": {"FunctionVersion": "1"}}}, "Aliases.12", "'12' does not match"),
        ({"Aliases": {"a b": {"FunctionVersion": "1"}}}, "Aliases.a b", "'a b' does not match"),
        ({"Settings": {"VpcConfig": 5}}, "Settings.VpcConfig", "must be a mapping"),
        (
            {"Settings": {"TracingConfig": {"Mode": "On"}}},
            "Settings.TracingConfig.Mode",
            "not one of PassThrough, Active",
        ),
        (
            {"Settings": {"FileSystemConfigs": [{"Arn": "a"}]}},
            "Settings.FileSystemConfigs.0.LocalMountPath",
            "a string",
        ),
        ({"Settings": {"Tracing": "Active"}}, "Settings.Tracing", "did you mean TracingConfig?"),
        (
            {"Aliases": {"l": {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"V": 0.5}}}}},
            "Aliases.l.RoutingConfig",
            "V is no version of this function",
        ),
    ],
)
def test_what_is_refused_names_its_field(definition: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        wanted(**definition)
    assert field == raised.value.field
    assert problem in raised.value.problem


def test_settings_have_the_shapes_of_lambdas_api() -> None:
    made = wanted(
        Environment={"Variables": {}},
        Architectures=["arm64"],
        Settings={
            "LoggingConfig": {"LogFormat": "JSON"},
            "VpcConfig": {"SubnetIds": ["subnet-1"]},
            "DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"},
            "KMSKeyArn": "arn:k",
            "TracingConfig": {"Mode": "Active"},
            "FileSystemConfigs": [{"Arn": "a", "LocalMountPath": "/mnt/a"}],
        },
    )
    vpc = {"SubnetIds": ["subnet-1"], "SecurityGroupIds": [], "VpcId": "vpc-none", "Ipv6AllowedForDualStack": False}
    assert {
        "LoggingConfig": {"LogFormat": "JSON"},
        "VpcConfig": vpc,
        "DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"},
        "KMSKeyArn": "arn:k",
        "TracingConfig": {"Mode": "Active"},
        "FileSystemConfigs": [{"Arn": "a", "LocalMountPath": "/mnt/a"}],
        "Environment": {},
        "Architectures": ["arm64"],
    } == made.settings
    assert {} == wanted(Settings={"DeadLetterConfig": {"TargetArn": ""}}).settings
