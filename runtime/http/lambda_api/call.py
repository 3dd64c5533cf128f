"""What an operation gets: the request as the route captured it, and what of the node it may ask."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import parse_qs

from glowplug.runtime.catalog import Catalog, iso_time, lambda_time
from glowplug.runtime.clock import Clock
from glowplug.runtime.config import Limits
from glowplug.runtime.deployments import Allocation
from glowplug.runtime.errors import InvalidParameter, InvalidRequestContent, RequestTooLarge
from glowplug.runtime.events.accepting import Acceptor
from glowplug.runtime.events.mapping.pollers import MappingStatus
from glowplug.runtime.http import names
from glowplug.runtime.http.downloads import Downloads
from glowplug.runtime.http.invoking import Directory, Invoke
from glowplug.runtime.http.messages import Reply, Request, parse_json
from glowplug.runtime.http.streaming import Streams
from glowplug.runtime.management.site import Site
from glowplug.runtime.neighbours import MappingQueues
from glowplug.runtime.packages import Packages
from glowplug.runtime.registry import Decide

from .constraints import Body
from .retries import Retries
from .shapes import shaped

T = TypeVar("T")

_UNQUALIFIED = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please "
    "specify either a function name or an unqualified function ARN."
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an operation. ``path`` has what the route's template captured, decoded; ``queries`` every value of
    each name."""

    operation: str
    request: Request
    path: Mapping[str, str]
    queries: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, operation: str, request: Request, path: Mapping[str, str]) -> Call:
        """Take the query apart."""
        return cls(operation, request, path, parse_qs(request.query, keep_blank_values=True) if request.query else {})

    def query(self, name: str) -> str | None:
        """Return a query parameter, the last of its name, or None."""
        values = self.queries.get(name)
        return values[-1] if values else None

    async def body(self, limit_bytes: int) -> Body:
        """Return the JSON object of the body, in the operation's shape, empty for an empty body.

        Raises ``InvalidRequestContent`` for anything else, ``RequestTooLarge``.
        """
        try:
            data = await self.request.read(limit_bytes)
        except RequestTooLarge as error:  # in this operation's words (recorded)
            raise RequestTooLarge(
                f"Request must be smaller than {limit_bytes} bytes for the {self.operation} operation"
            ) from error
        try:
            value = parse_json(data) if data else {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequestContent(f"Could not parse request body into json: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequestContent(
                f"Could not parse request body into json: {json.dumps(value)[:40]} is no object"
            )
        return Body(await shaped(self.operation, value))


class Changes(Protocol):
    """What is deployed, and the way to change it. ``Deployments`` is one."""

    @property
    def catalog(self) -> Catalog:
        """What is deployed now."""

    async def change(self, decide: Decide[T], *, about: str = "change") -> T:
        """Make the catalog what ``decide`` says and return what it says to return."""

    def allocation(self, name: str, qualifier: str) -> Allocation | None:
        """Return how far the instances are that are provisioned for a version or an alias; None where none are."""


class MappingPollers(Protocol):
    """Event source mappings at work. ``Pollers`` is one."""

    def status(self, uuid: str) -> MappingStatus:
        """Return how a mapping is."""


@dataclass(frozen=True, slots=True)
class Services:
    """What operations ask of the node. ``endpoint`` returns the control listener's URL; ``foreign``: functions of
    other runtimes are stored; ``webhook_hosts`` is the setting (``http/webhooks.py``)."""

    directory: Directory
    deployments: Changes
    invoke: Invoke
    events: Acceptor
    retries: Retries
    streams: Streams
    clock: Clock
    limits: Limits
    region: str
    account_id: str
    endpoint: Callable[[], str]
    packages: Packages
    downloads: Downloads
    sources: MappingQueues
    pollers: MappingPollers
    foreign: bool = False
    webhook_hosts: Sequence[str] = ()

    @property
    def arn_prefix(self) -> str:
        """What the ARN of a function has in front of its name."""
        return f"arn:aws:lambda:{self.region}:{self.account_id}:function:"

    @property
    def layer_prefix(self) -> str:
        """What the ARN of a layer has in front of its name."""
        return f"arn:aws:lambda:{self.region}:{self.account_id}:layer:"

    def site(self) -> Site:
        """Return where and when a decision is made."""
        now_s = self.clock.time()
        return Site(self.arn_prefix, self.layer_prefix, lambda_time(now_s), iso_time(now_s), now_s)

    def parse(self, call: Call) -> names.FunctionRef:
        """Return the function that a call names, with its qualifier. Raises as ``names.parse``."""
        given, qualifier = call.path["FunctionName"], call.query("Qualifier")
        return names.parse(given, qualifier, region=self.region, account_id=self.account_id)

    def parse_unqualified(self, call: Call) -> names.FunctionRef:
        """Return the function that a call names. Raises ``InvalidParameter`` when it names a version or an alias."""
        ref = self.parse(call)
        if ref.given:
            raise InvalidParameter(_UNQUALIFIED)
        return ref

    async def body(self, call: Call) -> Body:
        """Return the body of a management operation, for reading."""
        return await call.body(self.limits.sync_request_bytes)


Operation = Callable[[Services, Call], Awaitable[Reply]]
"""Answers one operation of the API. Raises ``GlowplugError``."""
