"""Streamed responses of a real node: function URLs with RESPONSE_STREAM, InvokeWithResponseStream through boto3.

Order is proven by gates: a handler waits on a socket until the test, which has read what came before, lets it on.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT_MIB = 110


@pytest.fixture(scope="module")
def node(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node with the handlers of functions/streaming.py; it kills handlers that do not end after 0.3 s."""
    with serving(
        Path(__file__).parent / "streaming.yaml", tmp_path_factory.mktemp("streaming") / "state",
        GLOWPLUG_PRELOAD_TORCH="0", GLOWPLUG_CANCEL_GRACE_SECONDS="0.3",
        GLOWPLUG_LIMIT_STREAM_RESPONSE_BYTES=str(LIMIT_MIB << 20),
    ) as served:  # fmt: skip
        yield served


@pytest.fixture(scope="module")
def client(node: Any) -> Any:
    return node.lambda_client()


class Gate:
    """Where one handler waits."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(30)
        self.port = self._listening.getsockname()[1]
        self._handler: socket.socket | None = None

    @property
    def handler(self) -> socket.socket:
        if self._handler is None:
            self._handler, _ = self._listening.accept()
            self._handler.settimeout(30)
        return self._handler

    def open(self, word: bytes = b"+") -> None:
        """Let the handler on."""
        self.handler.sendall(word)

    def heard(self) -> bytes:
        """Return all that the handler said, when it has closed its end."""
        parts = []
        while part := self.handler.recv(1000):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self._listening.close()
        if self._handler is not None:
            self._handler.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


@contextlib.contextmanager
def requested(
    node: Any, name: str, query: str = "", method: str = "GET", body: bytes | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The response of a function URL, its body unread."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, f"/_url/{name}/?{query}", body, {"Content-Type": "application/json"} if body else {})
        yield connection.getresponse()


def events(answer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for event in answer["EventStream"]:
        ((kind, fields),) = event.items()
        yield kind, fields["Payload"] if kind == "PayloadChunk" else fields


def invoked(client: Any, name: str, event: object = None, **more: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the joined chunks and the last event."""
    answer = client.invoke_with_response_stream(FunctionName=name, Payload=json.dumps(event or {}), **more)
    assert answer["StatusCode"] == 200
    *chunks, (last, complete) = events(answer)
    assert ({"PayloadChunk"} >= {kind for kind, _ in chunks}, last) == (True, "InvokeComplete")
    return b"".join(chunk for _, chunk in chunks), complete


