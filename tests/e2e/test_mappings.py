"""Event source mappings on a real node, through boto3: queues of a template, of the API, and of another server."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import socket
import socketserver
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from nodes import ServedNode, served

KEYS = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
HANDLER = """\
import os, socket, time
def tell(body):
    with socket.create_connection(("127.0.0.1", int(os.environ["WITNESS"]))) as connection:
        connection.sendall(body.encode())
        connection.recv(1)
def handler(event, context):
    failed, broken = [], set()
    for record in event["Records"]:
        body, receives = record["body"], int(record["attributes"]["ApproximateReceiveCount"])
        if "slow" in body:
            time.sleep(0.05)
            tell(body)
        group = record["attributes"].get("MessageGroupId")
        if group in broken:
            continue  # not reported: the mapping knows what follows a failed message
        if "bad" in body or ("once" in body and receives == 1):
            broken.add(group or body)
            failed.append({"itemIdentifier": record["messageId"]})
        else:
            print("done", body)
    print("batch of", len(event["Records"]))
    return {"batchItemFailures": failed}
"""
TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Runtime: python3.11
    Handler: app.handler
    CodeUri: src
    Timeout: 2
    Environment: {Variables: {WITNESS: "%(witness)d"}}
Resources:
  Dead: {Type: AWS::SQS::Queue, Properties: {QueueName: dead}}
  Jobs:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: jobs
      VisibilityTimeout: 2
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 2}
  Ordered:
    Type: AWS::SQS::Queue
    Properties: {QueueName: ordered.fifo, FifoQueue: true, ContentBasedDeduplication: true, VisibilityTimeout: 2}
  Work:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: work
      Events:
        Jobs:
          Type: SQS
          Properties:
            Queue: !GetAtt Jobs.Arn
            FunctionResponseTypes: [ReportBatchItemFailures]
            FilterCriteria: {Filters: [{Pattern: '{"body": [{"anything-but": {"prefix": "skip"}}]}'}]}
  Order:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: order
      Events:
        Ordered:
          Type: SQS
          Properties: {Queue: !GetAtt Ordered.Arn, BatchSize: 4, FunctionResponseTypes: [ReportBatchItemFailures]}
"""


class Witness(socketserver.ThreadingTCPServer):
    """Hears from a handler what it does, also where the log's last lines go with a node that is killed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hears)
        self.heard: list[str] = []


class _Hears(socketserver.BaseRequestHandler):
    server: Witness

    def handle(self) -> None:
        self.server.heard.append(self.request.recv(1000).decode())
        self.request.sendall(b".")


class Stage:
    """A node, its clients, and what its functions have done."""

    def __init__(self, node: ServedNode, sqs_endpoint: str = "") -> None:
        self.node = node
        self.sqs_endpoint = sqs_endpoint
        self.reconnect()

    def reconnect(self) -> None:
        self.functions = self.node.lambda_client()
        self.sqs = boto3.client("sqs", endpoint_url=self.sqs_endpoint or self.node.endpoint, **KEYS)

    def url(self, name: str) -> str:
        return str(self.sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def send(self, queue: str, bodies: list[str], **more: Any) -> None:
        for at in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body, **more} for n, body in enumerate(bodies[at : at + 10])]
            assert not self.sqs.send_message_batch(QueueUrl=self.url(queue), Entries=entries).get("Failed")

    def left(self, queue: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def done(self, function: str) -> list[str]:
        files = sorted((self.node.state / "logs").glob(f"{function}*"))
        return re.findall(r"^done (.*)$", "".join(file.read_text() for file in files), re.MULTILINE)

    def mapping(self, function: str) -> dict[str, Any]:
        (found,) = self.functions.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
        return dict(found)


def until(what: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def witness(running: Any) -> Iterator[Witness]:
    witness = Witness()
    with running(witness):
        yield witness


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, witness: Witness) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("mappings")
    (directory / "src").mkdir()
    (directory / "src" / "app.py").write_text(HANDLER)
    (directory / "template.yaml").write_text(TEMPLATE % {"witness": witness.server_address[1]})
    with served(directory / "template.yaml", directory / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield Stage(node)


def test_what_fails_comes_again_and_ends_in_the_dead_letter_queue(stage: Stage) -> None:
    stage.send("jobs", ["one", "skip two", "bad three", "once four", "five"])
    until(lambda: stage.left("dead") == 1 and stage.left("jobs") == 0)
    (dead,) = stage.sqs.receive_message(QueueUrl=stage.url("dead"), AttributeNames=["All"])["Messages"]
    assert "bad three" == dead["Body"]
    until(lambda: sorted(stage.done("work")) == ["five", "once four", "one"])
    assert "OK" == stage.mapping("work")["LastProcessingResult"]


def test_a_fifo_queue_keeps_its_order_over_failures(stage: Stage) -> None:
    bodies = {group: [f"{group} {n:02}{' once' if n in (3, 7) else ''}" for n in range(12)] for group in "ab"}
    for group, given in bodies.items():
        stage.send("ordered.fifo", given, MessageGroupId=group)
    until(lambda: stage.left("ordered.fifo") == 0)
    until(lambda: len(stage.done("order")) == 24)
    for group, given in bodies.items():
        assert given == [one for one in stage.done("order") if one.startswith(group)]


def test_a_disabled_mapping_rests_until_it_is_enabled(stage: Stage) -> None:
    uuid = stage.mapping("work")["UUID"]
    assert "Disabling" == stage.functions.update_event_source_mapping(UUID=uuid, Enabled=False)["State"]
    until(lambda: stage.mapping("work")["State"] == "Disabled")
    stage.send("jobs", ["resting"])
    time.sleep(1)
    assert (1, False) == (stage.left("jobs"), "resting" in stage.done("work"))
    assert "Enabling" == stage.functions.update_event_source_mapping(UUID=uuid, Enabled=True)["State"]
    until(lambda: "resting" in stage.done("work"))
    assert "Enabled" == stage.mapping("work")["State"]


def test_every_message_is_processed_when_the_node_is_killed_in_the_middle(stage: Stage, witness: Witness) -> None:
    bodies = [f"slow {number}" for number in range(300)]
    stage.send("jobs", bodies)
    until(lambda: len(witness.heard) > 20)
    stage.node.stop(signal.SIGKILL)
    stage.node.template = None
    stage.node.start()
    stage.reconnect()
    until(lambda: set(bodies) <= set(witness.heard), 60)
    until(lambda: stage.left("jobs") == 0)


def test_a_deleted_queue_is_named_as_the_reason_and_a_new_one_of_its_name_is_read(stage: Stage) -> None:
    made = _made(stage, "lost", "arn:aws:sqs:us-east-1:000000000000:lost")
    stage.sqs.delete_queue(QueueUrl=stage.url("lost"))
    get = stage.functions.get_event_source_mapping
    until(lambda: get(UUID=made["UUID"])["StateTransitionReason"].startswith("Queue not found"))
    stage.sqs.create_queue(QueueName="lost")
    stage.send("lost", ["found again"])
    until(lambda: "found again" in stage.done("lost"))


def test_a_mapping_that_could_not_work_is_refused_in_lambda_s_words(stage: Stage) -> None:
    create, arn = stage.functions.create_event_source_mapping, "arn:aws:sqs:us-east-1:000000000000:"
    with pytest.raises(stage.functions.exceptions.InvalidParameterValueException) as raised:
        create(FunctionName="work", EventSourceArn=f"{arn}nobodys")
    assert "SQS Error Code: AWS.SimpleQueueService.NonExistentQueue" in str(raised.value)
    stage.sqs.create_queue(QueueName="short", Attributes={"VisibilityTimeout": "1"})
    with pytest.raises(stage.functions.exceptions.InvalidParameterValueException) as raised:
        create(FunctionName="work", EventSourceArn=f"{arn}short")
    assert "Queue visibility timeout: 1 seconds is less than Function timeout: 2 seconds" in str(raised.value)
    with pytest.raises(stage.functions.exceptions.ResourceConflictException):
        create(FunctionName="work", EventSourceArn=f"{arn}jobs")


def _made(stage: Stage, name: str, arn: str, **more: Any) -> dict[str, Any]:
    """Make a queue, a function of its name and a mapping between them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", HANDLER)
    stage.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "3"})
    stage.functions.create_function(
        FunctionName=name, Runtime="python3.11", Handler="app.handler", Code={"ZipFile": packed.getvalue()},
        Role="arn:aws:iam::000000000000:role/any",
    )  # fmt: skip
    return dict(stage.functions.create_event_source_mapping(FunctionName=name, EventSourceArn=arn, **more))


