"""What strangers may send to the management API: whatever it is, no operation fails at it, and what is answered has the
shape that botocore's model of Lambda says. Requests are drawn from that model, now and then with something else in a
member's place; several in a row, so that they find what others before them left."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glowplug.runtime.catalog import Alias
from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.http.downloads import Downloads
from glowplug.runtime.http.lambda_api.api import LambdaApi
from glowplug.runtime.http.lambda_api.call import Services
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.http.lambda_api.routes import ROUTES, Route
from glowplug.runtime.http.messages import Request
from glowplug.runtime.http.streaming import Streams
from glowplug.runtime.management.publishing import publish
from glowplug.runtime.packages import Packages
from glowplug.runtime.routing.tasks import OwnedTasks
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import FakeAcceptor, FakeMappings, ManualClock
from glowplug.runtime.testing.deployed import MODIFIED, Deployed, a_function

MODEL = ServiceModel(Loader().load_service_model("lambda", "service-2"))
ECHO = FunctionSpec(name="echo", handler="echo.handler", runtime="python3.11", code_digest="ab" * 32)
ARN = "arn:aws:lambda:us-east-1:000000000000:"
MANAGED = [route for route in ROUTES if not route.name.startswith("Invoke")]
SAID_ALL_THE_SAME = {"Creating"}  # a LastUpdateStatusReasonCode that AWS was recorded with, and its model lacks
ANSWERED_AS: dict[str, Any] = {
    "string": str,
    "blob": str,
    "boolean": bool,
    "timestamp": (str, int, float),
    "float": (int, float),
    "double": (int, float),
}

with io.BytesIO() as _file:
    with zipfile.ZipFile(_file, "w") as _zip:
        _zip.writestr("echo.py", "def handler(event, context):\n    return event\n")
    ZIP = base64.b64encode(_file.getvalue()).decode()

known = st.sampled_from(
    ["echo", "live", "1", "$LATEST", "python3.12", "echo.handler", f"{ARN}function:echo", f"{ARN}layer:tools:1", "tools",
     "arn:aws:sqs:us-east-1:000000000000:q", "arn:aws:kinesis:us-east-1:000000000000:stream/s", "000000000000", "*",
     "arn:aws:iam::000000000000:role/r", "lambda:InvokeFunction", "s3.amazonaws.com", "UEsFBg==", '{"a": [1]}',
     "[" * 3000, '{"a":' * 700 + "[1]" + "}" * 700]
)  # fmt: skip
anything = st.one_of(
    known, st.text(max_size=12), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["a", "Name"]), st.integers(), max_size=1),
)  # fmt: skip
LIKELY: dict[str, list[Any]] = {
    "FunctionName": ["echo", "echo", "echo", "new", f"{ARN}function:echo"], "Qualifier": ["live", "1"],
    "Name": ["live", "next"], "FunctionVersion": ["1", "$LATEST"], "Runtime": ["python3.12"],
    "Role": ["arn:aws:iam::000000000000:role/r"], "Handler": ["echo.handler"], "Code": [{"ZipFile": ZIP}],
    "Content": [{"ZipFile": ZIP}], "ZipFile": [ZIP], "Action": ["lambda:InvokeFunction"], "StatementId": ["s1", "s2"],
    "Principal": ["s3.amazonaws.com", "000000000000", "*"], "LayerName": ["tools"], "VersionNumber": [1],
    "Resource": [f"{ARN}function:echo"], "Tags": [{"a": "b"}], "TagKeys": [["a"]], "Enabled": [False],
    "EventSourceArn": ["arn:aws:sqs:us-east-1:000000000000:q"], "ProvisionedConcurrentExecutions": [1, 2**31 - 1],
    "ReservedConcurrentExecutions": [0, 5], "MaximumRetryAttempts": [1], "UUID": ["UUID"], "PackageType": ["Zip"],
    "Layers": [[f"{ARN}layer:tools:1"]], "RevisionId": ["rev"], "InvokeMode": ["BUFFERED"], "Marker": ["1"],
    "Architectures": [["x86_64"]], "Arn": [f"{ARN}layer:tools:1"], "SourceArn": ["arn:aws:s3:::bucket"],
    "UpdateRuntimeOn": ["Auto"], "MaxItems": [1], "MemorySize": [256], "Timeout": [5], "List": ["ALL"],
}  # fmt: skip
"""By member: what operations take, drawn more often than not."""


F = "/2015-03-31/functions/echo"
BEFORE: list[tuple[str, str, str, dict[str, Any]]] = [
    ("CreateFunctionUrlConfig", "/2021-10-31/functions/echo/url", "Qualifier=live", {"AuthType": "NONE"}),
    ("AddPermission", f"{F}/policy", "Qualifier=live",
     {"StatementId": "s1", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"}),
    ("PublishLayerVersion", "/2018-10-31/layers/tools/versions", "", {"Content": {"ZipFile": ZIP}}),
    ("PutFunctionEventInvokeConfig", "/2019-09-25/functions/echo/event-invoke-config", "Qualifier=live",
     {"MaximumRetryAttempts": 1}),
    ("CreateEventSourceMapping", "/2015-03-31/event-source-mappings", "",
     {"FunctionName": "echo", "EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:q", "Enabled": False}),
    ("PutProvisionedConcurrencyConfig", "/2019-09-30/functions/echo/provisioned-concurrency", "Qualifier=live",
     {"ProvisionedConcurrentExecutions": 1}),
    ("TagResource", f"/2017-03-31/tags/{quote(f'{ARN}function:echo', safe='')}", "", {"Tags": {"a": "b"}}),
]  # fmt: skip
"""One of each kind, there before anything is drawn."""


def value(shape: Shape, name: str = "") -> st.SearchStrategy[Any]:
    """Return what may stand for a member: what is likely, what is of its kind, and now and then anything."""

    def chosen(luck: int) -> st.SearchStrategy[Any]:
        if luck == 0:
            return anything
        return st.sampled_from(LIKELY[name]) if luck > 3 and name in LIKELY else _proper(shape)

    return st.integers(0, 29).flatmap(chosen)


def _proper(shape: Shape) -> st.SearchStrategy[Any]:
    kind = shape.type_name
    if kind == "structure":
        return _structure(shape)
    if kind == "list":
        return st.lists(value(shape.member), max_size=2)
    if kind == "map":
        return st.dictionaries(known, value(shape.value), max_size=2)
    if kind == "boolean":
        return st.booleans()
    if kind in ("integer", "long", "float", "double", "timestamp"):
        return st.one_of(st.integers(-2, 12), st.sampled_from([128, 512, 10**4, 2**31 - 1, 10**30]))
    allowed = shape.metadata.get("enum")
    return st.one_of(known, st.sampled_from(allowed)) if allowed else known


@st.composite
def _structure(draw: st.DrawFn, shape: Shape) -> dict[str, Any]:
    """Draw what is required and a few members more: with all of them, one would always be refused."""
    optional = [name for name in shape.members if name not in shape.required_members]
    more = draw(st.lists(st.sampled_from(optional), max_size=3, unique=True)) if optional else []
    return {name: draw(value(shape.members[name], name)) for name in [*shape.required_members, *more]}


@st.composite
def calls(draw: st.DrawFn) -> tuple[Route, str, str, bytes]:
    """Draw a request: its operation, path, query and body."""
    route = draw(st.sampled_from(MANAGED))
    shape = MODEL.operation_model(route.name).input_shape
    given = {} if shape is None else draw(_proper(shape))
    path, query, body = route.template, [], {}
    for name, member in given.items() if shape is not None and isinstance(given, dict) else ():
        where = shape.members[name].serialization.get("location")
        wire = shape.members[name].serialization.get("name", name)
        if where == "uri":
            path = path.replace(f"{{{wire}}}", quote(str(member)[:300] or "x", safe=""))
        elif where == "querystring":
            query += [(wire, str(one)) for one in (member if isinstance(member, list) else [member])]
        elif where is None:
            body[wire] = member
    for _ in range(path.count("{")):  # what the model calls otherwise
        path = (
            path[: path.index("{")]
            + draw(st.sampled_from(["echo", "tools", "1", "live"]))
            + path[path.index("}") + 1 :]
        )
    sent = b"" if route.method in ("GET", "DELETE") else json.dumps(body).encode()
    return route, path, urlencode(query, errors="surrogatepass"), sent


class Content:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.content = self

    async def readany(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def at_eof(self) -> bool:
        return not self._data


def misshapen(operation: OperationModel, answer: Any) -> Iterator[str]:
    """Yield what of an answer's JSON the model does not have, or has otherwise."""
    shape = operation.output_shape
    return iter(()) if shape is None else _misshapen(shape, answer, operation.name)


