"""What belongs to a function of a template: versions, aliases, URLs, permissions, EventInvokeConfigs, settings."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.intrinsics import Intrinsics
from glowplug.deploy.template import parse
from glowplug.deploy.translate import Stack, translate
from glowplug.deploy.versionnumbers import numbered, unpublished
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wanted import WantedFunction, wanted_of

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
HEAD = "Transform: AWS::Serverless-2016-10-31\nResources:\n"
SERVERLESS = """\
  Embed:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: embed
      Handler: index.handler
      Runtime: python3.11
      InlineCode: "def handler(event, context): return 1"
"""
PLAIN = """\
  Raw:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: raw
      Handler: index.handler
      Runtime: python3.11
      Role: r
      Code: {ZipFile: "def handler(event, context): return 1"}
"""


def translated(text: str) -> Stack:
    return translate(parse(text, path=Path("template.yaml"), name="template.yaml"), stack="main")


def refused(text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        translated(text)
    return str(caught.value)


def embed(properties: str, more: str = "") -> dict[str, Any]:
    """Return the definition of a SAM function with further properties."""
    definition = dict(translated(HEAD + SERVERLESS + indented(properties) + more).definitions.functions["Embed"])
    wanted_of(definition)
    return definition


def indented(properties: str) -> str:
    return "".join(f"      {line}\n" for line in properties.splitlines())


def version_of(definition: dict[str, Any]) -> str:
    [version] = definition["Versions"]
    return str(version)


# --- SAM --------------------------------------------------------------------------------------------------------------


def test_auto_publish_alias_is_a_version_and_an_alias_that_points_to_it() -> None:
    definition = embed(
        "AutoPublishAlias: live\nVersionDescription: first\n"
        "ProvisionedConcurrencyConfig: {ProvisionedConcurrentExecutions: !Ref Kept}\n",
        "Parameters: {Kept: {Type: Number, Default: 2}}\n",
    )
    version = version_of(definition)
    assert re.fullmatch("EmbedVersion[0-9a-f]{10}", version)
    assert {version: {"Description": "first"}} == definition["Versions"]
    provisioned = {"ProvisionedConcurrentExecutions": 2}
    assert {"live": {"FunctionVersion": {"Ref": version}, "ProvisionedConcurrencyConfig": provisioned}} == definition[
        "Aliases"
    ]


@pytest.mark.parametrize(
    ("properties", "changed", "publishes"),
    [
        ("AutoPublishAlias: live", "InlineCode: 'def handler(event, context): return 2'", True),
        ("AutoPublishAlias: live", "InlineCode: 'def handler(event, context): return 1'", False),
        ("AutoPublishAlias: live", "MemorySize: 256", True),
        ("AutoPublishAlias: live", "Timeout: 9", False),
        ("AutoPublishAlias: live\nAutoPublishAliasAllProperties: true", "Timeout: 9", True),
        ("AutoPublishAlias: live\nAutoPublishAliasAllProperties: true", "VersionDescription: x", False),
        (f"AutoPublishAlias: live\nAutoPublishCodeSha256: {'a' * 64}", "InlineCode: 'def handler(e, c): ...'", False),
    ],
)
def test_a_version_has_a_new_logical_id_where_what_it_is_made_of_has_changed(
    properties: str, changed: str, publishes: bool
) -> None:
    before = version_of(embed(properties))
    text = HEAD + SERVERLESS + indented(properties)
    if changed.startswith("InlineCode"):
        text = re.sub("InlineCode: .*", changed, text)
    else:
        text += indented(changed)
    after = version_of(dict(translated(text).definitions.functions["Embed"]))
    assert publishes == (before != after)


def test_a_public_url_comes_with_its_two_permissions_on_the_alias() -> None:
    definition = embed("AutoPublishAlias: live\nFunctionUrlConfig: {AuthType: NONE, Cors: {MaxAge: 9}}")
    assert {"live": {"AuthType": "NONE", "Cors": {"MaxAge": 9}}} == definition["Urls"]
    assert [
        {
            "StatementId": "main-EmbedUrlPublicPermissions", "Action": "lambda:InvokeFunctionUrl", "Principal": "*",
            "FunctionUrlAuthType": "NONE", "Qualifier": "live",
        },
        {
            "StatementId": "main-EmbedURLInvokeAllowPublicAccess", "Action": "lambda:InvokeFunction", "Principal": "*",
            "InvokedViaFunctionUrl": True, "Qualifier": "live",
        },
    ] == definition["Permissions"]  # fmt: skip
    definition = embed("FunctionUrlConfig: {AuthType: NONE}")
    assert [None, None] == [one.get("Qualifier") for one in definition["Permissions"]]
    assert "Permissions" not in embed("FunctionUrlConfig: {AuthType: AWS_IAM}")


def test_what_is_stored_has_the_names_and_shapes_of_the_lambda_api() -> None:
    text = HEAD + SERVERLESS + """\
      Tags: {team: !Ref AWS::StackName, count: 3}
      LoggingConfig: {LogFormat: JSON, ApplicationLogLevel: DEBUG, LogGroup: /mine}
      VpcConfig: {SubnetIds: [subnet-1], SecurityGroupIds: [sg-1]}
      DeadLetterQueue: {Type: SQS, TargetArn: "arn:aws:sqs:us-east-1:000000000000:q"}
      Tracing: Active
      KmsKeyArn: "arn:aws:kms:us-east-1:000000000000:key/1"
      FileSystemConfigs: [{Arn: "arn:fs", LocalMountPath: /mnt/a}]
      EventInvokeConfig:
        MaximumRetryAttempts: 1
        DestinationConfig: {OnFailure: {Type: SQS, Destination: "arn:aws:sqs:us-east-1:000000000000:q"}}
      FunctionScalingConfig: {MinExecutionEnvironments: 1}