class QueueServer(ThreadedMotoServer):
    """A moto server that ends its connections when it stops: else a receive would go on waiting for twenty seconds."""

    def start(self) -> None:
        super().start()
        assert self._server is not None
        accept, self._connections = self._server.get_request, list[socket.socket]()

        def get_request() -> Any:
            accepted = accept()
            self._connections.append(accepted[0])
            return accepted

        self._server.get_request = get_request  # type: ignore[method-assign]  # moto makes the server itself

    def stop(self) -> None:
        super().stop()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)


def test_a_server_that_stops_and_comes_back_loses_no_message(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = QueueServer("127.0.0.1", port, verbose=False)
    server.start()
    environ = {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_SQS_ENDPOINT": f"http://127.0.0.1:{port}"}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    try:
        with served(None, tmp_path / "state", **environ, **keys) as node:
            stage = Stage(node, f"http://127.0.0.1:{port}")
            arn = "arn:aws:sqs:us-east-1:123456789012:elsewhere"
            made = _made(stage, "elsewhere", arn, FunctionResponseTypes=["ReportBatchItemFailures"])
            stage.send("elsewhere", ["first", "once second"])
            until(lambda: {"first", "once second"} == set(stage.done("elsewhere")))
            server.stop()
            get = stage.functions.get_event_source_mapping
            until(lambda: "elsewhere" in get(UUID=made["UUID"])["StateTransitionReason"], 60)
            server = QueueServer("127.0.0.1", port, verbose=False)
            server.start()  # what it held is in this process
            stage.send("elsewhere", [str(number) for number in range(30)])
            until(lambda: {str(number) for number in range(30)} <= set(stage.done("elsewhere")), 60)
            until(lambda: stage.left("elsewhere") == 0)
            assert "USER_INITIATED" == get(UUID=made["UUID"])["StateTransitionReason"]
            assert {"done": 32} == {"done": len(Counter(stage.done("elsewhere")))}
    finally:
        server.stop()


def test_destroying_a_stack_takes_its_mappings_and_queues_along(stage: Stage) -> None:
    (name,) = [one["Name"] for one in stage.node.admin("GET", "stacks")["stacks"]]
    stage.node.admin("DELETE", f"stacks/{name}")
    urls = stage.sqs.list_queues().get("QueueUrls", [])
    assert {"dead", "jobs", "ordered.fifo"}.isdisjoint(url.rpartition("/")[2] for url in urls)
    mapped = [one["FunctionArn"] for one in stage.functions.list_event_source_mappings()["EventSourceMappings"]]
    assert not [one for one in mapped if one.endswith((":work", ":order"))], json.dumps(mapped)
