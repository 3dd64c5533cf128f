"""Every row of Lambda's function errors, from a real node, as boto3 sees it (spec 1.6); other functions unaffected."""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["Payload"].read())


def invoke(lambda_client: Any, name: str, event: object = None, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = lambda_client.invoke(FunctionName=name, Payload=json.dumps(event or {}), **more)
    assert answer["StatusCode"] == 200
    return answer


def failed(lambda_client: Any, name: str, event: object = None) -> dict[str, Any]:
    answer = invoke(lambda_client, name, event)
    assert answer["FunctionError"] == "Unhandled"
    return {**body(answer), "id": answer["ResponseMetadata"]["RequestId"]}


def test_exception_in_the_handler_has_type_message_request_id_and_trace(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "raises")
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "boom")
    assert error["requestId"] == error["id"]
    assert len(error["stackTrace"]) == 1
    assert re.fullmatch(
        r'  File ".*/misbehaving\.py", line \d+, in raises\n    raise ValueError\("boom"\)\n', error["stackTrace"][0]
    )


@pytest.mark.parametrize(
    ("name", "error_type", "message"),
    [
        ("raises-at-import", "RuntimeError", "no licence file"),
        ("missing-module", "Runtime.ImportModuleError", "Unable to import module 'nowhere': No module named 'nowhere'"),
        ("missing-handler", "Runtime.HandlerNotFound", "Handler 'nothing' missing on module 'misbehaving'"),
        ("bad-handler-name", "Runtime.MalformedHandlerName", "Bad handler 'misbehaving'"),
        ("syntax-error", "Runtime.UserCodeSyntaxError", "Syntax error in module 'syntax_error'"),
    ],
)
def test_errors_while_importing_have_no_request_id(
    misbehaving_lambda: Any, name: str, error_type: str, message: str
) -> None:
    error = failed(misbehaving_lambda, name)
    assert error["errorType"] == error_type
    assert message in error["errorMessage"]
    assert error["requestId"] == ""


@pytest.mark.parametrize(
    ("name", "event", "message"),
    [
        ("exits", {"code": 0}, "Runtime exited without providing a reason"),
        ("exits", {"code": 127}, "Runtime exited with error: exit status 127"),
        ("killed", {}, "Runtime exited with error: signal: killed"),
        ("segfaults", {}, "Runtime exited with error: signal: segmentation fault"),
    ],
)
def test_a_process_that_ends_is_an_exit_error(
    misbehaving_lambda: Any, name: str, event: dict[str, Any], message: str
) -> None:
    error = failed(misbehaving_lambda, name, event)
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"] == f"RequestId: {error['id']} Error: {message}"


def test_timeout_names_the_limit_and_the_next_call_gets_a_new_process(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "hangs")
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"] == f"RequestId: {error['id']} Error: Task timed out after 1.00 seconds"


def test_a_hanging_import_ends_with_the_init_timeout(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "hangs-at-import")
    assert error["errorType"] == "Sandbox.Timedout"
    assert "1.00 seconds" in error["errorMessage"]


def test_an_answer_over_six_mebibytes_is_refused(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "too-large")
    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    assert error["errorMessage"] == ("Response payload size exceeded maximum allowed payload size (6291556 bytes).")
    assert list(error)[:2] == ["errorMessage", "errorType"]  # as recorded: of this error alone


def test_a_large_answer_within_the_limit_arrives_whole(misbehaving_lambda: Any) -> None:
    size = 6 * 1024 * 1024 - 2
    assert body(invoke(misbehaving_lambda, "large", {"bytes": size})) == "x" * size


def test_a_result_that_is_not_json_is_a_marshal_error(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "not-json")
    assert error["errorType"] == "Runtime.MarshalError"
    assert "set" in error["errorMessage"]


def test_allocating_past_memory_size_ends_the_worker_not_the_node(misbehaving_lambda: Any) -> None:
    error = failed(misbehaving_lambda, "allocates", {"megabytes": 600})
    assert error["errorType"] == "Runtime.OutOfMemory"
    assert body(invoke(misbehaving_lambda, "answers", {"after": "oom"}))["event"] == {"after": "oom"}


def test_a_handler_that_forks_answers_once(misbehaving_lambda: Any) -> None:
    assert body(invoke(misbehaving_lambda, "forks")) == {"from": "parent", "shell": "hi\n"}
    assert body(invoke(misbehaving_lambda, "forks")) == {"from": "parent", "shell": "hi\n"}


def test_a_thread_at_import_means_exec_and_the_function_still_answers(
    misbehaving: Any, misbehaving_lambda: Any
) -> None:
    answer = body(invoke(misbehaving_lambda, "leaks-thread"))
    assert answer["threads"] >= 2  # its own, and the watch that every exec'ed worker has
    status, _, problem = misbehaving.request("POST", "/_glowplug/functions/leaks-thread/cool", {"to": "parked"})
    assert status == 409
    assert "telemetry-pump" in json.dumps(problem) or "thread" in json.dumps(problem)


