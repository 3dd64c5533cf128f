"""boto3 gives up waiting, asks again, and gets the result of the one run that it began."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any

import boto3
from botocore.config import Config


def test_a_read_timeout_of_boto3_does_not_run_the_function_twice(misbehaving: Any) -> None:
    impatient = boto3.client(
        "lambda", endpoint_url=misbehaving.endpoint, region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
        config=Config(read_timeout=1, retries={"mode": "standard", "max_attempts": 6}),
    )  # fmt: skip
    before = starts(misbehaving)
    event = {"seconds": 3, "call": str(uuid.uuid4())}
    answer = impatient.invoke(FunctionName="sleeps", Payload=json.dumps(event), LogType="Tail")
    assert json.loads(answer["Payload"].read()) == event
    assert answer["ResponseMetadata"]["RetryAttempts"] >= 1
    ran = answer["ResponseMetadata"]["RequestId"]
    assert f"START RequestId: {ran}" in base64.b64decode(answer["LogResult"]).decode()
    assert starts(misbehaving) == [*before, ran]


def starts(node: Any) -> list[str]:
    """Return the request ids that the function has begun with."""
    log = node.request_raw("GET", "/_glowplug/functions/sleeps/logs?last=10000")[2]
    return re.findall(r"START RequestId: (\S+)", log)