Globals: {Function: {Tags: {shared: yes}, FunctionScalingConfig: {MaxExecutionEnvironments: "4"}, RecursiveLoop: Allow}}
"""  # fmt: skip
    stack = translated(text)
    definition = stack.definitions.functions["Embed"]
    assert {"lambda:createdBy": "SAM", "shared": "true", "team": "main", "count": "3"} == definition["Tags"]
    assert {
        "LoggingConfig": {"LogFormat": "JSON", "ApplicationLogLevel": "DEBUG", "LogGroup": "/mine"},
        "VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        "DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"},
        "TracingConfig": {"Mode": "Active"},
        "KMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/1",
        "FileSystemConfigs": [{"Arn": "arn:fs", "LocalMountPath": "/mnt/a"}],
    } == definition["Settings"]
    destination = {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:q"}}
    assert {"$LATEST": {"MaximumRetryAttempts": 1, "DestinationConfig": destination}} == definition[
        "EventInvokeConfigs"
    ]
    assert {"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 4} == definition["FunctionScalingConfig"]
    wanted = wanted_of(definition)
    assert ("JSON", "DEBUG", (1, 4)) == (wanted.spec.log_format, wanted.spec.log_level, wanted.scaling)
    assert "Allow" == wanted.recursion
    assert [
        f"{name} has no effect here (Embed)"
        for name in (
            "VpcConfig", "Tracing", "KmsKeyArn", "FileSystemConfigs"
        )
    ] == list(stack.notes)  # fmt: skip


def test_a_capacity_provider_is_stored_in_lambdas_shape() -> None:
    definition = embed("CapacityProviderConfig: {Arn: 'arn:cap', PerExecutionEnvironmentMaxConcurrency: 4}")
    config = {"CapacityProviderArn": "arn:cap", "PerExecutionEnvironmentMaxConcurrency": 4}
    assert {"LambdaManagedInstancesCapacityProviderConfig": config} == definition["Settings"]["CapacityProviderConfig"]


def test_an_event_invoke_config_is_of_the_alias_where_there_is_one() -> None:
    definition = embed("AutoPublishAlias: live\nEventInvokeConfig: {MaximumEventAgeInSeconds: 60}")
    assert ["live"] == list(definition["EventInvokeConfigs"])


def test_what_belongs_to_a_function_whose_condition_fails_goes_with_it() -> None:
    text = (
        HEAD + SERVERLESS + indented("AutoPublishAlias: live\nFunctionUrlConfig: {AuthType: NONE}")
        + "    Condition: Never\n" + SERVERLESS.replace("Embed", "Other").replace("embed", "other")
        + "Conditions: {Never: !Equals [a, b]}\n"
    )  # fmt: skip
    assert ["Other"] == list(translated(text).definitions.functions)


# --- CloudFormation ---------------------------------------------------------------------------------------------------

RAW = HEAD + PLAIN + """\
      Tags: [{Key: a, Value: 1}]
      TracingConfig: {Mode: Active}
      FunctionScalingConfig: {MinExecutionEnvironments: 1}
  First: {Type: AWS::Lambda::Version, Properties: {FunctionName: !Ref Raw, Description: one}}
  Live:
    Type: AWS::Lambda::Alias
    Properties:
      FunctionName: !GetAtt Raw.Arn
      Name: live
      Description: what is served
      FunctionVersion: !GetAtt First.Version
      ProvisionedConcurrencyConfig: {ProvisionedConcurrentExecutions: 1}
  Canary:
    Type: AWS::Lambda::Alias
    Properties:
      FunctionName: raw
      Name: canary
      FunctionVersion: 1
      RoutingConfig: {AdditionalVersionWeights: [{FunctionVersion: !GetAtt First.Version, FunctionWeight: "0.1"}]}
  Url: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref Live, AuthType: AWS_IAM}}
  Second: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: raw, Qualifier: canary, AuthType: NONE}}
  Third: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !GetAtt Raw.Arn, AuthType: NONE}}
  Bucket:
    Type: AWS::Lambda::Permission
    Properties:
      FunctionName: !Ref Live
      Action: lambda:InvokeFunction
      Principal: s3.amazonaws.com
      SourceArn: !Sub "arn:aws:s3:::${AWS::StackName}"
      SourceAccount: !Ref AWS::AccountId
  Account:
    Type: AWS::Lambda::Permission
    Properties: {FunctionName: raw, Action: lambda:InvokeFunction, Principal: 123456789012}
  Retries:
    Type: AWS::Lambda::EventInvokeConfig
    Properties: {FunctionName: !Ref Raw, Qualifier: live, MaximumRetryAttempts: 0}
