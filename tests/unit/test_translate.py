"""From a template to definitions: what comes out, and that everything refused is named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.account import Account
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wanted import wanted_of

HEAD = "Transform: AWS::Serverless-2016-10-31\nResources:\n"
FUNCTION = """\
  Embed:
    Type: AWS::Serverless::Function
    Properties:
      Handler: embed.handler
      Runtime: python3.11
      CodeUri: code/
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a function's code and a warm-up event, for a template.yaml."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "embed.py").write_text("def handler(event, context): ...\n")
    (tmp_path / "event.json").write_text('{"text": "hello"}')
    return tmp_path


def translated(directory: Path, text: str, **options: Any) -> Stack:
    (directory / "template.yaml").write_text(text)
    return translate(load(directory / "template.yaml"), stack="main", **options)


def refused(directory: Path, text: str, **options: Any) -> str:
    """Return the message without the directory in front of it."""
    with pytest.raises(TemplateError) as caught:
        translated(directory, text, **options)
    return str(caught.value).removeprefix(f"{directory}/")


def test_a_function_without_a_name_is_called_stack_and_logical_id(directory: Path) -> None:
    stack = translated(directory, HEAD + FUNCTION)
    [digest] = stack.archives
    assert {
        "FunctionName": "main-Embed",
        "CodeSha256": digest,
        "Handler": "embed.handler",
        "Runtime": "python3.11",
        "Role": "arn:aws:iam::000000000000:role/main-EmbedRole",
        "Tags": {"lambda:createdBy": "SAM"},
    } == stack.definitions.functions["Embed"]


def test_every_built_property_reaches_the_spec(directory: Path) -> None:
    text = HEAD + FUNCTION + """\
      FunctionName: embed
      Description: words
      MemorySize: 1024
      Timeout: 30
      Environment: {Variables: {A1: 1, B1: !Sub "${AWS::Region}", C1: true}}
      EphemeralStorage: {Size: 512}
      ReservedConcurrentExecutions: 3
      SnapStart: {ApplyOn: PublishedVersions}
      Architectures: [x86_64]
      Role: !GetAtt Given.Arn
      FunctionUrlConfig: {AuthType: NONE, InvokeMode: BUFFERED}
    Metadata:
      Glowplug:
        Model: {Source: "file:///model", Engine: eager}
        Parking: off
        Warmup: {Event: event.json, Compare: none}
  Given: {Type: AWS::IAM::Role, Properties: {RoleName: mine, AssumeRolePolicyDocument: {}}}
"""  # fmt: skip
    wanted = wanted_of(translated(directory, text).definitions.functions["Embed"])
    spec = wanted.spec
    assert ("embed", "words", 1024, 30, 512, 3, True) == (
        spec.name, spec.description, spec.memory_mb, spec.timeout_s, spec.ephemeral_mb, wanted.reserved, spec.snap_start
    )  # fmt: skip
    assert {"A1": "1", "B1": "us-east-1", "C1": "true"} == spec.environment
    assert "arn:aws:iam::000000000000:role/mine" == spec.role
    assert ["$LATEST"] == list(wanted.urls)
    assert ("file:///model", "eager", False) == (spec.models[0].source, spec.models[0].engine, spec.parking)
    assert '{"text": "hello"}' == spec.warmup_event