def test_unknown_function_is_not_found_with_the_recorded_message(misbehaving_lambda: Any) -> None:
    with pytest.raises(misbehaving_lambda.exceptions.ResourceNotFoundException) as raised:
        misbehaving_lambda.invoke(FunctionName="nobody")
    assert "Function not found: arn:aws:lambda:us-east-1:000000000000:function:nobody:$LATEST" in str(raised.value)


def test_invalid_json_is_refused_before_anything_runs(misbehaving_lambda: Any) -> None:
    with pytest.raises(misbehaving_lambda.exceptions.InvalidRequestContentException) as raised:
        misbehaving_lambda.invoke(FunctionName="answers", Payload=b"{no json")
    assert "Could not parse request body into json" in str(raised.value)


def test_a_request_over_six_mebibytes_is_413(misbehaving: Any) -> None:
    path = "/2015-03-31/functions/answers/invocations"
    status, headers, problem = misbehaving.request_raw("POST", path, b'"' + b"x" * (6 * 1024 * 1024) + b'"')
    assert status == 413
    assert headers["x-amzn-errortype"] == "RequestEntityTooLargeException"
    assert "6291458 byte payload is too large for the RequestResponse invocation type (limit 6291456 bytes)" in problem


def test_log_tail_holds_start_output_end_and_report(misbehaving_lambda: Any) -> None:
    answer = invoke(misbehaving_lambda, "talks", LogType="Tail")
    request_id = answer["ResponseMetadata"]["RequestId"]
    tail = base64.b64decode(answer["LogResult"]).decode()
    lines = tail.splitlines()
    assert lines[0] == f"START RequestId: {request_id} Version: $LATEST"
    assert re.search(rf"^\[WARNING\]\t\S+Z\t{request_id}\tlogged line$", tail, re.MULTILINE)
    for text in ("printed line", "written straight to descriptor 1", "to stderr"):
        assert text in lines
    assert f"END RequestId: {request_id}" in lines
    assert re.match(rf"REPORT RequestId: {request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t", lines[-1])
    assert "\tMemory Size: 256 MB\tMax Memory Used: " in lines[-1]


def test_the_log_tail_of_a_chatty_handler_is_its_last_4096_bytes(misbehaving: Any, misbehaving_lambda: Any) -> None:
    answer = invoke(misbehaving_lambda, "chatters", LogType="Tail")
    assert body(answer) == "said it"
    tail = base64.b64decode(answer["LogResult"])
    assert 4090 < len(tail) <= 4096
    *_, last, end, report = tail.decode().splitlines()
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert (last, end) == ("line 1999 \u20ac", f"END RequestId: {request_id}")
    assert report.startswith(f"REPORT RequestId: {request_id}\t")
    whole = misbehaving.request_raw("GET", f"/_glowplug/functions/chatters/logs?request_id={request_id}")[2]
    assert "line 0 \u20ac\n" in whole


def test_max_memory_used_is_what_the_process_uses(misbehaving_lambda: Any) -> None:
    answer = invoke(misbehaving_lambda, "answers", LogType="Tail")
    used = re.search(r"\tMax Memory Used: (\d+) MB\t", base64.b64decode(answer["LogResult"]).decode())
    assert used is not None
    assert 3 <= int(used[1]) <= 100  # a Python process, which inherited most of it


def test_init_duration_is_reported_once_per_import(misbehaving: Any, misbehaving_lambda: Any) -> None:
    misbehaving.request("POST", "/_glowplug/functions/talks/cool", {"to": "stored"})
    first = base64.b64decode(invoke(misbehaving_lambda, "talks", LogType="Tail")["LogResult"]).decode()
    second = base64.b64decode(invoke(misbehaving_lambda, "talks", LogType="Tail")["LogResult"]).decode()
    assert first.count("Init Duration:") == 1
    assert "Init Duration:" not in second


def test_a_handler_that_exits_does_not_disturb_its_neighbours(misbehaving_lambda: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        bad = [pool.submit(failed, misbehaving_lambda, "exits", {"code": 3}) for _ in range(8)]
        good = [pool.submit(invoke, misbehaving_lambda, "answers", {"n": n}) for n in range(32)]
    assert all(item.result()["errorType"] == "Runtime.ExitError" for item in bad)
    assert [body(item.result())["event"] for item in good] == [{"n": n} for n in range(32)]


def test_environment_is_lambdas_and_holds_nothing_of_the_operators(misbehaving_lambda: Any) -> None:
    names = ["AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "GREETING", "TZ", "_HANDLER"]
    seen = body(invoke(misbehaving_lambda, "environment", {"names": names}))
    assert seen["values"] == {
        "AWS_LAMBDA_FUNCTION_NAME": "environment",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "GREETING": "hello",
        "TZ": "Europe/Berlin",
        "_HANDLER": "misbehaving.environment",
    }
    assert "GLOWPLUG_TEST_SECRET" not in seen["names"]  # set in the node's own environment by the fixture
    for required in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_LOG_STREAM_NAME"):
        assert required in seen["names"]
