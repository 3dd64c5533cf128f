"""Replays: versions, aliases, revisions, SnapStart, logging, runtimes."""

from __future__ import annotations

from typing import Any

from .harness import ARN, VERSION, Stage, archive, replay

_SNAP_START = "java11 java17 java21 java25 python3.12 python3.13 dotnet8 dotnet10".split()
_GONE = "java8 go1.x provided ruby2.7 nodejs14.x python3.7 dotnetcore3.1 nodejs12.x".split()
_HANDLERS = {"java": "echo.Handler", "dotnet": "dotnet::Dotnet.Function::FunctionHandler"}


@replay("TestLambdaVersions::test_publish_version_on_create")
def publish_on_create(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.raw(name, Publish=True))
    stage.keep("get_function_result", client.get_function(FunctionName=name))
    stage.keep("get_function_version_result", client.get_function(FunctionName=name, Qualifier="1"))
    stage.keep("get_function_latest_result", client.get_function(FunctionName=name, Qualifier="$LATEST"))
    stage.keep("list_versions_result", client.list_versions_by_function(FunctionName=name))
    again = client.publish_version(FunctionName=name, Description="Repeated version description :)")
    stage.keep("repeated_publish_response", again)
    stage.keep("list_versions_result_after_publish", client.list_versions_by_function(FunctionName=name))


@replay("TestLambdaVersions::test_version_lifecycle")
def version_lifecycle(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.raw(name, Description="No version :("))
    stage.keep("get_function_result", client.get_function(FunctionName=name))
    stage.keep("list_versions_result", client.list_versions_by_function(FunctionName=name))
    stage.keep("first_update_response", stage.update(name, Description="First version :)"))
    stage.keep("first_update_get_function", client.get_function(FunctionName=name))
    first = client.publish_version(FunctionName=name, Description="First version description :)")
    stage.keep("first_publish_response", first)
    stage.keep("first_publish_get_function", client.get_function(FunctionName=name, Qualifier="1"))
    stage.keep("first_publish_get_function_config", client.get_function_configuration(FunctionName=name, Qualifier="1"))
    stage.keep("second_update_response", stage.update(name, Description="Second version :))"))
    stage.keep("first_publish_get_function_after_update", client.get_function(FunctionName=name, Qualifier="1"))
    stage.keep("second_publish_response", client.publish_version(FunctionName=name))
    third = client.publish_version(FunctionName=name, Description="Third version description :)))")
    stage.keep("third_publish_response", third)
    stage.keep("list_versions_result_after_third_publish", client.list_versions_by_function(FunctionName=name))
    client.delete_function(FunctionName=name, Qualifier="1")
    stage.keep(
        "list_versions_result_after_deletion_of_first_version", client.list_versions_by_function(FunctionName=name)
    )


@replay("TestLambdaVersions::test_publish_with_wrong_revisionid")
def wrong_revision(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.raw(name))
    found = stage.keep("get_fn_response", client.get_function(FunctionName=name))
    stage.refused("publish_wrong_revisionid_exc", client.publish_version, FunctionName=name, RevisionId="doesntexist")
    revision = found["Configuration"]["RevisionId"]
    stage.keep("publish_result", client.publish_version(FunctionName=name, RevisionId=revision))


@replay("TestLambdaVersions::test_publish_with_wrong_sha256")
def wrong_sha256(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.raw(name))
    found = stage.keep("get_fn_response", client.get_function(FunctionName=name))
    wrong = {"FunctionName": name, "CodeSha256": "somenonexistentsha256"}
    stage.refused("publish_wrong_sha256_exc", client.publish_version, **wrong)
    right = found["Configuration"]["CodeSha256"]
    stage.keep("publish_result", client.publish_version(FunctionName=name, CodeSha256=right))


@replay("TestLambdaVersions::test_publish_with_update")
def publish_with_update(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.raw(name))
    stage.keep("get_function_result", client.get_function(FunctionName=name))
    stage.keep("update_function_code_result", stage.update_code(name, ZipFile=archive(VERSION), Publish=True))
    stage.keep("get_function_version_result", client.get_function(FunctionName=name, Qualifier="1"))
    stage.keep("get_function_latest_result", client.get_function(FunctionName=name, Qualifier="$LATEST"))


def _two_versions(stage: Stage, prefix: str = "alias-fn", **more: Any) -> str:
    name = stage.name(prefix)
    stage.keep("create_response", stage.raw(name, Environment={"Variables": {"testenv": "staging"}}, **more))
    stage.keep("publish_v1", stage.client.publish_version(FunctionName=name))
    stage.update(name, Environment={"Variables": {"testenv": "prod"}})
    stage.keep("publish_v2", stage.client.publish_version(FunctionName=name))
    return name