def test_parameters_conditions_and_mappings_decide(directory: Path) -> None:
    text = """\
Transform: AWS::Serverless-2016-10-31
Parameters:
  Memory: {Type: Number, Default: 256, MaxValue: 4096}
  Code: {Type: String, Default: code/}
  Idle: {Type: Number, Default: 5}
  Stage: {Type: String, Default: dev, AllowedValues: [dev, prod]}
Conditions: {Prod: !Equals [!Ref Stage, prod]}
Mappings: {Engines: {dev: {name: eager}, prod: {name: auto}}}
Resources:
  Embed:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug:
        Model: {Source: !Sub "s3://${Stage}/x", Engine: !FindInMap [Engines, !Ref Stage, name]}
        IdleTimeoutSeconds: !Ref Idle
    Properties:
      {Handler: a.b, Runtime: python3.11, CodeUri: !Ref Code, MemorySize: !Ref Memory, Description: !Ref Memory}
  OnlyProd:
    Type: AWS::Serverless::Function
    Condition: Prod
    Properties: {Handler: a.b, Runtime: python3.11, CodeUri: code, FunctionUrlConfig: {AuthType: NONE}}
"""
    dev = translated(directory, text)
    assert ["Embed"] == list(dev.definitions.functions)
    assert (256, "256") == (
        dev.definitions.functions["Embed"]["MemorySize"],
        dev.definitions.functions["Embed"]["Description"],
    )
    assert {"Source": "s3://dev/x", "Engine": "eager"} == dev.definitions.functions["Embed"]["Glowplug"]["Model"]
    assert 5 == dev.definitions.functions["Embed"]["Glowplug"]["IdleTimeoutSeconds"]
    prod = translated(directory, text, parameters={"Stage": "prod", "Memory": "512"})
    assert {"Embed", "OnlyProd"} == set(prod.definitions.functions)
    assert {"AuthType": "NONE"} == prod.definitions.functions["OnlyProd"]["Urls"]["$LATEST"]
    assert 512 == prod.definitions.functions["Embed"]["MemorySize"]
    wrong = {"Stage": "template.yaml:6: Parameters.Stage: 'x' is not one of dev, prod",
             "Memory": "template.yaml:3: Parameters.Memory: 'x' is not a number",
             "Memor": "template.yaml:2: Parameters: the template has no parameter Memor; did you mean Memory?"}  # fmt: skip
    for name, message in wrong.items():
        assert message == refused(directory, text, parameters={name: "x"})
    message = "template.yaml:3: Parameters.Memory: '5000' breaks MaxValue 4096"
    assert message == refused(directory, text, parameters={"Memory": "5000"})


def test_globals_and_template_metadata_are_defaults_that_a_function_overrides(directory: Path) -> None:
    text = """\
Transform: AWS::Serverless-2016-10-31
Metadata: {Glowplug: {Parking: off, Model: {Engine: eager}, IdleTimeoutSeconds: 7}}
Globals: {Function: {Runtime: python3.11, CodeUri: code, Timeout: 9}}
Resources:
  Plain: {Type: AWS::Serverless::Function, Properties: {Handler: a.b}}
  Embed:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {Model: {Source: "s3://b/x"}, IdleTimeoutSeconds: 8}}
    Properties: {Handler: a.b, Timeout: 10}
"""
    stack = translated(directory, text)
    assert {"Parking": False, "IdleTimeoutSeconds": 7} == stack.definitions.functions["Plain"]["Glowplug"]
    assert {"Engine": "eager", "Source": "s3://b/x"} == stack.definitions.functions["Embed"]["Glowplug"]["Model"]
    assert 8 == stack.definitions.functions["Embed"]["Glowplug"]["IdleTimeoutSeconds"]
    assert [9, 10] == [stack.definitions.functions[name]["Timeout"] for name in ("Plain", "Embed")]
    assert 1 == len(stack.archives)


def test_outputs_are_evaluated_with_the_nodes_own_urls(directory: Path) -> None:
    text = HEAD + FUNCTION + """\
      FunctionName: My_Embed
      FunctionUrlConfig: {AuthType: NONE}
Conditions: {Never: !Equals [1, 2]}
Outputs:
  Url: {Value: !GetAtt EmbedUrl.FunctionUrl}
  Arn: {Value: !Sub "${Embed.Arn} in ${AWS::StackName}"}
  Absent: {Condition: Never, Value: x}
"""  # fmt: skip
    stack = translated(directory, text, endpoint="http://127.0.0.1:9", account=Account("123456789012", "eu-west-1"))
    assert {
        "Url": "http://127.0.0.1:9/_url/my-embed/",
        "Arn": "arn:aws:lambda:eu-west-1:123456789012:function:My_Embed in main",
    } == stack.outputs