def report_of(node: Any, name: str, request_id: str) -> str:
    """Return the REPORT line of a request, which may be about to be written."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for line in (node.state / "logs" / f"{name}.log").read_text().splitlines():
            if line.startswith(f"REPORT RequestId: {request_id}"):
                return str(line)
        time.sleep(0.01)
    raise AssertionError(f"no REPORT of {request_id}")


def pid_of(node: Any, name: str, gate: Gate) -> int:
    """Return the process that answers now; its stream is read to the end."""
    with requested(node, name, f"gate={gate.port}") as response:
        line = response.readline()
        gate.open(b".")
        assert response.read() == b""
    return int(line.split()[1])


BOTH = pytest.mark.parametrize("name", ["gated", "gated-async"])


@BOTH
def test_a_chunk_reaches_the_client_before_the_next_one_is_made(node: Any, gate: Gate, name: str) -> None:
    with requested(node, name, f"gate={gate.port}") as response:
        assert (response.status, response.getheader("content-type")) == (200, "application/octet-stream")
        assert response.getheader("transfer-encoding") == "chunked"
        assert "first-chunk;dur=" in (response.getheader("server-timing") or "")
        assert response.readline().startswith(b"first ")
        gate.open()
        assert response.readline() == b"next\n"
        gate.open(b".")
        assert response.read() == b""
    assert gate.heard() == b"finally"


@BOTH
def test_boto3_gets_a_chunk_before_the_next_one_is_made(client: Any, gate: Gate, name: str) -> None:
    answer = client.invoke_with_response_stream(
        FunctionName=name, Payload=json.dumps({"gate": gate.port}), LogType="Tail"
    )
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    stream = events(answer)
    assert next(stream)[1].startswith(b"first ")
    gate.open()
    assert next(stream) == ("PayloadChunk", b"next\n")
    gate.open(b".")
    ((kind, complete),) = stream
    log = base64.b64decode(complete.pop("LogResult")).decode()
    assert (kind, complete) == ("InvokeComplete", {})
    assert re.search(r"START RequestId: .*\nREPORT RequestId: .*Duration: ", log, re.DOTALL)


def test_the_report_and_the_instance_wait_for_the_last_chunk(node: Any, client: Any, gate: Gate) -> None:
    with requested(node, "gated", f"gate={gate.port}") as response:
        request_id = response.getheader("x-amzn-requestid") or ""
        assert response.readline()
        assert not any(request_id in log.read_text() for log in (node.state / "logs").glob("gated*"))
        assert node.admin("GET", "functions")["functions"]
        assert node.function("gated")["busy"] == 1
        gate.open(b".")
        assert response.read() == b""
    assert "Status" not in report_of(node, "gated", request_id)


@BOTH
def test_a_client_that_goes_away_ends_the_handler_and_the_instance_serves_on(node: Any, gate: Gate, name: str) -> None:
    with requested(node, name, f"gate={gate.port}&lines=1000000") as response:
        request_id = response.getheader("x-amzn-requestid") or ""
        pid = int(response.readline().split()[1])
    if name == "gated":  # it waits in a system call, then for credit: its next yield is where it hears of it
        gate.open()
    assert gate.heard() == (b"finally" if name == "gated" else b"cancelled finally")
    assert "Status" not in report_of(node, name, request_id)
    following = Gate()
    try:
        assert pid_of(node, name, following) == pid
    finally:
        following.close()


def test_a_new_revision_leaves_open_streams_alone(node: Any, client: Any, gate: Gate) -> None:
    with requested(node, "gated-async", f"gate={gate.port}") as response:
        pid = int(response.readline().split()[1])
        client.update_function_configuration(FunctionName="gated-async", Timeout=29)
        client.get_waiter("function_updated_v2").wait(FunctionName="gated-async", WaiterConfig={"Delay": 0.05})
        following = Gate()
        try:
            assert pid_of(node, "gated-async", following) != pid
        finally:
            following.close()
        gate.open()
        assert response.readline() == b"next\n"
        gate.open(b".")
        assert response.read() == b""


def test_cors_settings_are_applied_to_streams_too(node: Any, client: Any) -> None:
    client.update_function_url_config(FunctionName="page", Cors={"AllowOrigins": ["*"]})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)) as connection:
        connection.request("GET", "/_url/page/", headers={"Origin": node.endpoint})
        response = connection.getresponse()
        assert response.getheader("access-control-allow-origin") == "*"
        assert response.read() == b"{}\n<p>\0\xff"


def test_a_stopping_node_ends_open_streams_and_their_handlers(serving: Any, tmp_path: Path, gate: Gate) -> None:
    template = Path(__file__).parent / "streaming.yaml"
    settings = {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_DRAIN_SECONDS": "0.2"}
    with serving(template, tmp_path / "state", **settings) as stopping:
        with requested(stopping, "gated-async", f"gate={gate.port}") as response:
            assert response.readline()
            assert stopping.stop() == 0
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                response.read()
        assert gate.heard() == b"cancelled finally"


def test_a_handler_that_goes_on_without_its_client_is_killed(node: Any, gate: Gate) -> None:
    with requested(node, "stubborn", f"gate={gate.port}") as response:
        request_id = response.getheader("x-amzn-requestid") or ""
        assert response.readline() == b"first\n"
        assert gate.handler
    assert gate.heard() == b""
    assert "Status: error\tError Type: Runtime.ExitError" in report_of(node, "stubborn", request_id)


def test_two_streams_of_one_function_are_served_at_the_same_time(node: Any, gate: Gate) -> None:
    other = Gate()
    try:
        with (
            requested(node, "gated", f"gate={gate.port}") as one,
            requested(node, "gated", f"gate={other.port}") as two,
        ):
            assert one.readline() != two.readline()
            for answer, way in ((two, other), (one, gate), (two, other)):
                way.open()
                assert answer.readline() == b"next\n"
            for answer, way in ((one, gate), (two, other)):
                way.open(b".")
                assert answer.read() == b""
    finally:
        other.close()


def test_an_error_before_the_first_chunk_is_a_502(node: Any, client: Any) -> None:
    with requested(node, "fails") as response:
        assert (response.status, response.read()) == (502, b"Internal Server Error")
    chunks, complete = invoked(client, "fails", LogType="Tail")
    assert (chunks, complete["ErrorCode"]) == (b"", "Unhandled")
    error = json.loads(complete["ErrorDetails"])
    assert (error["errorType"], error["errorMessage"], len(error["stackTrace"])) == ("ValueError", "boom", 1)
    assert b"[ERROR] ValueError: boom" in base64.b64decode(complete["LogResult"])


def test_an_error_after_a_chunk_is_a_broken_transfer(node: Any, client: Any) -> None:
    """And no reason to lose the instance."""
    with requested(node, "fails", "after=2") as response:
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
    chunks, complete = invoked(client, "fails", {"after": 2})
    assert json.loads(complete["ErrorDetails"])["errorType"] == "ValueError"
    assert chunks == broken.value.partial, "the same process"


def test_a_client_of_http_1_0_sees_a_broken_transfer_too(node: Any) -> None:
    """It knows no chunks: an orderly end of the connection would look like the end of the body."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as client:
        client.sendall(b"GET /_url/fails/?after=2 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.makefile("rb").read()


def test_a_worker_that_dies_in_the_middle_is_a_broken_transfer(node: Any, client: Any, gate: Gate) -> None:
    with requested(node, "killed", f"gate={gate.port}") as response:
        assert response.readline() == b"first\n"
        gate.open()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    other = Gate()
    try:
        answer = client.invoke_with_response_stream(FunctionName="killed", Payload=json.dumps({"gate": other.port}))
        stream = events(answer)
        assert next(stream) == ("PayloadChunk", b"first\n")
        other.open()
        ((_, complete),) = stream
        assert json.loads(complete["ErrorDetails"])["errorMessage"].endswith("signal: killed")
    finally:
        other.close()


def test_the_timeout_counts_to_the_last_chunk(node: Any, client: Any, gate: Gate) -> None:
    chunks, complete = invoked(client, "hurried", {"gate": gate.port})
    assert (chunks[:6], json.loads(complete["ErrorDetails"])["errorType"]) == (b"first ", "Sandbox.Timedout")


@pytest.mark.parametrize(
    ("prelude", "status", "headers"),
    [
        ({"statusCode": 201, "headers": {"content-type": "text/html", "x-a": "1"}, "cookies": ["a=1"]}, 201,
         {"content-type": "text/html", "x-a": "1", "set-cookie": "a=1"}),
        ({"statusCode": "404"}, 404, {"content-type": "application/octet-stream"}),
        ({"statusCode": 200, "headers": {"Content-Length": "1", "Transfer-Encoding": "gzip"}}, 200,
         {"transfer-encoding": "chunked"}),
    ],
)  # fmt: skip
def test_a_prelude_is_status_headers_and_cookies(node: Any, prelude: Any, status: int, headers: dict[str, str]) -> None:
    with requested(node, "page", "", "POST", json.dumps(prelude).encode()) as response:
        assert (response.status, response.read()) == (status, b"<p>\0\xff")
        assert {name: response.getheader(name) for name in headers} == headers


@pytest.mark.parametrize(
    "prelude",
    [
        {"statusCode": 99},
        {"statusCode": 200, "headers": {"a": "b\r\nc: d"}},
        {"statusCode": 200, "headers": {"a b": "c"}},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": "x" * 17_000}},
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": {}},
    ],
)
def test_a_prelude_that_is_none_is_a_502_and_costs_nobody_anything(node: Any, prelude: Any) -> None:
    with requested(node, "page", "", "POST", json.dumps(prelude).encode()) as response:
        assert (response.status, response.read()) == (502, b"Internal Server Error")
    with requested(node, "page", "", "POST", b'{"statusCode":200}') as response:
        assert response.status == 200


def test_a_prelude_is_part_of_the_stream_for_the_api(client: Any) -> None:
    chunks, _ = invoked(client, "page", {"body": '{"statusCode":201}'})
    assert chunks == b'{"statusCode": 201}' + b"\0" * 8 + b"<p>\0\xff"


def test_head_runs_the_function_and_sends_no_body(node: Any) -> None:
    with requested(node, "page", "", "HEAD") as response:
        assert (response.status, response.read()) == (200, b"")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)) as connection:
        for _ in range(2):  # the connection is as good as before
            connection.request("HEAD", "/_url/megabytes/?count=3")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")


