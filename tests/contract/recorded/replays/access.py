"""Replays: function URLs, resource policies, layers, event source mappings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .harness import ACCOUNT, ARN, LAYER, REGION, Stage, archive, replay

_LAYERS = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:"
_BUCKET_ARN = "arn:aws:s3:::test-bucket"
_INVOKE = {"Action": "lambda:InvokeFunction", "StatementId": "s3", "Principal": "s3.amazonaws.com"}
_FROM_BUCKET = {**_INVOKE, "SourceArn": _BUCKET_ARN}


def _node_function(stage: Stage) -> str:
    name = stage.name("test-function")
    stage.create(name, "lambda_handler.handler", Runtime="nodejs20.x")
    return name


@replay("TestLambdaUrl::test_url_config_lifecycle")
def url_lifecycle(stage: Stage) -> None:
    name, client = stage.name("test-function"), stage.client
    stage.create(name)
    stage.keep("url_creation", client.create_function_url_config(FunctionName=name, AuthType="NONE"))
    stage.refused("failed_duplication", client.create_function_url_config, FunctionName=name, AuthType="NONE")
    stage.keep("get_url_config", client.get_function_url_config(FunctionName=name))
    stage.keep("updated_url_config", client.update_function_url_config(FunctionName=name, AuthType="AWS_IAM"))
    client.delete_function_url_config(FunctionName=name)
    stage.refused("failed_getter", client.get_function_url_config, FunctionName=name)


@replay("TestLambdaUrl::test_url_config_deletion_without_qualifier")
def url_deletion(stage: Stage) -> None:
    name, client, aliased = stage.name("test-function"), stage.client, {"Qualifier": "test-alias"}
    get = client.get_function_url_config
    stage.create(name)
    client.publish_version(FunctionName=name)
    client.create_alias(FunctionName=name, Name="test-alias", FunctionVersion="1")
    stage.keep("url_creation", client.create_function_url_config(FunctionName=name, AuthType="NONE"))
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE", **aliased)
    stage.keep("url_with_alias_creation", made)
    stage.keep("get_url_config", get(FunctionName=name))
    stage.keep("get_url_config_with_alias", get(FunctionName=name, **aliased))
    stage.keep("delete_function_url_config", client.delete_function_url_config(FunctionName=name))
    stage.refused("get_url_config_after_deletion", get, FunctionName=name)
    stage.keep("get_url_config_with_alias_after_deletion", get(FunctionName=name, **aliased))


def _aliased(stage: Stage) -> str:
    name, client = _node_function(stage), stage.client
    stage.keep("fn_version_result", client.publish_version(FunctionName=name))
    alias = client.create_alias(FunctionName=name, Name="urlalias", FunctionVersion="1")
    stage.keep("create_alias_result", alias)
    return name


@replay("TestLambdaUrl::test_url_config_list_paging")
def url_list(stage: Stage) -> None:
    name, client = _aliased(stage), stage.client
    stage.refused("list_function_notfound", client.list_function_url_configs, FunctionName="doesnotexist")
    stage.keep("list_all_empty", client.list_function_url_configs(FunctionName=name))
    stage.keep("url_config_fn", client.create_function_url_config(FunctionName=name, AuthType="NONE"))
    given = {"FunctionName": f"{name}:urlalias", "Qualifier": "urlalias", "AuthType": "NONE"}
    stage.keep("url_config_alias", client.create_function_url_config(**given))
    stage.keep("list_all", client.list_function_url_configs(FunctionName=name))


@replay("TestLambdaUrl::test_url_config_exceptions")
def url_exceptions(stage: Stage) -> None:
    name, client = _aliased(stage), stage.client
    cases: dict[str, dict[str, str]] = {
        "name_doesnotexist": {"FunctionName": "doesnotexist"},
        "arn_doesnotexist": {"FunctionName": f"{ARN}doesnotexist"},
        "name_doesnotexist_qualifier": {"FunctionName": "doesnotexist", "Qualifier": "1"},
        "qualifier_version": {"FunctionName": name, "Qualifier": "1"},
        "qualifier_version_doesnotexist": {"FunctionName": name, "Qualifier": "2"},
        "qualifier_alias_doesnotexist": {"FunctionName": name, "Qualifier": "v1"},
        "qualifier_alias_doesnotmatch_arn": {
            "FunctionName": f"{name}:urlalias-doesnotmatch",
            "Qualifier": "urlalias",
        },
        "qualifier_latest": {"FunctionName": name, "Qualifier": "$LATEST"},
        "config_doesnotexist": {"FunctionName": name},
    }
    for operation, more in (
        ("create", {"AuthType": "NONE"}),
        ("get", {}),
        ("delete", {}),
        ("update", {"AuthType": "AWS_IAM"}),
    ):
        call: Callable[..., Any] = getattr(client, f"{operation}_function_url_config")
        for key, given in cases.items():
            if operation != "create" or key != "config_doesnotexist":
                stage.refused(f"{operation}_function_url_config_{key}", call, **given, **more)
    stage.keep("delete_function_url_config_qualifier_alias_doesnotmatch_arn", "<aws_internal_failure>")  # AWS's fault


@replay("TestLambdaPermissions::test_permission_exceptions")
def permission_exceptions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    add, remove = client.add_permission, client.remove_permission
    stage.known["function-name"] = name
    stage.create(name)

    def refused(key: str, function: str, given: dict[str, str] = _FROM_BUCKET, **more: str) -> None:
        stage.refused(f"add_permission_{key}", add, FunctionName=function, **{**given, **more})

    refused("invalid_statement_id", name, _INVOKE, StatementId="example.com")
    refused("fn_qualifier_mismatch", f"{name}:alias-not-42", Qualifier="42")
    refused("fn_qualifier_latest", f"{name}:$LATEST", Qualifier="$LATEST")
    refused("principal_invalid", name, _INVOKE, Principal="invalid.nonaws.com", SourceAccount=ACCOUNT)
    stage.refused("get_policy_fn_doesnotexist", client.get_policy, FunctionName="doesnotexist")
    stage.refused("get_policy_fn_version_doesnotexist", client.get_policy, FunctionName=name, Qualifier="77")
    refused("fn_doesnotexist", "doesnotexist")
    stage.refused("remove_permission_policy_doesnotexist", remove, FunctionName=name, StatementId="s3")
    refused("fn_alias_doesnotexist", f"{name}:alias-doesnotexist")
    refused("fn_version_doesnotexist", name, Qualifier="42")
    refused("fn_qualifier_invalid", name, Qualifier="invalid-qualifier-with-?-char")
    refused("fn_qualifier_valid_doesnotexist", name, Qualifier="valid-with-$-but-doesnotexist")
    add(FunctionName=name, **_FROM_BUCKET)
    refused("conflicting_statement_id", name)
    stage.refused("remove_permission_fn_doesnotexist", remove, FunctionName="doesnotexist", StatementId="s3")
    given = {"FunctionName": name, "StatementId": "s3", "Qualifier": "alias-doesnotexist"}
    stage.refused("remove_permission_fn_alias_doesnotexist", remove, **given)


@replay("TestLambdaPermissions::test_add_lambda_permission_aws")
def permission_aws(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_lambda", stage.create(name))
    stage.keep("add_permission", client.add_permission(FunctionName=name, **_FROM_BUCKET))
    stage.keep("get_policy", client.get_policy(FunctionName=name))


def _versioned(stage: Stage) -> str:
    name, client = stage.name(), stage.client
    stage.create(name)
    stage.keep("add_permission", client.add_permission(FunctionName=name, **_given(stage)))
    stage.keep("get_policy", client.get_policy(FunctionName=name))
    return name


def _given(stage: Stage) -> dict[str, str]:
    return _FROM_BUCKET


@replay("TestLambdaPermissions::test_lambda_permission_fn_versioning")
def permission_versioning(stage: Stage) -> None:
    name, client = _versioned(stage), stage.client
    stage.keep("publish_version_result", client.publish_version(FunctionName=name))
    stage.keep("get_function_result_after_publishing", client.get_function(FunctionName=name))
    stage.keep("get_policy_after_publishing_latest", client.get_policy(FunctionName=name))
    version = {"FunctionName": name, "Qualifier": "1"}
    stage.refused("get_policy_after_publishing_new_version", client.get_policy, **version)
    client.add_permission(FunctionName=f"{name}:1", Qualifier="1", **_FROM_BUCKET)
    stage.keep("get_policy_version", client.get_policy(**version))
    alias = client.create_alias(FunctionName=name, Name="permission-alias", FunctionVersion="1")
    stage.keep("create_alias_response", alias)
    stage.keep("get_alias", client.get_alias(FunctionName=name, Name="permission-alias"))
    aliased = {"FunctionName": name, "Qualifier": "permission-alias"}
    wrong = {**aliased, "RevisionId": "wrong"}
    stage.refused("add_permission_alias_revision_exception", client.add_permission, **wrong, **_FROM_BUCKET)
    client.add_permission(**aliased, RevisionId=alias["RevisionId"], **_FROM_BUCKET)
    stage.keep("get_policy_alias", client.get_policy(**aliased))
    policy = client.get_policy(FunctionName=name)
    stage.keep("get_policy_after_adding_to_new_version", policy)
    second = {**_FROM_BUCKET, "StatementId": "s3_2", "RevisionId": policy["RevisionId"]}
    client.add_permission(FunctionName=name, **second)
    stage.keep("get_policy_after_adding_2", client.get_policy(FunctionName=name))


@replay("TestLambdaPermissions::test_lambda_permission_versioning")
def permission_of_versions(stage: Stage) -> None:
    name, client = _versioned(stage), stage.client
    client.publish_version(FunctionName=name)
    stage.keep("get_policy_after_publishing_latest", client.get_policy(FunctionName=name))
    version = {"FunctionName": name, "Qualifier": "1"}
    stage.refused("get_policy_after_publishing_new_version", client.get_policy, **version)
    client.add_permission(**version, **_FROM_BUCKET)
    policy = client.get_policy(FunctionName=name)
    stage.keep("get_policy_after_adding_to_new_version", policy)
    client.add_permission(FunctionName=name, **{**_FROM_BUCKET, "StatementId": "s3_2"})
    stage.keep("get_policy_after_adding_2", client.get_policy(FunctionName=name))


@replay("TestLambdaPermissions::test_lambda_permission_revisions")
def permission_revisions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    wrong = {"FunctionName": name, "RevisionId": "wrong"}
    stage.refused("add_permission_revision_id_doesnotmatch", client.add_permission, **wrong, **_FROM_BUCKET)
    client.add_permission(FunctionName=name, **_FROM_BUCKET)
    stage.refused("remove_permission_fn_revision_id_doesnotmatch", client.remove_permission, StatementId="s3", **wrong)
    client.publish_version(FunctionName=name)
    stage.keep("get_policy_after_publish_version", client.get_policy(FunctionName=name))
    version = {"FunctionName": name, "Qualifier": "1"}
    client.add_permission(**version, **{**_FROM_BUCKET, "StatementId": "s3_2"})
    stage.keep("get_policy_v1_after_publish_version", client.get_policy(**version))
    stage.keep("get_function_fn8", client.get_function(FunctionName=name))
    stage.keep("get_function_fn8_v1", client.get_function(**version))
    client.add_permission(**version, **{**_FROM_BUCKET, "StatementId": "s3_3"})
    stage.keep("get_function_fn9", client.get_function(FunctionName=name))
    stage.keep("get_function_fn9_v1", client.get_function(**version))
    stage.keep("get_policy_v1_after_add_permission9", client.get_policy(**version))


@replay("TestLambdaPermissions::test_add_lambda_permission_optional_fields")
def permission_optional(stage: Stage) -> None:
    name = stage.name()
    stage.create(name)
    given = {**_FROM_BUCKET, "SourceAccount": ACCOUNT, "PrincipalOrgID": "o-1234567890"}
    stage.client.add_permission(FunctionName=name, **given)


@replay("TestLambdaPermissions::test_add_lambda_permission_fields")
def permission_fields(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    stage.known["user_arn"] = user = f"arn:aws:iam::{ACCOUNT}:user/somebody"
    account = {"Action": "lambda:InvokeFunction", "SourceAccount": ACCOUNT}
    plain = {"Action": "lambda:InvokeFunction"}
    url = {
        "Action": "lambda:InvokeFunctionUrl", "SourceArn": _BUCKET_ARN, "SourceAccount": ACCOUNT,
        "PrincipalOrgID": "o-1234567890", "FunctionUrlAuthType": "NONE",
    }  # fmt: skip
    skill = {**plain, "EventSourceToken": "amzn1.ask.skill.xxxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"}
    for key, sid, principal, given in (
        ("principal_wildcard", "wilcard", "*", account),
        ("principal_service", "lambda", "lambda.amazonaws.com", account),
        ("principal_account", "account-id", ACCOUNT, plain),
        ("principal_arn", "user-arn", user, account),
        ("optional_fields", "urlPermission", "*", url),
        ("alexa_skill", "alexaSkill", "*", skill),
    ):
        answer = client.add_permission(FunctionName=name, StatementId=sid, Principal=principal, **given)
        stage.keep(f"add_permission_{key}", answer)


@replay("TestLambdaPermissions::test_remove_multi_permissions")
def permission_removal(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    second = {**_FROM_BUCKET, "StatementId": "sqs", "Principal": "sqs.amazonaws.com"}
    stage.keep("add_permission_1", client.add_permission(FunctionName=name, **_INVOKE))
    stage.keep("add_permission_2", client.add_permission(FunctionName=name, **second))
    stage.keep("policy_after_2_add", client.get_policy(FunctionName=name))
    missing = {"FunctionName": name, "StatementId": "non-existent"}
    stage.refused("remove_permission_exception_nonexisting_sid", client.remove_permission, **missing)
    client.remove_permission(FunctionName=name, StatementId="sqs")
    stage.keep("policy_after_removal", client.get_policy(FunctionName=name))
    last = stage.keep("policy_after_removal_attempt", client.get_policy(FunctionName=name))
    client.remove_permission(FunctionName=name, StatementId="s3", RevisionId=last["RevisionId"])
    stage.refused("get_policy_exception_removed_all", client.get_policy, FunctionName=name)


@replay("TestLambdaPermissions::test_create_multiple_lambda_permissions")
def permissions(stage: Stage) -> None:
    name, client = stage.name("test-function"), stage.client
    stage.create(name)
    for number, service in enumerate(("logs", "kinesis"), 1):
        given = {**_INVOKE, "StatementId": service, "Principal": f"{service}.amazonaws.com"}
        stage.keep(f"add_permission_response_{number}", client.add_permission(FunctionName=name, **given))
    stage.keep("policy_after_2_add", client.get_policy(FunctionName=name))


def _layer(stage: Stage, name: str, **more: Any) -> Any:
    return stage.client.publish_layer_version(LayerName=name, Content={"ZipFile": archive(LAYER)}, **more)


_RUNTIMES = {
    "runtimes0": (
        "nodejs24.x nodejs22.x nodejs20.x nodejs18.x nodejs16.x nodejs14.x nodejs12.x python3.14 python3.13 python3.12 "
        "python3.11 python3.10 python3.9 python3.8 python3.7"
    ),
    "runtimes1": (
        "java25 java21 java17 java11 java8.al2 java8 dotnet10 dotnet8 dotnet6 dotnetcore3.1 go1.x ruby3.4 ruby3.3 "
        "ruby3.2 ruby2.7"
    ),
    "runtimes2": "provided.al2023 provided.al2 provided",
}


@replay(*(f"TestLambdaLayer::test_layer_compatibilities[{case}]" for case in _RUNTIMES))
def layer_compatibilities(stage: Stage, case: str) -> None:
    both = {"CompatibleRuntimes": _RUNTIMES[case].split(), "CompatibleArchitectures": ["arm64", "x86_64"]}
    stage.keep("publish_result", _layer(stage, stage.name("testlayer"), **both))


@replay("TestLambdaLayer::test_layer_exceptions")
def layer_exceptions(stage: Stage) -> None:
    name, client = stage.name("testlayer"), stage.client
    get, delete = client.get_layer_version, client.delete_layer_version
    fitting = {"CompatibleRuntimes": ["python3.12"], "CompatibleArchitectures": ["x86_64"]}
    stage.keep("publish_result", _layer(stage, name, **fitting))
    stage.refused(
        "list_layers_exc_compatibleruntime_invalid", client.list_layers, CompatibleRuntime="runtimedoesnotexist"
    )
    stage.refused(
        "list_layers_exc_compatiblearchitecture_invalid", client.list_layers, CompatibleArchitecture="archdoesnotexist"
    )
    stage.keep("list_nonexistent_layer", client.list_layer_versions(LayerName="layerdoesnotexist"))
    key = "get_layer_version_exc_layer_version_doesnotexist"
    stage.refused("get_layer_version_exc_layer_doesnotexist", get, LayerName="layerdoesnotexist", VersionNumber=1)
    for suffix, number in (("negative", -1), ("zero", 0), ("2", 2)):
        stage.refused(f"{key}_{suffix}", get, LayerName=name, VersionNumber=number)
    arn = f"{_LAYERS}{name}"
    stage.refused("get_layer_version_by_arn_exc_invalidarn", client.get_layer_version_by_arn, Arn=arn)
    stage.refused("get_layer_version_by_arn_exc_nonexistentversion", client.get_layer_version_by_arn, Arn=f"{arn}:2")
    stage.keep("delete_nonexistent_response", delete(LayerName="layerdoesnotexist", VersionNumber=1))
    stage.keep("delete_nonexistent_version_response", delete(LayerName=name, VersionNumber=2))
    stage.keep("delete_layer_response", delete(LayerName=name, VersionNumber=1))
    stage.keep("delete_layer_again_response", delete(LayerName=name, VersionNumber=1))
    stage.refused("delete_layer_version_exc_layerversion_invalid_version", delete, LayerName=name, VersionNumber=-1)
    nothing: dict[str, Any] = {"CompatibleRuntimes": [], "CompatibleArchitectures": []}
    stage.keep("publish_empty_result", _layer(stage, stage.name("testlayer-empty"), **nothing))
    publish, zipped = client.publish_layer_version, {"ZipFile": archive()}
    for suffix, runtimes, architectures in (
        ("invalid_runtime_arch", ["invalidruntime"], ["invalidarch"]),
        ("partially_invalid_values", ["invalidruntime", "invalidruntime2", "nodejs20.x"], ["invalidarch", "x86_64"]),
    ):
        given = {"CompatibleRuntimes": runtimes, "CompatibleArchitectures": architectures}
        stage.refused(f"publish_layer_version_exc_{suffix}", publish, LayerName=name, Content=zipped, **given)


@replay("TestLambdaLayer::test_layer_lifecycle")
def layer_lifecycle(stage: Stage) -> None:
    name, layer, client = stage.name("fn-layer"), stage.name("testlayer"), stage.client
    stage.known |= {"license-info": "licenseinfo-1", "description": "description-1"}
    given = {
        "CompatibleRuntimes": ["python3.12"], "CompatibleArchitectures": ["x86_64"], "LicenseInfo": "licenseinfo-1",
        "Description": "description-1",
    }  # fmt: skip
    config = client.get_function_configuration
    stage.create(name)
    stage.keep("get_fn_result", client.get_function(FunctionName=name))
    stage.keep("get_fn_config_result", config(FunctionName=name))
    first = stage.keep("publish_result", _layer(stage, layer, **given))
    stage.keep("publish_result_2", _layer(stage, layer, **given))
    stage.keep("update_fn_config", stage.update(name, Layers=[first["LayerVersionArn"]]))
    stage.keep("get_fn_config", config(FunctionName=name))
    stage.keep("get_layer_ver_result", client.get_layer_version(LayerName=layer, VersionNumber=1))
    stage.keep("get_layer_by_arn_version", client.get_layer_version_by_arn(Arn=first["LayerVersionArn"]))
    stage.keep("list_layer_versions_predelete", client.list_layer_versions(LayerName=layer))
    stage.keep("delete_layer_1", client.delete_layer_version(LayerName=layer, VersionNumber=1))
    stage.keep("get_fn_config_postdelete", config(FunctionName=name))
    stage.keep("delete_layer_2", client.delete_layer_version(LayerName=layer, VersionNumber=2))
    stage.keep("list_layer_versions_postdelete", client.list_layer_versions(LayerName=layer))
    stage.keep("publish_result_3", _layer(stage, layer, **given))


@replay("TestLambdaLayer::test_layer_s3_content")
def layer_s3(stage: Stage) -> None:
    stage.s3.put_object(Bucket=stage.bucket, Key="layercontent.zip", Body=archive())
    place = {"S3Bucket": stage.bucket, "S3Key": "layercontent.zip"}
    made = stage.client.publish_layer_version(LayerName=stage.name("bucket-layer"), Content=place)
    stage.keep("publish_layer_result", made)


@replay("TestLambdaLayer::test_layer_function_exceptions")
def layer_function_exceptions(stage: Stage) -> None:
    name, layer, client = stage.name("fn-layer"), stage.name("testlayer"), stage.client
    given: dict[str, Any] = {"CompatibleRuntimes": [], "CompatibleArchitectures": ["x86_64"]}
    arns = []
    for key in ("publish_result", "publish_result_2", "publish_result_3"):
        arns.append(stage.keep(key, _layer(stage, layer, **given))["LayerVersionArn"])
    stage.create(name)
    stage.keep("get_fn_result", client.get_function(FunctionName=name))
    for key, layers in (
        ("two_layer_versions_single_function_exc", arns[:2]),
        ("three_layer_versions_single_function_exc", arns),
        ("two_identical_layer_versions_single_function_exc", [arns[0], arns[0]]),
        ("add_nonexistent_layer_exc", [f"{_LAYERS}doesnotexist:1"]),
        ("add_nonexistent_layer_version_exc", [f"{_LAYERS}{layer}:9"]),
        ("add_layer_arn_without_version_exc", [f"{_LAYERS}{layer}"]),
    ):
        stage.refused(key, client.update_function_configuration, FunctionName=name, Layers=layers)
    elsewhere = [f"arn:aws:lambda:eu-central-1:{ACCOUNT}:layer:{layer}:1"]
    stage.refused("create_function_with_layer_in_different_region", stage.create, name=stage.name(), Layers=elsewhere)


@replay("TestLambdaLayer::test_layer_function_quota_exception")
def layer_quota(stage: Stage) -> None:
    arns = [_layer(stage, stage.name(f"testlayer-{number}"))["LayerVersionArn"] for number in range(6)]
    stage.refused("create_function_with_six_layers", stage.create, name=stage.name("fn-layer"), Layers=arns)


@replay("TestLambdaImages::test_lambda_zip_file_to_image")
def zip_to_image(stage: Stage) -> None:
    name, client = stage.name("test-function"), stage.client
    stage.keep("create-image-response", stage.raw(name, Handler="handler.handler", Code={"ZipFile": archive()}))

    def look(suffix: str) -> None:
        stage.keep(f"get-function-code-response{suffix}", client.get_function(FunctionName=name))
        stage.keep(f"get-function-config-response{suffix}", client.get_function_configuration(FunctionName=name))

    look("")
    stage.refused("zipfile-to-image-error", client.update_function_code, FunctionName=name, ImageUri="a/b:latest")
    look("-after-update")


@replay("TestLambdaEventSourceMappings::test_event_source_mapping_exceptions")
def mapping_exceptions(stage: Stage) -> None:
    name, client, unknown = stage.name(), stage.client, "f0000000-0000-4000-8000-00000000000f"
    create, queue = client.create_event_source_mapping, f"arn:aws:sqs:{REGION}:{ACCOUNT}:somequeue"
    stage.refused("get_unknown_uuid", client.get_event_source_mapping, UUID=unknown)
    stage.refused("delete_unknown_uuid", client.delete_event_source_mapping, UUID=unknown)
    stage.refused("update_unknown_uuid", client.update_event_source_mapping, UUID=unknown, Enabled=False)
    stage.refused("create_no_event_source_arn", create, FunctionName="doesnotexist")
    stage.refused("create_unknown_params", create, FunctionName="doesnotexist", EventSourceArn=queue)
    stage.create(name)
    failure = {"OnFailure": {"Destination": queue}}
    given = {"FunctionName": name, "EventSourceArn": queue, "DestinationConfig": failure}
    stage.refused("destination_config_failure", create, **given)


@replay("TestLambdaEventSourceMappings::test_create_event_source_validation")
def mapping_validation(stage: Stage) -> None:
    _positions(stage, f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/t/stream/s")
    stage.known |= {"table-name": "t", "stream-name": "s"}
    given = {"EventSourceArn": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/t/stream/s"}
    create, position = stage.client.create_event_source_mapping, "AT_TIMESTAMP"
    stage.refused("incompatible_starting_position", create, FunctionName="fn-x", StartingPosition=position, **given)


@replay("TestLambdaEventSourceMappings::test_create_event_source_validation_kinesis")
def mapping_validation_kinesis(stage: Stage) -> None:
    _positions(stage, f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/s")


def _positions(stage: Stage, source: str) -> None:
    given = {"FunctionName": "fn-x", "EventSourceArn": source}
    stage.create("fn-x")
    stage.refused("no_starting_position", stage.client.create_event_source_mapping, **given)
    wrong = {**given, "StartingPosition": "invalid"}
    stage.refused("invalid_starting_position", stage.client.create_event_source_mapping, **wrong)


@replay("TestLambdaEventSourceMappings::test_function_name_variations")
def mapping_names(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    queue = stage.queue()
    stage.create(name)
    client.publish_version(FunctionName=name)
    client.create_alias(FunctionName=name, FunctionVersion="1", Name="myalias")
    for key, function in (
        ("name_only", name),
        ("partial_arn_latest", f"{name}:$LATEST"),
        ("partial_arn_version", f"{name}:1"),
        ("partial_arn_alias", f"{name}:myalias"),
        ("full_arn_latest", f"{ARN}{name}"),
        ("full_arn_version", f"{ARN}{name}:1"),
        ("full_arn_alias", f"{ARN}{name}:myalias"),
    ):
        made = client.create_event_source_mapping(FunctionName=function, EventSourceArn=queue)
        stage.keep(f"{key}_create_esm", made)
        client.delete_event_source_mapping(UUID=made["UUID"])