def test_plain_cloudformation_and_inline_code_are_functions_too(directory: Path) -> None:
    text = """\
Resources:
  Raw:
    Type: AWS::Lambda::Function
    Metadata: {Glowplug: {Parking: off}}
    Properties: {Handler: index.handler, Runtime: python3.11, Role: r, Code: {ZipFile: "def handler(e, c): return 1"}}
  RawUrl: {Type: AWS::Lambda::Url, Properties: {AuthType: NONE, TargetFunctionArn: !GetAtt Raw.Arn}}
"""
    stack = translated(directory, text)
    assert {"AuthType": "NONE"} == stack.definitions.functions["Raw"]["Urls"]["$LATEST"]
    assert {"Parking": False} == stack.definitions.functions["Raw"]["Glowplug"]
    [archive] = stack.archives.values()
    assert ("index.py",) == archive.names


def test_what_has_no_effect_is_noted_once_with_everyone_who_asks_for_it(directory: Path) -> None:
    text = HEAD + FUNCTION + """\
      Policies: [AmazonS3ReadOnlyAccess, {S3ReadPolicy: {BucketName: b}}]
      VpcConfig: {SubnetIds: [a], SecurityGroupIds: [b]}
      Tags: {a: b}
    Metadata: {BuildMethod: python3.11}
  Other:
    Type: AWS::Serverless::Function
    Properties: {Handler: a.b, Runtime: python3.11, CodeUri: code, Tags: {}}
  Role: {Type: AWS::IAM::Role, Properties: {}}
"""  # fmt: skip
    assert (
        "Policies has no effect here (Embed)",
        "VpcConfig has no effect here (Embed)",
        "Metadata.BuildMethod has no effect here (Embed)",
        "AWS::IAM::Role has no effect here (Role)",
    ) == translated(directory, text).notes