@replay("TestLambdaAlias::test_alias_lifecycle")
def alias_lifecycle(stage: Stage) -> None:
    name, client = _two_versions(stage), stage.client

    def make(key: str, alias: str, version: str, **more: Any) -> Any:
        made = client.create_alias(FunctionName=name, Name=alias, FunctionVersion=version, **more)
        stage.keep(f"create_alias_{key}", made)
        stage.keep(f"get_alias_{key}", client.get_alias(FunctionName=name, Name=alias))
        return made

    weights = {"AdditionalVersionWeights": {"2": 0.2}}
    first = make("1_1", "aliasname1_1", "1", Description="custom-alias", RoutingConfig=weights)
    stage.keep("get_function_alias_1_1", client.get_function(FunctionName=name, Qualifier="aliasname1_1"))
    stage.keep("get_function_byarn_alias_1_1", client.get_function(FunctionName=first["AliasArn"]))
    missing = "aliasdoesnotexist"
    stage.refused("get_function_alias_notfound_exc", client.get_function, FunctionName=name, Qualifier=missing)
    arn = first["AliasArn"].replace("aliasname1_1", missing)
    stage.refused("get_function_alias_byarn_notfound_exc", client.get_function, FunctionName=arn)
    make("1_2", "aliasname1_2", "1", Description="custom-alias")
    make("1_3", "aliasname1_3", "1")
    make("2", "aliasname2", "2", Description="custom-alias")
    pages = client.get_paginator("list_aliases").paginate(FunctionName=name, PaginationConfig={"PageSize": 1})
    stage.keep("list_aliases_for_fnname", pages.build_full_result())
    nothing: dict[str, Any] = {"AdditionalVersionWeights": {}}
    changed = client.update_alias(FunctionName=name, Name="aliasname1_1", RoutingConfig=nothing)
    stage.keep("update_alias_1_1", changed)
    stage.keep("get_alias_1_1_after_update", client.get_alias(FunctionName=name, Name="aliasname1_1"))
    stage.keep("list_aliases_for_fnname_after_update", client.list_aliases(FunctionName=name))
    stage.keep("update_alias_1_2", client.update_alias(FunctionName=name, Name="aliasname1_2"))
    stage.keep("get_alias_1_2_after_update", client.get_alias(FunctionName=name, Name="aliasname1_2"))
    stage.keep("list_aliases_for_fnname_after_update_2", client.list_aliases(FunctionName=name))
    stage.keep("list_aliases_for_version", client.list_aliases(FunctionName=name, FunctionVersion="1"))
    stage.keep("delete_alias_response", client.delete_alias(FunctionName=name, Name="aliasname1_1"))
    stage.keep("list_aliases_for_fnname_afterdelete", client.list_aliases(FunctionName=name))


@replay("TestLambdaAlias::test_notfound_and_invalid_routingconfigs")
def routing_configs(stage: Stage) -> None:
    name, client = _two_versions(stage, Publish=True), stage.loose

    def refused(key: str, version: str, weights: dict[str, float], function: str = name) -> None:
        given = {"FunctionVersion": version, "RoutingConfig": {"AdditionalVersionWeights": weights}}
        stage.refused(key, client.create_alias, FunctionName=function, Name="custom", **given)

    refused("routing_config_exc_toomany", "1", {"1": 0.8, "2": 0.2})
    refused("routing_config_exc_toohigh", "1", {"2": 2})
    refused("routing_config_exc_subzero", "1", {"2": -1})
    refused("routing_config_exc_sameversion", "1", {"1": 0.5})
    refused("target_version_doesnotexist", "10", {"2": 0.5})
    refused("routing_config_exc_version_doesnotexist", "1", {"10": 0.5})
    refused("target_version_exc_version_latest", "$LATEST", {"1": 0.5})
    refused("routing_config_exc_version_latest", "1", {"$LATEST": 0.5})
    latest = client.create_alias(FunctionName=name, Name="custom-latest", FunctionVersion="$LATEST")
    stage.keep("create-alias-latest", latest)
    refused("routing_config_exc_fn_doesnotexist", "1", {"2": 0.5}, f"{name}-unknown")
    empty: dict[str, Any] = {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {}}}
    made = client.create_alias(FunctionName=name, Name="custom-empty-routingconfig", **empty)
    stage.keep("create_alias_empty_routingconfig", made)
    refused("create_alias_response", "1", {"2": 0.5})
    refused("routing_config_exc_already_exist", "1", {"2": 0.5})
    stage.refused("alias_does_not_exist_esc", client.get_alias, FunctionName=name, Name="non-existent")


def _published(stage: Stage) -> str:
    name = stage.name("alias-fn")
    stage.keep("create_response", stage.raw(name, Environment={"Variables": {"testenv": "staging"}}))
    return name