Outputs:
  Alias: {Value: !Ref Live}
  Version: {Value: !Ref First}
  Number: {Value: !Sub "number ${First.Version}"}
  Url: {Value: !GetAtt Url.FunctionUrl}
  UrlArn: {Value: !GetAtt Second.FunctionArn}
  Permission: {Value: !Ref Bucket}
  SnapStart: {Value: !GetAtt Raw.SnapStartResponse.ApplyOn}
"""  # fmt: skip


def test_resources_of_their_own_are_read_as_cloudformation_has_them() -> None:
    definition = translated(RAW).definitions.functions["Raw"]
    assert {"First": {"Description": "one"}} == definition["Versions"]
    assert {
        "live": {
            "FunctionVersion": {"Ref": "First"}, "Description": "what is served",
            "ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1},
        },
        "canary": {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"First": 0.1}}},
    } == definition["Aliases"]  # fmt: skip
    assert {
        "live": {"AuthType": "AWS_IAM"}, "canary": {"AuthType": "NONE"}, "$LATEST": {"AuthType": "NONE"}
    } == definition["Urls"]  # fmt: skip
    assert [
        {
            "StatementId": "main-Bucket", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com",
            "SourceArn": "arn:aws:s3:::main", "SourceAccount": "000000000000", "Qualifier": "live",
        },
        {"StatementId": "main-Account", "Action": "lambda:InvokeFunction", "Principal": "123456789012"},
    ] == definition["Permissions"]  # fmt: skip
    assert {"live": {"MaximumRetryAttempts": 0}} == definition["EventInvokeConfigs"]
    assert ({"a": "1"}, {"MinExecutionEnvironments": 1}) == (definition["Tags"], definition["FunctionScalingConfig"])
    wanted: WantedFunction = wanted_of(definition)
    assert {"First": 0.1} == wanted.aliases["canary"].weights


def test_the_loops_of_a_plain_function_are_its_own() -> None:
    assert (
        "Allow"
        == wanted_of(translated(f"{HEAD}{PLAIN}      RecursiveLoop: Allow\n").definitions.functions["Raw"]).recursion
    )


def test_outputs_have_what_references_stand_for_and_numbers_when_those_are_given() -> None:
    outputs = dict(translated(RAW).outputs)
    assert "First" == unpublished(outputs["Version"]) == unpublished(outputs["Number"])
    assert {
        "Alias": f"{ARN}raw:live", "Version": f"{ARN}raw:7", "Number": "number 7",
        "Url": "http://127.0.0.1:9000/_url/raw-live/", "UrlArn": f"{ARN}raw:canary",
        "Permission": "main-Bucket", "SnapStart": "None",
    } == numbered(outputs, {"First": "7", "Other": "9"})  # fmt: skip
    assert outputs == numbered(outputs, {})


def test_sams_own_references_to_versions_and_aliases_are_resolved() -> None:
    text = (
        HEAD
        + SERVERLESS
        + indented("AutoPublishAlias: live")
        + """\