NOT_YET = {
    "DeploymentPreference": "{Type: AllAtOnce}", "ImageUri": "a", "ImageConfig": "{}",
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_YET)
def test_a_property_that_is_not_built_is_refused_by_name(directory: Path, name: str) -> None:
    text = HEAD + FUNCTION + f"      {name}: {NOT_YET[name]}\n"
    assert f"template.yaml:9: Embed.Properties.{name}: is not supported yet" == refused(directory, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: {Q: {Type: AWS::Kinesis::Stream}}", "template.yaml:1: Q.Type: AWS::Kinesis::Stream is not supported yet"),
        (HEAD + "  Flow: {Type: AWS::Serverless::StateMachine}", "template.yaml:3: Flow.Type: AWS::Serverless::StateMac"),
        ("Rules: {}\nResources: {}", "template.yaml:1: Rules: is not supported yet"),
        ("Resource: {}", "template.yaml:1: Resource: unknown key; did you mean Resources?"),
        ("Resources: []", "template.yaml:1: Resources: must be a mapping with at least one function"),
        ("Resources: {A: 1}", "template.yaml:1: A: must be a mapping with a Type"),
        ("Resources: {A: {}}", "template.yaml:1: A.Type: must be one of AWS::Events::Rule, AWS"),
        ("Resources: {A: {Type: AWS::Serverless::Function}}", "template.yaml:1: A.Type: AWS::Serverless::Function needs"),
        ("Transform: Other\nResources: {}", "template.yaml:1: Transform: 'Other' is not supported"),
        ("Outputs: []\nResources: {}", "template.yaml:1: Outputs: must be a mapping"),
        (HEAD + FUNCTION + "Globals:\n  Layer: {}\n", "template.yaml:10: Globals.Layer: unknown key; known: Api, Funct"),
        (HEAD + FUNCTION + "    Conditon: A\n", "template.yaml:9: Embed.Conditon: unknown key; did you mean Condition?"),
        (HEAD + FUNCTION + "    Connectors: {}\n", "template.yaml:9: Embed.Connectors: is not supported yet"),
        (HEAD + FUNCTION + "    Condition: A\n", "template.yaml:9: Embed.Condition: no condition 'A' in Conditions"),
        (HEAD + FUNCTION + "      Timeot: 1\n", "template.yaml:9: Embed.Properties.Timeot: unknown key; did you mean Timeout"),
        (HEAD + FUNCTION + "      PackageType: Image\n", "template.yaml:9: Embed.Properties.PackageType: 'Image' is not"),
        (HEAD + FUNCTION + "      FunctionUrlConfig: {}\n", "template.yaml:9: Embed.Properties.FunctionUrlConfig: AuthType is"),
        (
            HEAD + FUNCTION + "      FunctionUrlConfig: {AuthType: NONE, Cor: 1}\n",
            "template.yaml:9: Embed.Properties.FunctionUrlConfig.Cor: unknown key; did you mean Cors?",
        ),
        (
            HEAD + FUNCTION + "      MemorySize: 64\n",
            "template.yaml:9: Embed.Properties.MemorySize: 64 is not between 128 and 32768",
        ),
        (
            HEAD + FUNCTION + "      Environment:\n        Variables:\n          AWS_REGION: x\n",
            "template.yaml:11: Embed.Properties.Environment.Variables.AWS_REGION: is set by Lambda",
        ),
        (HEAD + FUNCTION + "      Timeout: soon\n", "template.yaml:9: Embed.Properties.Timeout: must be a number, not str"),
        (HEAD + FUNCTION + "      MemorySize: 1\n", "template.yaml:9: Embed.Properties.MemorySize: 1 is not between 128"),
        (HEAD + FUNCTION.replace("3.11", "2.7"), "template.yaml:7: Embed.Properties.Runtime: 'python2.7' is not supported"),
        (HEAD + FUNCTION.replace("code/", "absent"), "template.yaml:8: Embed.Properties.CodeUri: "),
        (HEAD + FUNCTION.replace("code/", "https://b/k"), "template.yaml:8: Embed.Properties.CodeUri: 'https://b/k' is not supp"),
        (HEAD + FUNCTION.replace("code/", "s3://b"), "template.yaml:8: Embed.Properties.CodeUri: 's3://b' is not s3://bucket/key"),
        (HEAD + FUNCTION.replace("CodeUri: code/", ""), "template.yaml:5: Embed.Properties: CodeUri is missing"),
        (HEAD + FUNCTION.replace("Handler: embed.handler", ""), "template.yaml:3: Embed: Runtime and Handler needs"),
        (
            HEAD + FUNCTION + "Outputs:\n  A: {Value: !GetAtt Embed.Url}\n",
            "template.yaml:10: Outputs.A.Value.Fn::GetAtt: Embed (AWS::Lambda::Function) has no attribute Url",
        ),
        (
            HEAD + FUNCTION + "      Description: !RefAll x\n",
            "template.yaml:9: Embed.Properties.Description: Fn::RefAll is not supported",
        ),
        (
            HEAD + FUNCTION + "      FunctionName: !Sub '${Embed}'\n",
            "template.yaml:9: Embed.Properties.FunctionName.Fn::Sub: the name of Embed depends on itself",
        ),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_deployed_says_where_and_why(directory: Path, text: str, message: str) -> None:
    assert refused(directory, text).startswith(message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            "IdleTimoutSeconds: 60",
            "Embed.Metadata.Glowplug.IdleTimoutSeconds: unknown key; did you mean IdleTimeoutSeconds?",
        ),
        ("Model: {Sorce: 's3://b/x'}", "Embed.Metadata.Glowplug.Model.Sorce"),
        ("Model: {Source: 's3://b/x', Engine: steam}", "Embed.Metadata.Glowplug.Model.Engine: 'steam' is not one of auto"),
        ("Device: gpu", "Embed.Metadata.Glowplug.Device: 'gpu' is not one of auto, cpu, cuda"),
        ("Concurrency: 4", "Embed.Metadata.Glowplug.Concurrency: more than 1 is not supported yet"),
        ("Objective: {ColdWeight: x}", "Embed.Metadata.Glowplug.Objective.ColdWeight: must be a number, not str 'x'"),
        ("Warmup: {Event: absent.json}", "Embed.Metadata.Glowplug.Warmup.Event: absent.json cannot be read"),
        ("Warmup: {Event: code}", "Embed.Metadata.Glowplug.Warmup.Event: code cannot be read"),
        ("Warmup: {Compare: json}", "Embed.Metadata.Glowplug.Warmup.Compare: json is not supported yet; use none"),
        ("MaxInstances: 1.5", "Embed.Metadata.Glowplug.MaxInstances: must be a whole number, not 1.5"),
        ("IdleTimeoutSeconds: -1", "Embed.Metadata.Glowplug.IdleTimeoutSeconds: -1 is not 0 or more"),
    ],
)  # fmt: skip
def test_wrong_glowplug_metadata_is_named_with_its_line(directory: Path, metadata: str, message: str) -> None:
    text = HEAD + FUNCTION + f"    Metadata:\n      Glowplug:\n        {metadata}\n"
    assert refused(directory, text).startswith(f"template.yaml:11: {message}")


