"""Replays: functions, their names, their code."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ParamValidationError

from .harness import ACCOUNT, ARN, ECHO, REGION, ROLE, VERSION, Stage, archive, replay

_CLASS = "TestLambdaFunction::"


@replay(_CLASS + "test_function_lifecycle")
def lifecycle(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.create(name, MemorySize=256, Timeout=5))
    stage.keep("get_function_response", client.get_function(FunctionName=name))
    changed = {"Description": "Changed-Description", "MemorySize": 512, "Timeout": 10}
    environment = {"Variables": {"ENV_A": "a"}}
    stage.keep(
        "update_func_conf_response", stage.update(name, Runtime="python3.11", Environment=environment, **changed)
    )
    stage.keep("get_function_response_postupdate", client.get_function(FunctionName=name))
    stage.keep("update_code_response", stage.update_code(name, ZipFile=archive(VERSION)))
    stage.keep("get_function_response_postcodeupdate", client.get_function(FunctionName=name))
    stage.keep("delete_response", client.delete_function(FunctionName=name))
    stage.refused("delete_postdelete", client.delete_function, FunctionName=name)


@replay(_CLASS + "test_redundant_updates")
def redundant_updates(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create_response", stage.create(name, Description="Initial description"))
    stage.keep("first_update_result", stage.update(name, Description="1st update description"))
    stage.keep("get_fn_config_result", client.get_function_configuration(FunctionName=name))
    stage.keep("get_fn_result", client.get_function(FunctionName=name))
    stage.keep("redundant_update_result", stage.update(name, Description="1st update description"))
    stage.keep("get_fn_result_after_redundant_update", client.get_function(FunctionName=name))


@replay(
    *(
        f"{_CLASS}test_ops_with_arn_qualifier_mismatch[{operation}]"
        for operation in ("delete_function", "get_function", "get_function_configuration")
    )
)
def qualifier_mismatch(stage: Stage, case: str) -> None:
    call = getattr(stage.client, case)
    stage.refused("not_match_exception", call, FunctionName=f"{ARN}some-function:1", Qualifier="$LATEST")
    stage.refused("match_exception", call, FunctionName=f"{ARN}some-function:$LATEST", Qualifier="$LATEST")


@replay(
    *(
        f"{_CLASS}test_ops_on_nonexisting_version[{operation}]"
        for operation in ("get_function", "get_function_configuration", "get_function_event_invoke_config")
    )
)
def nonexisting_version(stage: Stage, case: str) -> None:
    name = stage.known["fn-name"] = stage.name()
    stage.create(name)
    stage.refused("version_not_found_exception", getattr(stage.client, case), FunctionName=name, Qualifier="1221")


@replay(_CLASS + "test_delete_on_nonexisting_version")
def delete_nonexisting_version(stage: Stage) -> None:
    name, delete = stage.name(), stage.client.delete_function
    stage.known["fn-name"] = name
    stage.create(name)
    delete(FunctionName=name, Qualifier="1233")
    delete(FunctionName=name, Qualifier="1233")
    delete(FunctionName=name)
    stage.refused("delete_function_response_non_existent", delete, FunctionName=name)
    stage.refused("delete_function_response_non_existent_with_qualifier", delete, FunctionName=name, Qualifier="1233")


_READS = (
    "get_function get_function_configuration get_function_url_config get_function_code_signing_config "
    "get_function_event_invoke_config get_function_concurrency delete_function"
).split()


@replay(*(f"{_CLASS}test_ops_on_nonexisting_fn[{operation}]" for operation in _READS))
def nonexisting_function(stage: Stage, case: str) -> None:
    name = stage.known["nonexisting-fn-name"] = stage.name()
    stage.refused("not_found_exception", getattr(stage.client, case), FunctionName=name)


@replay(*(f"{_CLASS}test_get_function_wrong_region[{operation}]" for operation in (*_READS, "invoke")))
def wrong_region(stage: Stage, case: str) -> None:
    stage.known["wrong-region"] = "eu-central-1"
    arn = f"arn:aws:lambda:eu-central-1:{ACCOUNT}:function:{stage.name()}"
    stage.refused("wrong_region_exception", getattr(stage.client, case), FunctionName=arn)


@replay(_CLASS + "test_lambda_code_location_zipfile")
def location_zipfile(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    stage.keep("create-response-zip-file", stage.raw(name))
    stage.keep("get-function-response", client.get_function(FunctionName=name))
    stage.keep("update-function-response", client.update_function_code(FunctionName=name, ZipFile=archive(VERSION)))
    stage.settle(name)
    stage.keep("get-function-response-updated", client.get_function(FunctionName=name))


@replay(_CLASS + "test_lambda_code_location_s3")
def location_s3(stage: Stage) -> None:
    name, client, place = stage.name(), stage.client, {"S3Bucket": stage.bucket, "S3Key": "code/code-function.zip"}
    stage.s3.put_object(Bucket=stage.bucket, Key=place["S3Key"], Body=archive())
    stage.keep("create_response_s3", stage.raw(name, Code=place))
    stage.keep("get-function-response", client.get_function(FunctionName=name))
    stage.s3.put_object(Bucket=stage.bucket, Key=place["S3Key"], Body=archive(VERSION))
    stage.keep("update-function-response", stage.update_code(name, **place))
    stage.keep("get-function-response-updated", client.get_function(FunctionName=name))


@replay(_CLASS + "test_lambda_code_location_s3_errors")
def location_s3_errors(stage: Stage) -> None:
    name = stage.name()
    stage.s3.put_object(Bucket=stage.bucket, Key="code.zip", Body=archive())
    missing = {"S3Bucket": stage.name("no-bucket"), "S3Key": "code.zip"}, {"S3Bucket": stage.bucket, "S3Key": "no.zip"}
    stage.refused("create-error-wrong-bucket", stage.raw, name=name, Code=missing[0])
    stage.refused("create-error-wrong-key", stage.raw, name=name, Code=missing[1])
    stage.raw(name)
    stage.refused("update-error-wrong-bucket", stage.client.update_function_code, FunctionName=name, **missing[0])
    stage.refused("update-error-wrong-key", stage.client.update_function_code, FunctionName=name, **missing[1])


@replay(_CLASS + "test_function_arns")
def arns(stage: Stage) -> None:
    first, second = stage.name("test-function-arn"), stage.name("test-partial-arn")
    stage.keep("create-function-arn-response", stage.create(f"{ARN}{first}"))
    other = stage.create(f"{ACCOUNT}:function:{second}", Code={"ZipFile": archive(VERSION)})
    stage.keep("create-function-partial-arn-response", other)
    stage.refused("invalid_function_name_exc", stage.raw, name="invalid:function:name")
    stage.refused("long_function_name_exc", stage.raw, name="a" * 65)
    longest = stage.known["function-name"] = "a" * (141 - len(ARN))
    stage.refused("long_function_arn_exc", stage.raw, name=ARN + longest)
    elsewhere = f"arn:aws:lambda:ap-southeast-1:{ACCOUNT}:function:f"
    stage.refused("function_arn_other_region_exc", stage.raw, name=elsewhere)
    stage.refused("function_arn_other_account_exc", stage.raw, name=f"arn:aws:lambda:{REGION}:123456789012:function:f")


@replay(_CLASS + "test_create_lambda_exceptions")
def create_exceptions(stage: Stage) -> None:
    name = stage.name()
    stage.refused("invalid_role_arn_exc", stage.raw, name=name, Role="r1")
    stage.refused("invalid_runtime_exc", stage.raw, name=name, Runtime="non-existent-runtime")
    stage.refused("uppercase_runtime_exc", stage.raw, name=name, Runtime="PYTHON3.9")
    try:
        stage.raw(name, Architectures=[])
    except ParamValidationError as error:
        stage.keep("empty_architectures", str(error))
    stage.refused("multiple_architectures", stage.raw, name=name, Architectures=["x86_64", "arm64"])
    stage.refused("uppercase_architecture", stage.raw, name=name, Architectures=["X86_64"])
    stage.refused("invalid_zip_exc", stage.raw, name=name, Code={"ZipFile": b"this is not a zipfile, just a string"})


@replay(_CLASS + "test_update_lambda_exceptions")
def update_exceptions(stage: Stage) -> None:
    name, change = stage.name(), stage.client.update_function_configuration
    stage.raw(name)
    stage.refused("invalid_role_arn_exc", change, FunctionName=name, Role="r1")
    stage.refused("invalid_runtime_exc", change, FunctionName=name, Runtime="non-existent-runtime")
    stage.refused("uppercase_runtime_exc", change, FunctionName=name, Runtime="PYTHON3.9")


@replay(_CLASS + "test_list_functions")
def list_functions(stage: Stage) -> None:
    names = [stage.name("list-fn-1"), stage.name("list-fn-2")]
    stage.keep("create_response_1", stage.create(names[0], Publish=True))
    stage.keep("create_response_2", stage.create(names[1], Code={"ZipFile": archive(VERSION)}))
    stage.refused("list_functions_invalid_functionversion", stage.client.list_functions, FunctionVersion="invalid")
    pages = stage.client.get_paginator("list_functions")
    config = {"PageSize": 1}
    stage.keep("list_all", pages.paginate(FunctionVersion="ALL", PaginationConfig=config).build_full_result())
    stage.keep("list_default", pages.paginate(PaginationConfig=config).build_full_result())


@replay(_CLASS + "test_vpc_config")
def vpc_config(stage: Stage) -> None:
    name, client = stage.name(), stage.client
    first = {"SubnetIds": ["subnet-0001"], "SecurityGroupIds": ["sg-0001"]}
    second = {"SubnetIds": ["subnet-0002"], "SecurityGroupIds": ["sg-0002"]}
    stage.keep("create_response", stage.create(name, MemorySize=256, Timeout=5, VpcConfig=first))
    stage.keep("get_function_response", client.get_function(FunctionName=name))
    stage.keep("update_vpcconfig_update_response", stage.update(name, VpcConfig=second))
    stage.keep("update_vpcconfig_get_function_response", client.get_function(FunctionName=name))
    nothing: dict[str, list[str]] = {"SubnetIds": [], "SecurityGroupIds": []}
    stage.keep("delete_vpcconfig_update_response", stage.update(name, VpcConfig=nothing))
    stage.keep("delete_vpcconfig_get_function_response", client.get_function(FunctionName=name))


@replay(_CLASS + "test_invalid_invoke")
def invalid_invoke(stage: Stage) -> None:
    name = f"arn:aws:lambda:{REGION}:123400000000@function:myfn"
    stage.refused("invoke_function_name_pattern_exc", stage.client.invoke, FunctionName=name, Payload=b"{}")


_CASES: dict[str, tuple[str, str | None]] = {
    "function_name_is_single_invalid": ("*", None),
    "invalid_characters_in_function_name": ("my-function!", None),
    "invalid_characters_in_qualifier": ("my-function", "invalid!"),
    "qualifier_too_long0": ("my-function", "a" * 129),
    "qualifier_too_long1": ("my-function", "a" * 65),
    "qualifier_too_long": ("my-function", "a" * 129),
    "function_name_and_qualifier_too_long": ("my-function", "a" * 65),
    "invalid_account_id_in_partial_arn": ("invalid-account:function:my-function", None),
    "invalid_region_in_arn": (f"arn:aws:lambda:invalid-region:{ACCOUNT}:function:my-function", None),
    "non_lambda_arn": (f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance:i-1234567890abcdef0", None),
    "full_arn_with_multiple_qualifiers": (f"{ARN}my-function:1:2", None),
    "incomplete_arn": (ARN.removesuffix(":"), None),
    "partial_arn_with_extra_qualifier": ("function:my-function:$LATEST:extra", None),
    "latest_version_with_additional_qualifier": (f"{ARN}my-function:$LATEST", "1"),
    "lowercase_latest_qualifier": (f"{ARN}my-function", "$latest"),
    "missing_region_in_arn": (f"arn:aws:lambda::{ACCOUNT}:function:my-function", None),
    "missing_account_id_in_arn": (f"arn:aws:lambda:{REGION}::function:my-function", None),
    "misspelled_latest_in_arn": (f"{ARN}my-function:$LATES", None),
    "function_name_too_long": ("a" * 65, None),
    "function_name_too_long_and_invalid_region": (
        f"arn:aws:lambda:invalid-region:{ACCOUNT}:function:my-function{'a' * 170}",
        None,
    ),
    "full_arn_and_qualifier_too_long_and_invalid_region": (
        f"arn:aws:lambda:invalid-region:{ACCOUNT}:function:my-function-{'a' * 170}",
        "a" * 129,
    ),
}
_OPERATIONS = ("get_function", "delete_function", "invoke", "create_function")


@replay(
    *(
        f"{_CLASS}test_function_name_and_qualifier_validation[{case}-{operation}]"
        for case in _CASES
        for operation in _OPERATIONS
    )
)
def names_and_qualifiers(stage: Stage, case: str) -> None:
    what, _, operation = case.rpartition("-")
    name, qualifier = _CASES[what]
    given: dict[str, Any] = {"FunctionName": name}
    if operation == "create_function":
        given["FunctionName"] = f"{name}:{qualifier}" if qualifier else name
        code = {"ZipFile": archive(ECHO)}
        given |= {"Handler": "h.h", "Code": code, "Role": ROLE, "Runtime": "python3.12"}
    elif qualifier is not None:
        given["Qualifier"] = qualifier
    key = f"{operation}_exception"
    stage.refused(key, getattr(stage.loose, operation), **given)
    refusal = stage.answers.pop(key).get("Error")
    if refusal is not None:
        stage.keep(key, _counted(refusal))


def _counted(refusal: dict[str, str]) -> dict[str, Any]:
    """Return a refusal as these are recorded: the problems of a validation one by one."""
    head, detected, problems = refusal["Message"].partition(" detected: ")
    if not detected:
        return {"Code": refusal["Code"], "Message": refusal["Message"]}
    return {"Code": refusal["Code"], "Count": int(head.split()[0]), "Errors": problems.split("; ")}
