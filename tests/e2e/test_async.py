"""Asynchronous invocation through boto3 and HTTP against a real node."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from nodes import ServedNode, served

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
TEMPLATE = Path(__file__).parent / "asynchronous.yaml"
SETTINGS = {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_ASYNC_RETRY_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = tmp_path_factory.mktemp("async") / "state"
    with served(TEMPLATE, state, **SETTINGS, GLOWPLUG_PUBLIC_PORT=str(port)) as node:
        yield node


@pytest.fixture(scope="module")
def client(node: ServedNode) -> Any:
    return node.lambda_client()


@pytest.fixture(scope="module")
def sqs(node: ServedNode) -> Any:
    return boto3.client(
        "sqs", endpoint_url=node.endpoint, region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test", config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip


def send(client: Any, name: str, event: object, **more: str) -> str:
    """Send an event and return its request id."""
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event).encode(), **more)
    assert (202, b"") == (answer["StatusCode"], answer["Payload"].read())
    assert "ExecutedVersion" not in answer
    return str(answer["ResponseMetadata"]["RequestId"])


def over(node: ServedNode, request_id: str, wait: int = 30) -> dict[str, Any]:
    """Wait for an event's end."""
    found: dict[str, Any] = node.admin("GET", f"async/{request_id}?wait={wait}")
    assert "finishedAt" in found, found
    return found


def received(sqs: Any, url: str) -> dict[str, Any]:
    """Return the next message of a queue."""
    answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20, MessageAttributeNames=["All"])
    message: dict[str, Any] = answer["Messages"][0]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return message


def test_an_event_runs_and_its_answer_is_kept(node: ServedNode, client: Any) -> None:
    request_id = send(client, "answers", {"a": 1})
    found = over(node, request_id)
    assert {"event": {"a": 1}, "request": request_id, "arn": f"{ARN}answers"} == found["result"]
    assert ("succeeded", 1, "Success", "$LATEST") == (
        found["state"], found["attempts"], found["condition"], found["executedVersion"]
    )  # fmt: skip
    assert {"hold", "handler"} <= found["phases"].keys()