def test_an_answer_that_is_no_stream_is_sent_as_the_json_that_it_is(node: Any, client: Any) -> None:
    """Recorded: RESPONSE_STREAM maps nothing."""
    text = b'{"statusCode": 418, "body": "teapot"}'
    with requested(node, "plain") as response:
        assert (response.status, response.getheader("content-type")) == (200, "application/json")
        assert response.read() == text
    assert invoked(client, "plain") == (text, {})


def test_a_stream_of_nothing_is_an_empty_answer(node: Any, client: Any) -> None:
    with requested(node, "nothing") as response:
        assert (response.status, response.getheader("content-type")) == (200, "application/octet-stream")
        assert response.read() == b""
    assert invoked(client, "nothing") == (b"", {})


def test_a_buffered_caller_gets_the_stream_as_one_text(node: Any, client: Any) -> None:
    answer = client.invoke(FunctionName="megabytes", Payload=b'{"count": 1}')
    assert answer["Payload"].read() == b'"' + rb"\u0000" * (1 << 20) + b'"'
    with requested(node, "whole", "after=1") as response:
        assert (response.status, response.read()) == (502, b"Internal Server Error")
    page = client.invoke(FunctionName="page", Payload=json.dumps({"body": '{"statusCode":201}'}))
    assert json.loads(page["Payload"].read()) == {
        "statusCode": 201, "body": base64.b64encode(b"<p>\0\xff").decode(), "isBase64Encoded": True,
    }  # fmt: skip