@replay("TestLambdaAlias::test_alias_naming")
def alias_naming(stage: Stage) -> None:
    name, client = _published(stage), stage.client
    stage.keep("publish_v1", client.publish_version(FunctionName=name))
    given = {"FunctionName": name, "FunctionVersion": "1", "Description": "custom-alias"}
    stage.keep("create_alias_date", client.create_alias(Name="2024-01-02", **given))
    stage.keep("get_alias_date", client.get_alias(FunctionName=name, Name="2024-01-02"))
    stage.refused("create_alias_number_exception", client.create_alias, Name="2024", **given)


@replay("TestLambdaAlias::test_non_existent_alias_deletion")
def delete_no_alias(stage: Stage) -> None:
    name = _published(stage)
    stage.keep("delete_alias_response", stage.client.delete_alias(FunctionName=name, Name="non-existent"))


@replay("TestLambdaAlias::test_non_existent_alias_update")
def update_no_alias(stage: Stage) -> None:
    name = _published(stage)
    stage.refused("update_alias_response", stage.client.update_alias, FunctionName=name, Name="non-existent")


@replay("TestLambdaRevisions::test_function_revisions_basic")
def revisions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    code = archive(name="index.py")
    made = stage.create(name, "index.handler", Code={"ZipFile": code})
    stage.keep("create_function_response_rev1", made)
    second = stage.keep("get_function_response_rev2", client.get_function(FunctionName=name))
    wrong = {"FunctionName": name, "RevisionId": "wrong"}
    stage.refused("update_function_revision_exception", client.update_function_code, ZipFile=code, **wrong)
    seen = second["Configuration"]["RevisionId"]
    stage.keep("update_function_code_response_rev3", stage.update_code(name, ZipFile=code, RevisionId=seen))
    fourth = stage.keep("get_function_response_rev4", client.get_function(FunctionName=name))
    change = client.update_function_configuration
    stage.refused("update_function_configuration_revision_exception", change, Runtime="python3.11", **wrong)
    seen = fourth["Configuration"]["RevisionId"]
    fifth = stage.update(name, Runtime="python3.8", RevisionId=seen)
    stage.keep("update_function_configuration_response_rev5", fifth)
    stage.keep("get_function_response_rev6", client.get_function(FunctionName=name))


@replay("TestLambdaRevisions::test_function_revisions_version_and_alias")
def revisions_of_versions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_function_response_rev1", stage.create(name))
    active = stage.keep("get_function_active_rev2", client.get_function(FunctionName=name))
    stage.refused("publish_version_revision_exception", client.publish_version, FunctionName=name, RevisionId="wrong")
    seen = active["Configuration"]["RevisionId"]
    published = client.publish_version(FunctionName=name, RevisionId=seen)
    stage.keep("publish_version_response_rev_v1", published)
    stage.keep("get_function_published_version_rev_v2", client.get_function(FunctionName=name, Qualifier="1"))
    stage.keep("get_function_latest_rev3", client.get_function(FunctionName=name))
    alias = client.create_alias(FunctionName=name, Name="revision_alias", FunctionVersion="1")
    stage.keep("create_alias_response_rev_a1", alias)
    stage.keep("get_function_latest_rev4", client.get_function(FunctionName=name))
    stage.keep("get_function_published_version_rev_v3", client.get_function(FunctionName=name, Qualifier="1"))
    given = {"FunctionName": name, "Name": "revision_alias"}
    stage.refused("update_alias_revision_exception", client.update_alias, RevisionId="wrong", **given)
    changed = client.update_alias(Description="something changed", RevisionId=alias["RevisionId"], **given)
    stage.keep("update_alias_response_rev_a2", changed)


@replay("TestLambdaRevisions::test_function_revisions_permissions")
def revisions_of_permissions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    seen = client.get_function(FunctionName=name)["Configuration"]["RevisionId"]
    given = {
        "FunctionName": name, "StatementId": "s3", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com",
    }  # fmt: skip
    stage.refused("add_permission_revision_exception", client.add_permission, RevisionId="wrong", **given)
    stage.keep("add_permission_response", client.add_permission(RevisionId=seen, **given))
    policy = stage.keep("get_policy_response_rev3", client.get_policy(FunctionName=name))
    wrong = {"FunctionName": name, "StatementId": "s3", "RevisionId": "wrong"}
    stage.refused("remove_permission_revision_exception", client.remove_permission, **wrong)
    right = {**wrong, "RevisionId": policy["RevisionId"]}
    stage.keep("remove_permission_response", client.remove_permission(**right))


def _handler(runtime: str) -> str:
    return next((handler for prefix, handler in _HANDLERS.items() if runtime.startswith(prefix)), "handler.handler")


