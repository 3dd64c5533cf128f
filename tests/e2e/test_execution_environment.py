"""What a handler finds around it, on a real node: Lambda's directories and variables, its own /tmp, its log, and AWS's
own tools for it, unmodified."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_lambda_powertools
import pytest

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Timeout: 30}
Resources:
  Looks:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: looks, Handler: looks.handler, EphemeralStorage: {Size: 600}}
  Alone:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: alone, Handler: looks.handler, Environment: {Variables: {OMP_NUM_THREADS: 1}}}
  Traced:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: traced
      Handler: traced.handler
      CodeUri: powertools/
      Environment: {Variables: {POWERTOOLS_SERVICE_NAME: orders, POWERTOOLS_LOG_LEVEL: INFO}}
"""

LOOKS = """
import logging, os, subprocess, sys
log = logging.getLogger()

def handler(event, context):
    if event == "told":
        log.info("told", extra={"order": 7})
        return None
    if event == "boom":
        raise ValueError("boom")
    started = subprocess.run([sys.executable, "-c", "import os; print(os.environ['PYTHONPATH'])"], capture_output=True)
    return {"environment": dict(os.environ), "file": __file__, "path": sys.path[:3], "cwd": os.getcwd(),
            "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize, "listed": os.listdir("/tmp"),
            "started": started.stdout.decode().strip()}
"""

TRACED = """
from aws_lambda_powertools import Logger, Tracer
logger, tracer = Logger(), Tracer()

@tracer.capture_method
def total(order):
    return sum(order["items"])

@logger.inject_lambda_context
@tracer.capture_lambda_handler
def handler(event, context):
    logger.info("order", extra={"items": event["items"]})
    return {"total": total(event), "where": tracer.__class__.__module__.partition(".")[0], "file": __file__}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("environment")
    for directory in ("code", "powertools"):
        (root / directory).mkdir()
    (root / "code" / "looks.py").write_text(LOOKS)
    (root / "powertools" / "traced.py").write_text(TRACED)
    installed = Path(aws_lambda_powertools.__path__[0]).parent
    for source in (installed / "aws_lambda_powertools", installed / "aws_xray_sdk"):
        shutil.copytree(source, root / "powertools" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "template.yaml").write_text(TEMPLATE.replace("python3.11", f"python3.{sys.version_info.minor}"))
    with serving(root / "template.yaml", root / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield node


@pytest.fixture(scope="module")
def laid(node: Any) -> bool:
    """Whether this kernel lets functions have a view of their own; if not, the node has said so."""
    looks = called(node, "looks")
    _, _, explained = node.request_raw("GET", f"/_glowplug/explain/{looks['environment']['id']}")
    refused = "no /tmp of its own" in explained or "no /var/task" in explained
    assert refused == ("functions have no" in node.log.read_text())
    return not refused


def called(node: Any, name: str, event: Any = None) -> Any:
    status, headers, answer = node.request("POST", f"/2015-03-31/functions/{name}/invocations", event)
    assert (200, None) == (status, headers.get("x-amz-function-error")), answer
    if isinstance(answer, dict) and "environment" in answer:
        answer["environment"]["id"] = headers["x-amzn-requestid"]
    return answer


def parked(node: Any, name: str) -> None:
    node.admin("POST", f"functions/{name}/cool", {"to": "parked"})
    assert "parked" == node.function(name)["tier"]


@pytest.mark.parametrize("name", ["looks", "alone"])
def test_code_layers_and_tmp_are_where_lambda_has_them(node: Any, laid: bool, name: str) -> None:
    client, packed = node.lambda_client(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("python/brought.py", "")
    layer = client.publish_layer_version(LayerName="brought", Content={"ZipFile": packed.getvalue()})
    client.update_function_configuration(FunctionName=name, Layers=[layer["LayerVersionArn"]])
    found = called(node, name)
    assert {"PYTHONPATH", "LD_LIBRARY_PATH", "AWS_XRAY_DAEMON_ADDRESS", "LAMBDA_RUNTIME_DIR"} <= set(
        found["environment"]
    )
    assert found["environment"]["AWS_ENDPOINT_URL_SQS"] == node.endpoint
    if not laid:
        assert found["environment"]["TMPDIR"] != "/tmp"
        return
    site = f"/opt/python/lib/python3.{sys.version_info.minor}/site-packages"
    assert ["/var/task", site, "/opt/python"] == found["path"]
    assert ("/var/task/looks.py", "/var/task") == (found["file"], found["cwd"])
    assert ("/var/task", "/var/runtime") == (found["environment"]["LAMBDA_TASK_ROOT"], found["started"].split(":")[0])
    assert (600 if name == "looks" else 512) << 20 == found["tmp"]


def test_its_cost_is_a_phase_of_the_start(node: Any, laid: bool) -> None:
    parked(node, "looks")
    request_id = called(node, "looks")["environment"]["id"]
    _, _, explained = node.request_raw("GET", f"/_glowplug/explain/{request_id}")
    assert ("namespace" in explained) == laid, explained


def test_powertools_logger_and_tracer_import_and_park(node: Any, laid: bool) -> None:
    assert 6 == called(node, "traced", {"items": [1, 2, 3]})["total"]
    assert "" == node.function("traced")["unparkable_reason"]
    parked(node, "traced")
    client = node.lambda_client()
    answer = client.invoke(FunctionName="traced", Payload=b'{"items": [4]}', LogType="Tail")
    assert 4 == json.loads(answer["Payload"].read())["total"]
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    [logged] = [json.loads(line) for line in lines if line.startswith('{"level"')]
    assert ("orders", "traced", [4]) == (logged["service"], logged["function_name"], logged["items"])
    assert not [line for line in lines if "cannot find the current segment" in line]


def test_json_logs_have_the_platforms_lines_and_the_authors(node: Any) -> None:
    client = node.lambda_client()
    client.update_function_configuration(
        FunctionName="alone", LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "INFO"}
    )
    answer = client.invoke(FunctionName="alone", Payload=b'"told"', LogType="Tail")
    start, told, report = map(json.loads, base64.b64decode(answer["LogResult"]).decode().splitlines())
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert ("platform.start", "platform.report", "success") == (
        start["type"],
        report["type"],
        report["record"]["status"],
    )
    assert ("told", 7, "INFO", request_id) == (told["message"], told["order"], told["level"], told["requestId"])
    failed = client.invoke(FunctionName="alone", Payload=b'"boom"', LogType="Tail")
    _, raised, *_, report = map(json.loads, base64.b64decode(failed["LogResult"]).decode().splitlines())
    assert ("ValueError", "error") == (raised["errorType"], report["record"]["status"])


def test_nothing_is_left_of_a_worker(node: Any) -> None:
    called(node, "looks")
    node.admin("POST", "functions/looks/cool", {"to": "stored"})
    assert not [name for name in os.listdir("/tmp") if name.startswith("glowplug-") and name.split("-")[1].isdigit()]
    assert not Path("/var/task").exists() or os.environ.get("LAMBDA_TASK_ROOT")