Outputs:
  Version: {Value: !Ref Embed.Version}
  Alias: {Value: !Ref Embed.Alias}
  Both: {Value: !Sub "${Embed.Alias} ${Embed.Version}"}
"""
    )
    stack = translated(text)
    version = version_of(dict(stack.definitions.functions["Embed"]))
    assert {
        "Version": f"{ARN}embed:3", "Alias": f"{ARN}embed:live", "Both": f"{ARN}embed:live {ARN}embed:3"
    } == numbered(dict(stack.outputs), {version: "3"})  # fmt: skip


def test_a_version_may_say_which_code_it_expects() -> None:
    digest = base64.b64encode(bytes.fromhex(translated(RAW).definitions.functions["Raw"]["CodeSha256"])).decode()
    right = RAW.replace("Description: one", f"CodeSha256: {digest}")
    assert {"First": {}} == translated(right).definitions.functions["Raw"]["Versions"]
    wrong = refused(RAW.replace("Description: one", "CodeSha256: other"))
    assert f"template.yaml:14: First.Properties.CodeSha256: is not that of the function's code, {digest}" == wrong


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: raw, Name: a}}",
         "template.yaml:11: A.Properties: FunctionVersion is missing"),
        ("A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: gone, Name: a, FunctionVersion: 1}}",
         "template.yaml:11: A.Properties.FunctionName: gone is not a function of this template"),
        ("A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: raw, Name: a, FunctionVersion: x}}",
         "template.yaml:11: A.Properties.FunctionVersion: 'x' is not a version"),
        ("A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: !Ref A, Name: a, FunctionVersion: 1}}",
         "template.yaml:11: A.Properties.FunctionName: depends on itself"),
        ("A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: raw, Name: a, FunctionVersion: 1, RoutingConfig: "
         "{AdditionalVersionWeights: {'2': 0.5}}}}",
         "template.yaml:11: A.Properties.RoutingConfig.AdditionalVersionWeights: must be a list of mappings with"),
        ("A: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref A, AuthType: NONE}}",
         "template.yaml:11: A.Properties.TargetFunctionArn: depends on itself"),
        ("A: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: raw, AuthType: JWT}}",
         "template.yaml:11: A.Properties.AuthType: 'JWT' is not one of NONE, AWS_IAM"),
        ("A: {Type: AWS::Lambda::Permission, Properties: {FunctionName: raw, Action: s3:Get, Principal: '*'}}",
         "template.yaml:11: A.Properties.Action: 's3:Get' does not match"),
        ("A: {Type: AWS::Lambda::Permission, Properties: {FunctionName: raw, Action: '*', Principal: me}}",
         "template.yaml:11: A.Properties.Principal: The provided principal was invalid."),
        ("A: {Type: AWS::Lambda::Permission, Properties: {FunctionName: raw, Action: '*', Principl: me}}",
         "template.yaml:11: A.Properties.Principl: unknown key; did you mean Principal?"),
        ("A: {Type: AWS::Lambda::EventInvokeConfig, Properties: {FunctionName: raw, Qualifier: $LATEST, "
         "MaximumRetryAttempts: 3}}",
         "template.yaml:11: A.Properties.MaximumRetryAttempts: 3 is not between 0 and 2"),
        (
            "A: {Type: AWS::Lambda::Version, Properties: {FunctionName: raw}}\n"
            "  B: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref A, AuthType: NONE}}",
            "template.yaml:12: B.Properties: the number of A is known when it is published",
        ),
        ("A: {Type: AWS::Lambda::Version, Properties: {FunctionName: raw, FunctionScalingConfig: {}}}",
         "template.yaml:11: A.Properties.FunctionScalingConfig: is not supported yet"),
        ("A: {Type: AWS::Lambda::Version, Metadata: {Glowplug: {}}, Properties: {FunctionName: raw}}",
         "template.yaml:11: A.Metadata.Glowplug: belongs to a function"),
        ("A: {Type: AWS::Lambda::Versoin}", "template.yaml:11: A.Type: AWS::Lambda::Versoin is not supported yet; did you"),
        ("A: {Type: AWS::Serverless::Connector}", "template.yaml:11: A.Type: AWS::Serverless::Connector is not supported"),
    ],
)  # fmt: skip
def test_what_is_wrong_about_a_resource_is_named_where_it_is_written(more: str, message: str) -> None:
    assert refused(f"{HEAD}{PLAIN}  {more}\n").startswith(message)


def test_two_of_one_name_are_refused() -> None:
    alias = "{Type: AWS::Lambda::Alias, Properties: {FunctionName: raw, Name: a, FunctionVersion: 1}}"
    message = "template.yaml:12: B.Properties: raw has alias a already"
    assert message == refused(f"{HEAD}{PLAIN}  A: {alias}\n  B: {alias}\n")
    url = "{Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: raw, AuthType: NONE}}"
    message = "template.yaml:12: B.Properties: raw has function URL $LATEST already"
    assert message == refused(f"{HEAD}{PLAIN}  A: {url}\n  B: {url}\n")


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("FunctionUrlConfig: {AuthType: NONE, InvokeMode: SOMETIMES}", "FunctionUrlConfig.InvokeMode: 'SOMETIMES' is not"),
        ("FunctionUrlConfig: {AuthType: NONE, Cors: {AllowOrigins: [!RefAll x]}}",
         "FunctionUrlConfig.Cors.AllowOrigins.0: Fn::RefAll is not supported"),
        ("LoggingConfig: {LogFormat: XML}", "LoggingConfig.LogFormat: 'XML' is not one of Text, JSON"),
        ("KmsKeyArn: {a: b}", "KmsKeyArn: must be a string"),
        ("EventInvokeConfig: {MaximumRetryAttempts: 3}", "EventInvokeConfig.MaximumRetryAttempts: 3 is not between 0"),
        ("EventInvokeConfig: {Retries: 3}", "EventInvokeConfig.Retries: unknown key"),
        ("EventInvokeConfig: {DestinationConfig: {OnFailure: {Type: SQS}}}",
         "EventInvokeConfig.DestinationConfig.OnFailure: Destination is missing: an SQS resource that is made for it"),
        ("FunctionScalingConfig: {MinExecutionEnvironments: -1}", "FunctionScalingConfig.MinExecutionEnvironments: -1 is"),
        ("DeploymentPreference: {Type: AllAtOnce}", "DeploymentPreference: is not supported yet"),
        ("Events: {Jobs: {Type: Kinesis}}", "Events.Jobs.Type: events of Kinesis are not supported yet"),
        ("Events: {Web: {Type: Cognito}}", "Events.Web.Type: events of Cognito are not supported yet"),
        ("Events: {Jobs: {Type: Schedul}}", "Events.Jobs.Type: 'Schedul' is no type of an event; did you mean Schedule?"),
        ("Events: {Jobs: {Type: sqs}}", "Events.Jobs.Type: 'sqs' is no type of an event; did you mean SQS?"),
        ("Events: {Jobs: {Type: Mail}}", "Events.Jobs.Type: 'Mail' is no type of an event; there are Api, Cloud"),
        ("Events: {Jobs: {}}", "Events.Jobs: must be a mapping with a Type"),
        ("Events: [Jobs]", "Events: must be a mapping"),
        ("PackageType: Image", "PackageType: 'Image' is not supported yet; use Zip"),
        ("Environment: {Variables: {V1: !Ref Embed.Version}}\nAutoPublishAlias: live",
         "Environment.Variables.V1: the number of EmbedVersion"),
    ],
)  # fmt: skip
def test_what_is_wrong_about_a_property_is_named_by_the_property(properties: str, message: str) -> None:
    assert refused(HEAD + SERVERLESS + indented(properties)).startswith(f"template.yaml:10: Embed.Properties.{message}")


@pytest.mark.parametrize("runtime", ["provided.al2023", "provided"])
def test_custom_runtimes_are_refused_by_name(runtime: str) -> None:
    text = HEAD + SERVERLESS.replace("python3.11", runtime)
    problem = f"'{runtime}' is a custom runtime, which is not supported yet; python3.x is"
    assert f"template.yaml:8: Embed.Properties.Runtime: {problem}" == refused(text)


def test_a_property_that_is_inherited_is_named_in_globals() -> None:
    text = HEAD + SERVERLESS + "Globals:\n  Function:\n    LoggingConfig: {LogFormat: XML}\n"
    assert refused(text).startswith("template.yaml:12: Globals.Function.LoggingConfig.LogFormat: 'XML' is not one of")
    text = HEAD + SERVERLESS + "Globals:\n  Function:\n    DeploymentPreference: {Type: AllAtOnce}\n"
    assert "template.yaml:12: Globals.Function.DeploymentPreference: is not supported yet" == refused(text)


def test_what_the_node_refuses_of_a_resource_is_found_again() -> None:
    stack = translated(RAW)
    for field, line in (
        ("Aliases.canary", 25), ("Permissions.0", 35), ("Permissions.0.SourceArn", 39), ("Urls.canary.AuthType", 31),
        ("Aliases.live.FunctionVersion", 21), ("EventInvokeConfigs.live", 46), ("Timeout", 5),
    ):  # fmt: skip
        assert line == stack.error("Raw", DefinitionError(field, "no")).line, field


# --- properties -------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,20}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(names, inner)
)


@given(values, st.dictionaries(names, st.integers(1, 99).map(str)))
def test_a_value_without_a_number_that_is_waited_for_stays_as_it_is(value: Any, numbers: dict[str, str]) -> None:
    if "<version of " not in repr(value):
        assert value == numbered(value, numbers)


@given(names, st.text(alphabet=st.characters(exclude_characters="<>")), st.integers(1, 10**6))
def test_every_number_that_is_given_is_filled_in(name: str, around: str, number: int) -> None:
    waiting = f"{around}<version of {name}>{around}"
    assert name == unpublished(waiting)
    assert {"a": [f"{around}{number}{around}"]} == numbered({"a": [waiting]}, {name: str(number)})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Version", "Alias", "Url", "Permission", "EventInvokeConfig"]),
    st.dictionaries(
        st.sampled_from(
            "FunctionName TargetFunctionArn Qualifier Name FunctionVersion RoutingConfig Action Principal AuthType Cors "
            "MaximumRetryAttempts DestinationConfig CodeSha256 InvokedViaFunctionUrl Description".split()
        ),
        st.sampled_from(
            ['raw', '!Ref Raw', '!Ref X', '!GetAtt X.Version', '!GetAtt Raw.Arn', '1', '{a: b}', '[1]', '"*"', '"a:b"',
             'NONE', 'null', '{AdditionalVersionWeights: [{FunctionVersion: 1, FunctionWeight: 2}]}', '!Ref AWS::NoValue']
        ),
    ),
)  # fmt: skip
def test_whatever_stands_in_a_resource_is_read_or_refused_with_its_place(kind: str, properties: dict[str, str]) -> None:
    given = ", ".join(f"{name}: {value}" for name, value in properties.items())
    text = f"{HEAD}{PLAIN}  X: {{Type: AWS::Lambda::{kind}, Properties: {{{given}}}}}\n"
    try:
        definition = translated(text).definitions.functions["Raw"]
    except TemplateError as error:
        line = error.line
    else:
        line = 11
        wanted_of(definition)
    assert line in (3, 11)


def test_a_template_of_many_functions_costs_each_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    evaluate = Intrinsics.evaluate

    def counted(self: Intrinsics, value: Any, path: Any) -> Any:
        nonlocal calls
        calls += 1
        return evaluate(self, value, path)

    monkeypatch.setattr(Intrinsics, "evaluate", counted)
    counts = []
    for count in (10, 40):
        calls = 0
        functions = (SERVERLESS.replace("Embed", f"F{n}").replace("embed", f"f{n}") for n in range(count))
        more = indented("AutoPublishAlias: live\nFunctionUrlConfig: {AuthType: NONE}")
        translated(HEAD + "".join(function + more for function in functions))
        counts.append(calls)
    assert counts[1] == 4 * counts[0]