@replay("TestLambdaSnapStart::test_snapstart_exceptions")
def snap_start_exceptions(stage: Stage) -> None:
    wrong = {"ApplyOn": "invalidOption"}
    stage.refused("create_function_invalid_snapstart_apply", stage.raw, name=stage.name(), SnapStart=wrong)


@replay(*(f"TestLambdaSnapStart::test_snapstart_lifecycle[{runtime}]" for runtime in _SNAP_START))
def snap_start_lifecycle(stage: Stage, case: str) -> None:
    name, client = stage.name(), stage.client
    given = {"Runtime": case, "Handler": _handler(case), "MemorySize": 1024, "Timeout": 5}
    stage.keep("create_function_response", stage.raw(name, **given))
    stage.keep("get_function_response_latest", client.get_function(FunctionName=name))
    client.publish_version(FunctionName=name, Description="version1")
    stage.keep("get_function_response_version_1", client.get_function(FunctionName=f"{ARN}{name}:1"))


@replay(*(f"TestLambdaSnapStart::test_snapstart_update_function_configuration[{runtime}]" for runtime in _SNAP_START))
def snap_start_update(stage: Stage, case: str) -> None:
    name = stage.name()
    given = {"Runtime": case, "Handler": _handler(case), "MemorySize": 1024, "Timeout": 5}
    stage.keep("create_function_response", stage.raw(name, **given))
    stage.keep("update_function_response", stage.update(name, SnapStart={"ApplyOn": "PublishedVersions"}))


@replay(
    *(
        f"TestRuntimeValidation::test_create_deprecated_function_runtime_with_validation_enabled[{runtime}]"
        for runtime in _GONE
    )
)
def runtimes_that_are_gone(stage: Stage, case: str) -> None:
    stage.refused("deprecation_error", stage.raw, name=stage.name(), Runtime=case)


def _logging(stage: Stage, change: dict[str, str], **more: Any) -> str:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.create(name, MemorySize=256, Timeout=5, **more))
    stage.keep("get_function_response", client.get_function(FunctionName=name))
    stage.keep("function_config", client.get_function_configuration(FunctionName=name))
    stage.keep("updated_config", stage.update(name, LoggingConfig=change))
    stage.keep("received_config", client.get_function_configuration(FunctionName=name))
    return name


@replay("TestLoggingConfig::test_function_advanced_logging_configuration")
def advanced_logging(stage: Stage) -> None:
    _logging(stage, {"LogGroup": "cool_lambda"}, LoggingConfig={"LogFormat": "JSON"})


@replay("TestLoggingConfig::test_advanced_logging_configuration_format_switch")
def format_switch(stage: Stage) -> None:
    name = _logging(stage, {"LogFormat": "JSON"})
    stage.keep("updated_config_v2", stage.update(name, LoggingConfig={"LogFormat": "Text"}))
    stage.keep("received_config_v2", stage.client.get_function_configuration(FunctionName=name))


_PARTIAL = {
    "partial_config0": {"LogFormat": "JSON"},
    "partial_config1": {"LogFormat": "JSON", "ApplicationLogLevel": "DEBUG"},
    "partial_config2": {"LogFormat": "JSON", "SystemLogLevel": "DEBUG"},
    "partial_config3": {"LogGroup": "cool_lambda"},
}


@replay(
    *(
        f"TestLoggingConfig::test_function_partial_advanced_logging_configuration_update[{case}]"
        for case in ("partial_config0", "partial_config1", "partial_config2", "partial_config3")
    )
)
def partial_logging(stage: Stage, case: str) -> None:
    _logging(stage, _PARTIAL[case])


@replay(
    "TestPartialARNMatching::test_update_function_configuration_full_arn",
    "TestPartialARNMatching::test_cross_region_arn_function_access",
)
def full_arn(stage: Stage) -> None:
    name = stage.name()
    stage.raw(name)
    stage.client.update_function_configuration(FunctionName=f"{ARN}{name}", Description="by its ARN")


@replay("TestLambdaFunction::test_lambda_concurrent_code_updates")
def concurrent_code_updates(stage: Stage) -> None:
    name = stage.name()
    stage.keep("create-function-response", stage.raw(name, Handler="handler.handler", Code={"ZipFile": archive()}))
    given = {"FunctionName": name, "ZipFile": archive(VERSION)}
    stage.client.update_function_code(**given)
    stage.refused("update-during-in-progress-update-exc", stage.client.update_function_code, **given)


@replay("TestLambdaFunction::test_lambda_concurrent_config_updates")
def concurrent_config_updates(stage: Stage) -> None:
    name = stage.name()
    stage.keep("create-function-response", stage.create(name))
    given = {"FunctionName": name, "Timeout": 7}
    stage.client.update_function_configuration(**given)
    stage.refused("update-during-in-progress-update-exc", stage.client.update_function_configuration, **given)