def test_a_slow_reader_of_100_mib_costs_the_node_next_to_nothing(node: Any) -> None:
    def resident_mib() -> float:
        status = Path(f"/proc/{node.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    with requested(node, "megabytes", "count=1") as response:
        assert len(response.read()) == 1 << 20
    before, most, got = resident_mib(), 0.0, 0
    with requested(node, "megabytes", "count=100") as response:
        while part := response.read(1 << 20):
            got += len(part)
            time.sleep(0.005)  # the handler makes a MiB in far less
            most = max(most, resident_mib())
    assert got == 100 << 20
    assert most - before < 8


def test_a_stream_ends_at_its_limit(node: Any, client: Any) -> None:
    with requested(node, "megabytes", f"count={LIMIT_MIB + 5}") as response:
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
        assert len(broken.value.partial) == LIMIT_MIB << 20
    _, complete = invoked(client, "megabytes", {"count": LIMIT_MIB + 5})
    assert json.loads(complete["ErrorDetails"])["errorType"] == "Function.ResponseSizeTooLarge"


def test_dry_runs_and_refusals_are_those_of_invoke(client: Any) -> None:
    dry = client.invoke_with_response_stream(FunctionName="page", InvocationType="DryRun")
    with contextlib.closing(dry["EventStream"]):
        assert dry["StatusCode"] == 204
    for more, code in (
        ({"FunctionName": "nobody"}, "ResourceNotFoundException"),
        ({"FunctionName": "page", "InvocationType": "Event"}, "ValidationException"),
        ({"FunctionName": "page", "Payload": b"{"}, "InvalidRequestContentException"),
    ):
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.invoke_with_response_stream(**more)
        assert refused.value.response["Error"]["Code"] == code


def test_the_mode_of_a_url_is_changed_through_the_api(node: Any, client: Any) -> None:
    changed = client.update_function_url_config(FunctionName="whole", InvokeMode="RESPONSE_STREAM")
    assert changed["InvokeMode"] == "RESPONSE_STREAM"
    with requested(node, "whole", "after=1") as response:
        assert response.status == 200
    client.update_function_url_config(FunctionName="whole", InvokeMode="BUFFERED")
    with requested(node, "whole", "after=1") as response:
        assert response.status == 502


def test_url_metrics_count_a_stream_when_it_has_ended(node: Any, gate: Gate) -> None:
    def count() -> float:
        _, _, text = node.request_raw("GET", "/metrics")
        return sum(map(float, re.findall(r'^UrlRequestCount_total\{function_name="gated"\} (\S+)$', text, re.M)))

    before = count()
    with requested(node, "gated", f"gate={gate.port}") as response:
        assert response.readline()
        assert count() == before
        gate.open(b".")
        response.read()
    assert gate.heard() == b"finally"
    end = time.monotonic() + 10
    while count() == before and time.monotonic() < end:
        time.sleep(0.01)
    assert count() == before + 1
