"""Replays: tags, event invoke configurations, concurrency, account, sizes, recursion."""

from __future__ import annotations

from typing import Any

from .harness import ACCOUNT, ARN, REGION, Stage, archive, replay


@replay("TestLambdaTag::test_create_tag_on_fn_create")
def tag_on_create(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.known["custom-tag"] = "tag-1"
    stage.create(name, Tags={"testtag": "tag-1"})
    found = stage.keep("get_function_result", client.get_function(FunctionName=name))
    stage.keep("list_tags_result", client.list_tags(Resource=found["Configuration"]["FunctionArn"]))


def _tag_lifecycle(stage: Stage, arn: str) -> None:
    client = stage.client

    def step(key: str, call: Any, **given: Any) -> None:
        stage.keep(f"{key}_response", call(Resource=arn, **given))
        stage.keep(f"{key}_response_listtags", client.list_tags(Resource=arn))

    step("tag_single", client.tag_resource, Tags={"A": "tag-a"})
    step("tag_multiple", client.tag_resource, Tags={"B": "tag-b", "C": "tag-c"})
    step("tag_overlap", client.tag_resource, Tags={"C": "tag-c-newsuffix", "D": "tag-d"})
    step("untag_single", client.untag_resource, TagKeys=["A"])
    step("untag_multiple", client.untag_resource, TagKeys=["B", "C"])
    step("untag_nonexisting", client.untag_resource, TagKeys=["F"])
    step("untag_existing_and_nonexisting", client.untag_resource, TagKeys=["D", "F"])


@replay("TestLambdaTag::test_tag_lifecycle")
def tag_lifecycle(stage: Stage) -> None:
    name = stage.name()
    stage.create(name)
    _tag_lifecycle(stage, f"{ARN}{name}")


@replay("TestLambdaTag::test_tag_lifecycle[lambda_function]", "TestLambdaTag::test_tag_lifecycle[event_source_mapping]")
def tag_lifecycle_of(stage: Stage, case: str) -> None:
    name = stage.name()
    stage.create(name)
    arn = f"{ARN}{name}"
    if case == "event_source_mapping":
        queue = stage.queue()
        made = stage.client.create_event_source_mapping(FunctionName=name, EventSourceArn=queue)
        arn = made["EventSourceMappingArn"]
    _tag_lifecycle(stage, arn)


@replay("TestLambdaTag::test_create_tag_on_esm_create")
def tag_on_mapping(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    stage.known["custom-tag"] = "tag-1"
    queue = stage.queue()
    made = client.create_event_source_mapping(FunctionName=name, EventSourceArn=queue, Tags={"testtag": "tag-1"})
    found = client.get_event_source_mapping(UUID=made["UUID"])
    stage.keep("get_event_source_mapping_with_tag", found["UUID"] == made["UUID"])
    stage.keep("list_tags_result", client.list_tags(Resource=made["EventSourceMappingArn"]))


@replay("TestLambdaTag::test_tag_nonexisting_resource")
def tag_nothing(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    arn = f"{ARN}{name}"
    stage.create(name)
    stage.keep("pre_delete_get_function", client.get_function(FunctionName=arn))
    client.delete_function(FunctionName=arn)
    stage.refused("not_found_exception_tag", client.tag_resource, Resource=arn, Tags={"A": "B"})
    stage.refused("not_found_exception_untag", client.untag_resource, Resource=arn, TagKeys=["A"])
    stage.refused("not_found_exception_list", client.list_tags, Resource=arn)


_MISSING = {
    "lambda_function": "function:{}",
    "event_source_mapping": "event-source-mapping:{}",
    "capacity_provider": "capacity-provider:{}",
}


@replay(*(f"TestLambdaTag::test_tag_exceptions[{kind}]" for kind in _MISSING))
def tag_exceptions_of(stage: Stage, case: str) -> None:
    client, base = stage.client, f"arn:aws:lambda:{REGION}:{ACCOUNT}:"
    name = "f0000000-0000-4000-8000-00000000000f"
    stage.known["resource-name"] = name
    arn = base + _MISSING[case].format(name)
    stage.refused("not_found_exception_tag", client.tag_resource, Resource=arn, Tags={"A": "B"})
    stage.refused("not_found_exception_untag", client.untag_resource, Resource=arn, TagKeys=["A"])
    stage.refused("not_found_exception_list", client.list_tags, Resource=arn)
    stage.refused("aliased_arn_exception", client.list_tags, Resource=f"{arn}:alias")
    stage.refused("invalid_arn_exception", client.list_tags, Resource=f"{base}foobar:{name}")


@replay("TestLambdaTags::test_tag_exceptions")
def tag_exceptions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    arn, tags = f"{ARN}{name}", {"key_a": "value_a"}
    stage.create(name)
    stage.refused("tag_lambda_invalidarn", client.tag_resource, Resource="arn:aws:something", Tags=tags)
    stage.refused("tag_lambda_doesnotexist", client.tag_resource, Resource=f"{ARN}doesnotexist", Tags=tags)
    stage.refused("tag_lambda_qualifier_doesnotexist", client.tag_resource, Resource=f"{arn}:v1", Tags=tags)
    stage.keep("list_tag_lambda_empty", client.list_tags(Resource=arn))
    stage.keep("untag_nomatch", client.untag_resource(Resource=arn, TagKeys=["somekey"]))
    stage.refused("untag_empty_keys", client.untag_resource, Resource=arn, TagKeys=[])
    stage.refused("tag_empty_tags", client.tag_resource, Resource=arn, Tags={})


@replay("TestLambdaTags::test_tag_limits")
def tag_limits(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    arn = f"{ARN}{name}"
    stage.create(name)
    many = {f"{number}_key": f"{number}_value" for number in range(51)}
    stage.refused("tag_lambda_too_many_tags", client.tag_resource, Resource=arn, Tags=many)
    fifty = dict(list(many.items())[:50])
    stage.keep("tag_response", client.tag_resource(Resource=arn, Tags=fifty))
    stage.keep("list_tags_response", client.list_tags(Resource=arn))
    stage.keep("get_fn_response", client.get_function(FunctionName=name))
    one_more = {"a_key": "a_value"}
    stage.refused("tag_lambda_too_many_tags_additional", client.tag_resource, Resource=arn, Tags=one_more)
    stage.refused("create_function_invalid_tags", stage.raw, name=stage.name(), Tags=many)


@replay("TestLambdaTags::test_tag_versions")
def tag_versions(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name, Tags={"key_a": "value_a"})
    version = client.publish_version(FunctionName=name)["FunctionArn"]
    tags = {"key_b": "value_b"}
    stage.refused("tag_resource_exception", client.tag_resource, Resource=version, Tags=tags)
    latest = f"{ARN}{name}:$LATEST"
    stage.refused("tag_resource_latest_exception", client.tag_resource, Resource=latest, Tags=tags)


@replay("TestLambdaTags::test_tag_lifecycle")
def tags_lifecycle(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    arn = f"{ARN}{name}"
    stage.create(name, Tags={"key_a": "value_a"})

    def look(suffix: str) -> None:
        stage.keep(f"list_tags_response_{suffix}", client.list_tags(Resource=arn))
        stage.keep(f"get_fn_response_{suffix}", client.get_function(FunctionName=arn))

    look("postfncreate")
    more = {"key_b": "value_b", "key_c": "value_c", "key_d": "value_d", "key_e": "value_e"}
    stage.keep("tag_resource_response", client.tag_resource(Resource=arn, Tags=more))
    look("postaddtags")
    over = {"key_b": "value_b", "key_c": "value_x"}
    stage.keep("tag_resource_overwrite", client.tag_resource(Resource=arn, Tags=over))
    look("overwrite")
    client.untag_resource(Resource=arn, TagKeys=["key_c", "key_d"])
    look("postuntag")
    client.untag_resource(Resource=arn, TagKeys=["key_a", "key_b", "key_e"])
    look("postuntagall")
    client.delete_function(FunctionName=name)
    stage.refused("list_tags_postdelete", client.list_tags, Resource=arn)


@replay("TestLambdaEventInvokeConfig::test_lambda_eventinvokeconfig_lifecycle")
def event_invoke_lifecycle(stage: Stage) -> None:
    name, client = stage.name("fn-eventinvoke"), stage.client
    put, change = client.put_function_event_invoke_config, client.update_function_event_invoke_config
    get, listed = client.get_function_event_invoke_config, client.list_function_event_invoke_configs
    stage.create(name)
    stage.keep("put_invokeconfig_retries_0", put(FunctionName=name, MaximumRetryAttempts=0))
    stage.keep("put_invokeconfig_eventage_60", put(FunctionName=name, MaximumEventAgeInSeconds=60))
    stage.keep("update_invokeconfig_eventage_nochange", change(FunctionName=name, MaximumEventAgeInSeconds=60))
    stage.keep("update_invokeconfig_retries", change(FunctionName=name, MaximumRetryAttempts=1))
    stage.keep("get_invokeconfig", get(FunctionName=name))
    stage.keep("get_invokeconfig_latest", get(FunctionName=name, Qualifier="$LATEST"))
    stage.keep("list_single_invokeconfig", listed(FunctionName=name))
    stage.keep("publish_version_result", client.publish_version(FunctionName=name))
    stage.refused("get_invokeconfig_postpublish", get, FunctionName=name, Qualifier="1")
    stage.keep("put_published_invokeconfig", put(FunctionName=name, Qualifier="1", MaximumEventAgeInSeconds=120))
    stage.keep("get_published_invokeconfig", get(FunctionName=name, Qualifier="1"))
    client.delete_function_event_invoke_config(FunctionName=name)
    stage.keep("list_paging_nolimit_postdelete", listed(FunctionName=name))


@replay("TestLambdaEventInvokeConfig::test_lambda_eventinvokeconfig_exceptions")
def event_invoke_exceptions(stage: Stage) -> None:
    name, other, client = stage.name("fn-eventinvoke"), stage.name("fn-eventinvoke-2"), stage.loose
    put, change = client.put_function_event_invoke_config, client.update_function_event_invoke_config
    get, listed = client.get_function_event_invoke_config, client.list_function_event_invoke_configs
    delete = client.delete_function_event_invoke_config
    stage.create(name)
    stage.create(other)
    arn, fake, once = f"{ARN}{name}", f"{ARN}doesnotexist", {"MaximumRetryAttempts": 1}
    stage.keep("fn_version_result", client.publish_version(FunctionName=name))
    alias = client.create_alias(FunctionName=name, Name="eventinvokealias", FunctionVersion="1")
    stage.keep("fn_alias_result", alias)
    stage.refused("put_functionname_name_notfound", put, FunctionName="doesnotexist", **once)
    stage.refused("put_functionname_arn_notfound", put, FunctionName=fake, **once)
    stage.refused("put_functionname_nootherargs", put, FunctionName="doesnotexist")

    def to(key: str, side: str, destination: str | None) -> None:
        config = {side: {} if destination is None else {"Destination": destination}}
        stage.refused(key, put, FunctionName=name, DestinationConfig=config)

    to("put_destination_lambda_doesntexist", "OnSuccess", fake)
    to("put_destination_recursive", "OnSuccess", arn)
    to("put_destination_other_lambda", "OnSuccess", f"{ARN}{other}")
    to("put_destination_invalid_service_arn", "OnSuccess", arn.replace(":lambda:", ":iam:"))
    to("put_destination_success_no_destination_arn", "OnSuccess", None)
    to("put_destination_failure_no_destination_arn", "OnFailure", None)
    to("put_destination_invalid_arn_pattern", "OnFailure", arn.replace(":lambda:", ":_-/!lambda:"))
    named, missing = "eventinvokealias", "eventinvokealiasdoesnotexist"
    for key, function, qualifier in (
        ("put_destination_latest", name, None),
        ("put_destination_latest_explicit_qualifier", name, "$LATEST"),
        ("put_destination_version", name, "1"),
        ("put_alias_functionname_qualifier", name, named),
        ("put_alias_doesnotexist", name, missing),
        ("put_alias_qualifiedarn", alias["AliasArn"], None),
        ("put_alias_qualifiedarn_qualifier", alias["AliasArn"], named),
        ("put_alias_qualifiedarn_qualifierconflict", alias["AliasArn"], missing),
        ("put_alias_shorthand", f"{name}:{named}", None),
        ("put_alias_shorthand_qualifier", f"{name}:{named}", named),
        ("put_alias_shorthand_qualifierconflict", f"{name}:{named}", missing),
        ("put_version_shorthand", f"{name}:1", None),
        ("put_shorthand_qualifier_match", f"{name}:$LATEST", "$LATEST"),
        ("put_shorthand_qualifier_mismatch_1", f"{name}:1", "$LATEST"),
        ("put_shorthand_qualifier_mismatch_2", f"{name}:$LATEST", "1"),
        ("put_shorthand_qualifier_mismatch_3", f"{name}:1", named),
    ):
        given = {"FunctionName": function} | ({"Qualifier": qualifier} if qualifier else {})
        stage.refused(key, put, **given, **once)
    both = {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 60}
    most = put(FunctionName=name, MaximumRetryAttempts=2, MaximumEventAgeInSeconds=21600)
    stage.keep("put_maxevent_maxvalue_result", most)
    stage.keep("put_pre_overwrite", put(FunctionName=name, **both))
    stage.keep("put_post_overwrite", put(FunctionName=name, MaximumRetryAttempts=0))
    stage.keep("second_overwrite_existing_response", put(FunctionName=name, MaximumRetryAttempts=0))
    stage.keep("get_post_overwrite", get(FunctionName=name))
    stage.keep("pre_update_response", put(FunctionName=name, **both))
    stage.keep("update_response", change(FunctionName=name, MaximumRetryAttempts=0))
    stage.keep("update_response_existing", change(FunctionName=name, MaximumRetryAttempts=0))
    stage.keep("list_configs", listed(FunctionName=name))
    stage.keep("delete_latest", delete(FunctionName=name, Qualifier="$LATEST"))
    stage.keep("delete_version", delete(FunctionName=name, Qualifier="1"))
    stage.keep("delete_alias", delete(FunctionName=name, Qualifier=named))
    stage.keep("list_configs_postdelete", listed(FunctionName=name))
    stage.refused("delete_function_not_found", delete, FunctionName=name)
    stage.refused("delete_function_doesnotexist", delete, FunctionName="doesnotexist")
    stage.refused("list_function_doesnotexist", listed, FunctionName="doesnotexist")
    stage.refused("get_function_doesnotexist", get, FunctionName="doesnotexist")
    stage.refused("get_qualifier_doesnotexist", get, FunctionName=name, Qualifier="doesnotexist")
    never = {"MaximumRetryAttempts": 0}
    stage.refused("update_eventinvokeconfig_function_doesnotexist", change, FunctionName="doesnotexist", **never)
    stage.refused("get_eventinvokeconfig_doesnotexist", get, FunctionName=alias["AliasArn"])
    key = "update_eventinvokeconfig_config_doesnotexist_with"
    stage.refused(f"{key}_qualifier", change, FunctionName=alias["AliasArn"], **never)
    stage.refused(f"{key}out_qualifier", change, FunctionName=arn, **never)


@replay("TestLambdaReservedConcurrency::test_function_concurrency_exceptions")
def concurrency_exceptions(stage: Stage) -> None:
    name, put = stage.name(), stage.client.put_function_concurrency
    key = "put_function_concurrency_with_"
    missing = {"FunctionName": "doesnotexist"}
    stage.refused(f"{key}function_name_doesnotexist", put, ReservedConcurrentExecutions=1, **missing)
    stage.refused(
        f"{key}function_name_doesnotexist_and_invalid_concurrency", put, ReservedConcurrentExecutions=0, **missing
    )
    stage.create(name)
    latest = f"{ARN}{name}:$LATEST"
    stage.refused(f"{key}qualified_arn", put, FunctionName=latest, ReservedConcurrentExecutions=0)


@replay("TestLambdaReservedConcurrency::test_function_concurrency")
def concurrency(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    for number in (0, 1):
        answer = client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=number)
        stage.keep(f"put_function_concurrency_with_reserved_{number}", answer)
    stage.keep("get_function_concurrency", client.get_function_concurrency(FunctionName=name))
    stage.keep("delete_response", client.delete_function_concurrency(FunctionName=name))
    stage.keep("get_function_concurrency_after_delete", client.get_function_concurrency(FunctionName=name))


@replay("TestLambdaReservedConcurrency::test_function_concurrency_limits")
def concurrency_limits(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    account = client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    for key, number in (("account_limit_exceeded", account + 1), ("below_unreserved_min_value", account)):
        given = {"FunctionName": name, "ReservedConcurrentExecutions": number}
        stage.refused(f"put_function_concurrency_{key}", client.put_function_concurrency, **given)


@replay("TestLambdaProvisionedConcurrency::test_provisioned_concurrency_limits")
def provisioned_limits(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    client.publish_version(FunctionName=name)
    account = client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    for key, number in (("account_limit_exceeded", account + 1), ("below_unreserved_min_value", account)):
        given = {"FunctionName": name, "Qualifier": "1", "ProvisionedConcurrentExecutions": number}
        stage.refused(f"put_provisioned_concurrency_{key}", client.put_provisioned_concurrency_config, **given)


@replay("TestLambdaProvisionedConcurrency::test_provisioned_concurrency_exceptions")
def provisioned_exceptions(stage: Stage) -> None:
    name, client = stage.name(), stage.loose
    get, delete = client.get_provisioned_concurrency_config, client.delete_provisioned_concurrency_config
    put, listed = client.put_provisioned_concurrency_config, client.list_provisioned_concurrency_configs
    stage.create(name)
    stage.keep("publish_version_result", client.publish_version(FunctionName=name))
    stage.refused("get_provisioned_config_doesnotexist", get, FunctionName=name, Qualifier="1")
    stage.refused("get_provisioned_functionname_doesnotexist", get, FunctionName="doesnotexist", Qualifier="noalias")
    stage.refused("get_provisioned_qualifier_doesnotexist", get, FunctionName=name, Qualifier="noalias")
    stage.refused("get_provisioned_version_doesnotexist", get, FunctionName=name, Qualifier="10")
    stage.refused("get_provisioned_latest", get, FunctionName=name, Qualifier="$LATEST")
    stage.keep("list_provisioned_noconfigs", listed(FunctionName=name))
    stage.refused("list_provisioned_functionname_doesnotexist", listed, FunctionName="doesnotexist")
    stage.refused("delete_provisioned_functionname_doesnotexist", delete, FunctionName="doesnotexist", Qualifier="1")
    stage.refused("delete_provisioned_qualifier_doesnotexist", delete, FunctionName=name, Qualifier="noalias")
    stage.refused("delete_provisioned_version_doesnotexist", delete, FunctionName=name, Qualifier="10")
    stage.refused("delete_provisioned_latest", delete, FunctionName=name, Qualifier="$LATEST")
    stage.keep("delete_provisioned_config_doesnotexist", delete(FunctionName=name, Qualifier="1"))
    for key, function, qualifier, number in (
        ("invalid_param_0", name, "1", 0),
        ("functionname_doesnotexist_alias", "doesnotexist", "noalias", 1),
        ("functionname_doesnotexist_version", "doesnotexist", "1", 1),
        ("qualifier_doesnotexist", name, "doesnotexist", 1),
        ("version_doesnotexist", name, "10", 1),
        ("latest", name, "$LATEST", 1),
    ):
        given = {"FunctionName": function, "Qualifier": qualifier, "ProvisionedConcurrentExecutions": number}
        stage.refused(f"put_provisioned_{key}", put, **given)


@replay("TestLambdaProvisionedConcurrency::test_lambda_provisioned_lifecycle")
def provisioned_lifecycle(stage: Stage) -> None:
    name, client, alias = stage.name(), stage.client, "alias-1"
    get, put = client.get_provisioned_concurrency_config, client.put_provisioned_concurrency_config
    stage.known["alias-name"] = alias
    stage.create(name)
    stage.keep("publish_version_result", client.publish_version(FunctionName=name))
    made = client.create_alias(FunctionName=name, Name=alias, FunctionVersion="1")
    stage.keep("create_alias_result", made)
    version = {"FunctionName": name, "Qualifier": "1"}
    aliased = {"FunctionName": name, "Qualifier": alias}
    one = {"ProvisionedConcurrentExecutions": 1}
    stage.keep("put_provisioned_on_version", put(**version, **one))
    stage.refused("put_provisioned_on_alias_versionconflict", put, **aliased, **one)
    stage.keep("delete_provisioned_version", client.delete_provisioned_concurrency_config(**version))
    stage.refused("get_provisioned_version_postdelete", get, **version)
    stage.keep("put_provisioned_on_alias", put(**aliased, **one))
    stage.refused("put_provisioned_on_version_conflict", put, **version, **one)
    stage.keep("delete_alias_result", client.delete_alias(FunctionName=name, Name=alias))
    stage.refused("get_provisioned_alias_postaliasdelete", get, **aliased)
    stage.keep("list_response_postdeletes", client.list_provisioned_concurrency_configs(FunctionName=name))


@replay("TestLambdaAccountSettings::test_account_settings")
def account_settings(stage: Stage) -> None:
    found = stage.client.get_account_settings()
    sorted_names = {name: sorted(found[name]) for name in ("AccountLimit", "AccountUsage")}
    stage.keep("acc_settings_modded", {**found, **sorted_names})


def _code_bytes(stage: Stage) -> int:
    return int(stage.client.get_account_settings()["AccountUsage"]["TotalCodeSize"])


@replay("TestLambdaAccountSettings::test_account_settings_total_code_size")
def total_code_size(stage: Stage) -> None:
    """The recorded sizes are those of the recording's own files: ours are padded to them."""
    name, layer = stage.name(), stage.name("testlayer")
    code, content = _padded(276), _padded(169)
    sizes = [_code_bytes(stage)]
    stage.create(name, Code={"ZipFile": code})
    sizes.append(_code_bytes(stage))
    stage.update_code(name, ZipFile=code, Publish=True)
    sizes.append(_code_bytes(stage))
    for _ in range(2):
        stage.client.publish_layer_version(LayerName=layer, Content={"ZipFile": content})
        sizes.append(_code_bytes(stage))
    keys = ("create_function", "update_function", "publish_layer", "publish_layer_version")
    for key, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True):
        stage.keep(f"total_code_size_diff_{key}", after - before)


@replay("TestLambdaAccountSettings::test_account_settings_total_code_size_config_update")
def total_code_size_of_versions(stage: Stage) -> None:
    name = stage.name()
    sizes = [_code_bytes(stage)]
    stage.create(name, Code={"ZipFile": _padded(300)})
    sizes.append(_code_bytes(stage))
    stage.update(name, Timeout=7)
    sizes.append(_code_bytes(stage))
    stage.client.publish_version(FunctionName=name, Description="actually publish the config update")
    sizes.append(_code_bytes(stage))
    key = "is_total_code_size_diff_{}_more_than_200"
    stage.keep(key.format("create_function"), sizes[1] - sizes[0] > 200)
    stage.keep("total_code_size_diff_update_function_configuration", sizes[2] - sizes[1])
    stage.keep(key.format("publish_version_after_config_update"), sizes[3] - sizes[2] > 200)


def _padded(size: int) -> bytes:
    """Return a zip of exactly so many bytes, by the length of its comment."""
    data = archive("x = 1\n", "h.py")
    return data[:-2] + (size - len(data)).to_bytes(2, "little") + b"#" * (size - len(data))


def _large(key: str, names: dict[str, str]) -> Any:
    def run(stage: Stage) -> None:
        stage.refused(key, stage.create, name=stage.name(), Environment={"Variables": names})

    return run


_ONE, _TWO = {"LARGE_VAR": "x" * (4096 - 6 - 9)}, {"SMALL_VAR": "ok", "LARGE_VAR": "x" * 4064}
replay("TestLambdaSizeLimits::test_large_environment_variables_fails")(_large("failed_create_fn_result", _ONE))
replay("TestLambdaSizeLimits::test_large_environment_fails_multiple_keys")(
    _large("failured_create_fn_result_multi_key", _TWO)
)
replay("TestLambdaSizeLimits::test_lambda_envvars_near_limit_succeeds")(
    _large("successful_create_fn_result", {"LARGE_VAR": "x" * (4096 - 7 - 9)})
)


@replay("TestLambdaSizeLimits::test_oversized_request_create_lambda")
def oversized_request(stage: Stage) -> None:
    environment = {"Variables": {"largeKey": "#" * 71_000_000}}
    stage.refused("invalid_param_exc", stage.raw, name=stage.name(), Environment=environment)


@replay("TestLambdaSizeLimits::test_oversized_zipped_create_lambda")
def oversized_zip(stage: Stage) -> None:
    data = archive() + b"#" * 52_428_800
    stage.refused("invalid_param_exc", stage.raw, name=stage.name(), Code={"ZipFile": data})


@replay("TestLambdaSizeLimits::test_oversized_unzipped_lambda", "TestLambdaSizeLimits::test_oversized_lambda")
def oversized_unzipped(stage: Stage) -> None:
    stage.s3.put_object(Bucket=stage.bucket, Key="large.zip", Body=archive("#" * 262_144_001))
    place = {"S3Bucket": stage.bucket, "S3Key": "large.zip"}
    stage.refused("invalid_param_exc", stage.raw, name=stage.name(), Code=place, Handler="handler.handler", Timeout=10)


@replay("TestLambdaSizeLimits::test_large_lambda")
def large(stage: Stage) -> None:
    stage.s3.put_object(Bucket=stage.bucket, Key="large.zip", Body=archive("#" * 262_143_000))
    place = {"S3Bucket": stage.bucket, "S3Key": "large.zip"}
    given = {"Code": place, "Handler": "handler.handler", "Timeout": 10}
    stage.keep("create_function_large_zip", stage.raw(stage.name(), **given))


@replay("TestLambdaRecursion::test_put_function_recursion_config_allow")
def recursion_allow(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.create(name)
    stage.keep(
        "put_recursion_config_response", client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
    )
    stage.keep("get_recursion_config_response", client.get_function_recursion_config(FunctionName=name))


@replay("TestLambdaRecursion::test_put_function_recursion_config_default_terminate")
def recursion_default(stage: Stage) -> None:
    name = stage.name()
    stage.create(name)
    found = stage.client.get_function_recursion_config(FunctionName=name)
    stage.keep("get_recursion_default_terminate_response", found)


@replay("TestLambdaRecursion::test_put_function_recursion_config_invalid_value")
def recursion_invalid(stage: Stage) -> None:
    name = stage.name()
    stage.create(name)
    given = {"FunctionName": name, "RecursiveLoop": "InvalidValue"}
    stage.refused("put_recursion_invalid_value_error", stage.client.put_function_recursion_config, **given)