def test_a_failing_event_is_tried_three_times_under_one_id_and_goes_to_queues(
    node: ServedNode, client: Any, sqs: Any
) -> None:
    failed = sqs.create_queue(QueueName="failed")["QueueUrl"]
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:000000000000:"
    client.put_function_event_invoke_config(
        FunctionName="fails", DestinationConfig={"OnFailure": {"Destination": f"{arn}failed"}}
    )
    client.update_function_configuration(FunctionName="fails", DeadLetterConfig={"TargetArn": f"{arn}dead"})
    client.get_waiter("function_updated_v2").wait(FunctionName="fails")
    request_id = send(client, "fails", {"what": "chance"})
    found = over(node, request_id)
    assert ("failed", 3, "RetriesExhausted") == (found["state"], found["attempts"], found["condition"])
    assert ("ValueError", "no chance") == (found["error"]["errorType"], found["error"]["errorMessage"])
    log = node.request_raw("GET", f"/_glowplug/functions/fails/logs?request_id={request_id}")[2]
    assert 3 == len(re.findall(rf"START RequestId: {request_id}", log))

    record = json.loads(received(sqs, failed)["Body"])
    assert ["version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload"] == list(
        record
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
    assert {
        "requestId": request_id,
        "functionArn": f"{ARN}fails:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    } == record["requestContext"]
    assert {"what": "chance"} == record["requestPayload"]
    assert {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"} == record["responseContext"]
    assert "no chance" == record["responsePayload"]["errorMessage"]

    letter = received(sqs, dead)
    assert {"what": "chance"} == json.loads(letter["Body"])
    assert {
        "RequestID": {"StringValue": request_id, "DataType": "String"},
        "ErrorCode": {"StringValue": "200", "DataType": "Number"},
        "ErrorMessage": {"StringValue": "no chance", "DataType": "String"},
    } == letter["MessageAttributes"]


def test_success_goes_to_another_function(node: ServedNode, client: Any) -> None:
    client.put_function_event_invoke_config(
        FunctionName="sleeps", DestinationConfig={"OnSuccess": {"Destination": f"{ARN}answers"}}
    )
    try:
        request_id = send(client, "sleeps", {"seconds": 0, "number": 7})
        over(node, request_id)
        end = time.monotonic() + 20
        while True:
            events = node.admin("GET", "async?function=answers&state=succeeded")["events"]
            found = [one for one in events if one.get("source") == "destination:sleeps"]
            if found or time.monotonic() > end:
                break
            time.sleep(0.05)
        record = over(node, found[0]["requestId"])["result"]["event"]
    finally:
        client.delete_function_event_invoke_config(FunctionName="sleeps")
    assert ("Success", request_id) == (record["requestContext"]["condition"], record["requestContext"]["requestId"])
    assert ({"statusCode": 200, "executedVersion": "$LATEST"}, 7) == (
        record["responseContext"], record["responsePayload"]
    )  # fmt: skip


def test_reserved_concurrency_of_none_ends_an_event_without_an_attempt(node: ServedNode, client: Any) -> None:
    found = over(node, send(client, "paused", {}))
    assert ("failed", 0, "ZeroReservedConcurrency") == (found["state"], found["attempts"], found["condition"])


def test_an_idempotency_key_gives_the_first_event(node: ServedNode) -> None:
    path, headers = "/2015-03-31/functions/answers/invocations", {"X-Amz-Invocation-Type": "Event"}
    ids = {
        node.request_raw("POST", path, b'{"n":1}', {**headers, "Idempotency-Key": "order-1"})[1]["x-amzn-requestid"]
        for _ in range(3)
    }
    assert 1 == len(ids)
    status, _, text = node.request_raw("POST", path, b'{"n":2}', {**headers, "Idempotency-Key": "order-1"})
    assert 400 == status
    assert "another payload" in text
    assert {"n": 1} == over(node, ids.pop())["result"]["event"]


def test_events_are_cancelled_while_they_wait_and_while_they_run(node: ServedNode, client: Any) -> None:
    running = send(client, "one", {"seconds": 5})
    end = time.monotonic() + 20
    while node.admin("GET", f"async/{running}")["state"] != "running" and time.monotonic() < end:
        time.sleep(0.02)
    queued = send(client, "one", {"seconds": 0})
    assert "queued" == node.admin("GET", f"async/{queued}")["state"]
    for request_id in (queued, running):
        assert "cancelled" == node.admin("DELETE", f"async/{request_id}")["state"]
        assert "Glowplug.Cancelled" == over(node, request_id)["error"]["errorType"]
        assert 409 == node.request("DELETE", f"/_glowplug/async/{request_id}")[0]
    states = {one["requestId"]: one["state"] for one in node.admin("GET", "async?function=one")["events"]}
    assert {queued: "cancelled", running: "cancelled"} == states


def test_cancelling_what_runs_kills_its_process_and_frees_its_instance(node: ServedNode, client: Any) -> None:
    """A handler that sleeps for a minute, alone on its function's only instance."""
    request_id = send(client, "long", {"seconds": 60})
    end = time.monotonic() + 30
    while not node.function("long")["busy"] and time.monotonic() < end:
        time.sleep(0.02)
    before = set(node.family())
    assert "cancelled" == node.admin("DELETE", f"async/{request_id}")["state"]
    row = node.function("long")
    assert (0, 0, 0) == (row["instances"], row["busy"], row["draining"])
    assert before - set(node.family()), "no process is gone"
    log = node.request_raw("GET", f"/_glowplug/functions/long/logs?request_id={request_id}")[2]
    assert f"{request_id} Task was cancelled, and its process killed" in log
    assert "Status: error\tError Type: Glowplug.Cancelled" in log
    answer = client.invoke(FunctionName="long", Payload=b'{"seconds": 0, "number": 7}')
    assert b"7" == answer["Payload"].read()


def test_progress_comes_as_server_sent_events(node: ServedNode, client: Any) -> None:
    request_id = send(client, "sleeps", {"seconds": 0.5})
    text = node.request_raw("GET", f"/_glowplug/async/{request_id}", headers={"Accept": "text/event-stream"})[2]
    kinds = re.findall(r"^event: (\w+)$", text, re.MULTILINE)
    data = [json.loads(line) for line in re.findall(r"^data: (.*)$", text, re.MULTILINE)]
    assert kinds[0] == "progress"
    assert kinds[-1] == "result"
    assert {"queued", "running"} >= {one["state"] for one in data[:-1]}
    assert "succeeded" == data[-1]["state"]


def test_an_unknown_event_is_not_found(node: ServedNode) -> None:
    for request_id in ("00000000-0000-7000-8000-000000000000", "nonsense"):
        assert 404 == node.request("GET", f"/_glowplug/async/{request_id}")[0]


class Hook(BaseHTTPRequestHandler):
    """Refuses the first call, and keeps the others."""

    calls: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
    refused = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not Hook.refused:
            Hook.refused += 1
            self.send_response(503)
        else:
            Hook.calls.put((dict(self.headers), body))
            self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_a_webhook_gets_the_signed_result_though_it_was_down(node: ServedNode) -> None:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        path = "/2015-03-31/functions/answers/invocations"
        headers = {
            "X-Amz-Invocation-Type": "Event",
            "X-Glowplug-Webhook": f"http://127.0.0.1:{server.server_port}/done",
        }
        request_id = node.request_raw("POST", path, b'{"a":1}', headers)[1]["x-amzn-requestid"]
        given, body = Hook.calls.get(timeout=30)
    finally:
        server.shutdown()
        server.server_close()
    told = json.loads(body)
    assert (request_id, "succeeded", {"a": 1}) == (told["requestId"], told["state"], told["result"]["event"])
    key = node.admin("GET", "async/webhook-key")["key"].encode()
    at_s, code = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", given["X-Glowplug-Signature"]).groups()  # type: ignore[union-attr]
    assert hmac.new(key, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest() == code


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a GET to a listener."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return answer


@pytest.mark.parametrize("by_host", [False, True])
def test_a_url_answers_later_where_that_is_preferred(node: ServedNode, by_host: bool) -> None:
    public = int(node.environ["GLOWPLUG_PUBLIC_PORT"])
    host = {"Host": "open.lambda-url.example"} if by_host else {}
    prefix = "" if by_host else "/_url/open"
    status, headers, _ = ask(public, f"{prefix}/a?seconds=0.3", Prefer="respond-async", **host)
    assert (202, "respond-async") == (status, headers["preference-applied"])
    location = headers["location"]
    assert re.fullmatch(rf"{prefix}/_async/[A-Za-z0-9_-]{{43}}", location)
    assert 202 == ask(public, location, **host)[0]
    status, headers, body = ask(public, location, Prefer="wait=20", **host)
    assert (201, "1", b"made by /a") == (status, headers["x-mine"], body)
    # What nobody was given leads to the function itself, as any other path does.
    forged = location[:-4] + ("AAAA" if location[-4:] != "AAAA" else "BBBB")
    assert (201, f"made by {forged.removeprefix(prefix)}".encode()) == ask(public, forged, **host)[::2]


def test_a_url_answers_later_to_the_public_only_where_its_template_allows_it(node: ServedNode) -> None:
    public = int(node.environ["GLOWPLUG_PUBLIC_PORT"])
    assert 201 == ask(public, "/_url/closed/", Prefer="respond-async")[0]
    assert 202 == ask(node.port, "/_url/closed/", Prefer="respond-async")[0]


def test_figures_of_events_are_in_the_metrics(node: ServedNode, client: Any) -> None:
    over(node, send(client, "answers", {}))
    text = node.request_raw("GET", "/metrics")[2]
    for name in ("AsyncEventsReceived_total", "glowplug_async_succeeded_total"):
        assert float(re.search(rf'^{name}{{function_name="answers"}} (\S+)$', text, re.MULTILINE)[1]) >= 1  # type: ignore[index]
    assert re.search(r'^glowplug_async_events{function_name="answers"} 0.0$', text, re.MULTILINE)


def test_nothing_that_was_accepted_is_lost_when_the_node_is_killed(tmp_path: Path) -> None:
    with served(TEMPLATE, tmp_path / "state", **SETTINGS) as node:
        client = node.lambda_client()
        accepted = {send(client, "sleeps", {"seconds": 0.05, "number": n}): n for n in range(100)}
        end = time.monotonic() + 20
        while not node.admin("GET", "async?function=sleeps&state=succeeded")["events"] and time.monotonic() < end:
            time.sleep(0.02)
        node.stop(signal.SIGKILL)
        node.start()
        assert list(accepted.values()) == [over(node, one)["result"] for one in accepted]
        assert 0 == node.function("sleeps")["events"]


def test_what_runs_may_end_when_the_node_stops_and_the_rest_runs_after_it(tmp_path: Path) -> None:
    with served(TEMPLATE, tmp_path / "state", **SETTINGS) as node:
        client = node.lambda_client()
        accepted = [send(client, "one", {"seconds": 1, "number": n}) for n in range(3)]
        end = time.monotonic() + 20
        while node.admin("GET", f"async/{accepted[0]}")["state"] != "running" and time.monotonic() < end:
            time.sleep(0.02)
        assert 0 == node.stop()
        node.start()
        found = [over(node, one) for one in accepted]
        assert [(0, 1), (1, 1), (2, 1)] == [(one["result"], one["attempts"]) for one in found]
        log = node.request_raw("GET", f"/_glowplug/functions/one/logs?request_id={accepted[0]}")[2]
        assert 1 == len(re.findall(r"START RequestId", log))