def _misshapen(shape: Shape, found: Any, where: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(found, dict):
            yield f"{where}: {found!r:.80} is no object"
            return
        for name, member in found.items():
            if name not in shape.members:
                yield f"{where}.{name} is not in the model"
            elif member is not None:
                yield from _misshapen(shape.members[name], member, f"{where}.{name}")
    elif kind == "list" and isinstance(found, list):
        for item in found:
            yield from _misshapen(shape.member, item, f"{where}[]")
    elif kind == "map" and isinstance(found, dict):
        for item in found.values():
            yield from _misshapen(shape.value, item, f"{where}{{}}")
    elif kind in ("integer", "long"):
        if isinstance(found, bool) or not isinstance(found, int):
            yield f"{where}: {found!r:.80} is no {kind}"
    elif not isinstance(found, ANSWERED_AS.get(kind, ())):
        yield f"{where}: {found!r:.80} is no {kind}"
    elif shape.metadata.get("enum") and kind == "string" and found not in {*shape.metadata["enum"], *SAID_ALL_THE_SAME}:
        yield f"{where}: {found!r:.80} is none of {shape.metadata['enum']}"


@pytest.mark.timeout(120)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=st.lists(calls(), min_size=1, max_size=6))
async def test_no_request_of_the_model_fails_and_answers_are_in_shape(
    requests: list[tuple[Route, str, str, bytes]], tmp_path: Path
) -> None:
    echo, version = publish(a_function(ECHO), new_id=lambda: "r1", now=MODIFIED)
    deployed = Deployed(replace(echo, aliases={"live": Alias("live", version.number, "r2")}))
    limits = Limits()
    store = CodeStore(tmp_path, limits)  # of all examples: what one has stored is not written and synced again

    async def unused(invocation: object) -> Any:
        raise AssertionError("nothing is invoked here")

    clock = ManualClock()
    services = Services(
        directory=deployed, deployments=deployed, invoke=unused, events=FakeAcceptor(), retries=Retries(clock), clock=clock, limits=limits,
        streams=Streams(unused, OwnedTasks(), clock=clock, limits=limits),
        region="us-east-1", account_id="000000000000", endpoint=lambda: "http://127.0.0.1:9000",
        packages=Packages(store, limits, client=_no_s3), downloads=Downloads(store, b"", ManualClock()),
        sources=FakeMappings(), pollers=FakeMappings(),
    )  # fmt: skip
    api = LambdaApi(services)
    for name, path, query, body in BEFORE:
        route = next(route for route in MANAGED if route.name == name)
        refused = await ask(api, deployed, route, path, query, json.dumps(body).encode())
        assert refused is None, f"{name}: {refused}"
    for drawn in requests:
        await ask(api, deployed, *drawn)


async def ask(
    api: LambdaApi, deployed: Deployed, route: Route, path: str, query: str, body: bytes
) -> GlowplugError | None:
    """Make a request, check what is answered, and return how it was refused."""
    mapped = [key.partition("/")[2] for key in deployed.catalog.documents if key.startswith("event-source")]
    path = path.replace("UUID", mapped[0] if mapped else "none")
    raw: Any = Content(body)
    headers = {"content-length": str(len(body))}
    request = Request("r", route.method, path, query, "localhost", headers, "HTTP/1.1", "127.0.0.1", 1, 1.0, raw)
    about = f"{route.name} {path} {query} {body[:300]!r}"
    refused: GlowplugError | None = None
    try:
        reply = await api.answer(request)
    except GlowplugError as error:
        refused = error
    if refused is not None:
        assert refused.status < 500, f"{about}: {refused}"
        return refused
    answer = json.loads(reply.body) if reply.body else {}
    assert [] == list(misshapen(MODEL.operation_model(route.name), answer)), about
    return None


def _no_s3() -> Any:
    from botocore.exceptions import NoCredentialsError

    raise NoCredentialsError
