"""What a replay has at hand: clients, functions that are active when it goes on, and a place for its answers."""

from __future__ import annotations

import functools
import io
import time
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ACCOUNT, REGION = "111111111111", "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/lambda-role"
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:"
ECHO = "def handler(event, context):\n    return event\n"
LAYER = "VALUE = 1\n"
VERSION = "def handler(event, context):\n    return context.function_version\n"

Replay = Callable[["Stage"], None]
REPLAYS: dict[str, Replay] = {}
"""By the id of the recorded test, without its file."""


def replay(*ids: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a replay under the id of what it replays. With several ids, or one in brackets, it is called with what
    stands in the brackets."""

    def register(make: Callable[..., None]) -> Callable[..., None]:
        for name in ids:
            _, bracket, case = name.partition("[")
            REPLAYS[name] = functools.partial(make, case=case[:-1]) if bracket else make
        return make

    return register


@functools.cache
def archive(text: str = ECHO, name: str = "handler.py") -> bytes:
    """Return a zip of one file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
    return data.getvalue()


class Stage:
    """One replay on one node. ``answers`` has what it got, by the key under which it is recorded."""

    def __init__(self, endpoint: str, s3: Any, bucket: str) -> None:
        settings: dict[str, Any] = {
            "endpoint_url": endpoint, "region_name": REGION, "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }  # fmt: skip
        patient: dict[str, Any] = {"retries": {"max_attempts": 0}, "read_timeout": 60}
        self.client = boto3.client("lambda", **settings, config=Config(**patient))
        self.loose = boto3.client("lambda", **settings, config=Config(**patient, parameter_validation=False))
        self.sqs = boto3.client("sqs", **settings)
        self.s3, self.bucket = s3, bucket
        self.answers: dict[str, Any] = {}
        self.known: dict[str, str] = {"partition": "aws", "region": REGION}

    def name(self, prefix: str = "fn") -> str:
        """Return a name that nobody has."""
        return f"{prefix}-{uuid.uuid4().hex[:8]}"

    def queue(self) -> str:
        """Make a queue and return its ARN."""
        name = self.name("queue")
        self.sqs.create_queue(QueueName=name)
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"

    def keep(self, key: str, answer: Any) -> Any:
        """Remember an answer under its key and return it."""
        self.answers[key] = answer
        return answer

    def refused(self, key: str, call: Callable[..., Any], **arguments: Any) -> None:
        """Remember how a call is refused."""
        try:
            answer = call(**arguments)
        except ClientError as error:
            self.keep(key, error.response)
        else:
            self.keep(key, answer)

    def raw(self, name: str, **more: Any) -> Any:
        """Create a function as it is asked for, wait until it is active, and return CreateFunction's answer."""
        given = {
            "FunctionName": name, "Handler": "index.handler", "Code": {"ZipFile": archive(name="index.py")},
            "PackageType": "Zip", "Role": ROLE, "Runtime": "python3.12", **more,
        }  # fmt: skip
        answer = self.client.create_function(**given)
        self.settle(name)
        return answer

    def create(self, name: str, handler: str = "handler.handler", **more: Any) -> Any:
        """As ``raw``, with what most of the recordings begin with, and in the form that they have it in."""
        begun = {"Handler": handler, "Code": {"ZipFile": archive()}, "Environment": {"Variables": {}}, "Timeout": 30}
        answer = self.raw(name, **{**begun, **more})
        return {"CreateFunctionResponse": answer, "CreateEventSourceMappingResponse": None}

    def settle(self, name: str) -> None:
        """Wait until nothing of a function is under way, nor of one of its versions."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            versions = self.client.list_versions_by_function(FunctionName=name)["Versions"]
            found = [
                self.client.get_function_configuration(FunctionName=name, Qualifier=version["Version"])
                for version in versions
            ]
            if all(one["State"] != "Pending" and one.get("LastUpdateStatus") != "InProgress" for one in found):
                return
            time.sleep(0.005)
        raise TimeoutError(f"{name} is {found}")

    def update(self, name: str, **more: Any) -> Any:
        """Change a function's configuration, wait until that is done, and return the first answer."""
        answer = self.client.update_function_configuration(FunctionName=name, **more)
        self.settle(name)
        return answer

    def update_code(self, name: str, **more: Any) -> Any:
        """Change a function's code, wait until that is done, and return the first answer."""
        answer = self.client.update_function_code(FunctionName=name, **more)
        self.settle(name)
        return answer

    def clear(self) -> None:
        """Delete every function and mapping."""
        for page in self.client.get_paginator("list_event_source_mappings").paginate():
            for mapping in page["EventSourceMappings"]:
                self.client.delete_event_source_mapping(UUID=mapping["UUID"])
        for page in self.client.get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                self.client.delete_function(FunctionName=function["FunctionName"])