def test_metadata_under_another_spelling_is_not_silently_nobodys(directory: Path) -> None:
    text = HEAD + FUNCTION + "    Metadata: {GlowPlug: {}}\n"
    message = "template.yaml:9: Embed.Metadata.GlowPlug: unknown key; did you mean Glowplug?"
    assert message == refused(directory, text)


def test_a_wrong_default_is_named_where_it_was_written(directory: Path) -> None:
    text = HEAD + FUNCTION + "Metadata:\n  Glowplug:\n    Parkng: off\n"
    message = "template.yaml:11: Metadata.Glowplug.Parkng: unknown key; did you mean Parking?"
    assert message == refused(directory, text)
    text = HEAD + FUNCTION + "Globals:\n  Function:\n    Timeout: 0\n"
    assert refused(directory, text).startswith("template.yaml:11: Globals.Function.Timeout: 0 is not between 1 and")


def test_two_functions_cannot_have_one_name_or_one_url(directory: Path) -> None:
    other = FUNCTION.replace("Embed", "Other")
    text = HEAD + FUNCTION + "      FunctionName: a\n" + other + "      FunctionName: a\n"
    message = "template.yaml:16: Other.Properties.FunctionName: a is already the name of Embed"
    assert message == refused(directory, text)
    named = "      FunctionUrlConfig: {AuthType: NONE}\n      FunctionName: "
    text = HEAD + FUNCTION + named + "a_b\n" + other + named + "A-B\n"
    message = "template.yaml:17: Other.Properties.FunctionUrlConfig: its URL id a-b is already that of Embed"
    assert message == refused(directory, text)


def test_what_the_node_refuses_is_found_in_the_template_again(directory: Path) -> None:
    text = HEAD + FUNCTION + "    Metadata:\n      Glowplug:\n        Model: {Source: 's3://b/x'}\n"
    stack = translated(directory, text)
    error = stack.error("Embed", DefinitionError("Glowplug.Model.Source", "s3://b/x: no such bucket"))
    assert 11 == error.line
    assert "Embed.Metadata.Glowplug.Model.Source: s3://b/x: no such bucket" == error.problem


def test_translating_needs_no_aws_configuration(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "of-someone-else")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "absent"))
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert ["Embed"] == list(translated(directory, HEAD + FUNCTION).definitions.functions)


def test_the_template_itself_is_left_as_it_was_read(directory: Path) -> None:
    (directory / "template.yaml").write_text(HEAD + FUNCTION + "      Tags: {a: b}\n")
    template = load(directory / "template.yaml")
    before = json.dumps(dict(template.document))
    translate(template, stack="main")
    assert before == json.dumps(dict(template.document))
