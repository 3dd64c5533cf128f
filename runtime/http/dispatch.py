"""Which surface a request is for, by listener, host and raw path (design section 11).

    listener   host                     path                     answered by
    control    <url-id>.lambda-url.*    any                      that function
    control    <api-id>.execute-api.*   any                      that API
    control    ours                     /_url/<url-id>[/…]       that function
    control    ours                     /_apis/<api-id>[/…]      that API
    control    ours                     /_glowplug/download/…    a zip of code, by a link
    control    ours                     /_glowplug/…, /metrics   admin API
    control    ours                     /20yy-mm-dd/…            Lambda API
    control    ours                     /, /<account>/<queue>    SQS (POST with its X-Amz-Target)
    control    ours                     /                        EventBridge, SNS (POST with a target, or a form)
    public     <url-id>.lambda-url.*    any                      that function
    public     <api-id>.execute-api.*   any                      that API
    public     any                      /_url/<url-id>[/…]       that function
    public     any                      /_apis/<api-id>[/…]      that API
    anything else                                                403 (a host or origin), 404 (a path)

Host is matched first, so a host of a function or an API never reaches ``/_*`` or the Lambda API.

Where the node checks signatures, everything of ours on the control listener needs one, before anything else is made of
the request; function URLs and routes of APIs follow their own AuthType, and links to code carry a signature of the
node's own (``downloads.py``). ``/_glowplug/health`` without a signature says that the node is up and nothing more:
whoever restarts a node that does not answer has no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol
from urllib.parse import unquote

from glowplug.runtime import sigv4
from glowplug.runtime.errors import Forbidden, RequestError, ResourceNotFound

from .authentication import Authenticator
from .awsevents import AwsEvents, refusal_of, service_of
from .downloads import PREFIX as DOWNLOADS
from .downloads import Downloads
from .hosts import ControlGuard, api_id_of_host, hostname, url_id_of_host
from .lambda_api.api import API_PATH, LambdaApi
from .messages import Reply, Request, json_reply
from .sqs.api import SqsApi, is_for_sqs

Door = Literal["url", "api"]

_PREFIXES: Mapping[str, Door] = {"/_url/": "url", "/_apis/": "api"}
_HEALTH = "/_glowplug/health"


class Surface(Protocol):
    """What a listener serves."""

    async def answer(self, request: Request) -> Reply:
        """Return the response. Raises ``GlowplugError``."""


class Front(Protocol):
    """What answers the public: ``FunctionUrls`` and ``Gateway``."""

    def welcomes(self, front_id: str, origin: str, /) -> bool:
        """Return whether pages of ``origin`` are let in."""

    async def answer(self, request: Request, front_id: str, path: str, /) -> Reply:
        """Return the response to a request for the raw ``path`` of one URL or API. Raises ``GlowplugError``."""


class Call(NamedTuple):
    """Which URL or API a request is for, and the raw path below it."""

    door: Door
    front_id: str
    path: str


class PublicSurface:
    """The public listener: function URLs, APIs and nothing else. ``fronts`` answers for each."""

    def __init__(self, fronts: Mapping[Door, Front]) -> None:
        self._fronts = fronts

    async def answer(self, request: Request) -> Reply:
        """Run a function URL or a route. Raises ``Forbidden`` for every other path."""
        call = called_by_host(request) or called_by_path(request)
        if call is None:
            raise Forbidden("Forbidden")
        return await self._fronts[call.door].answer(request, call.front_id, call.path)


class ControlSurface:
    """The control listener: everything, for callers that are not tricked into it.

    ``authenticator`` of None: nobody needs a signature.
    """

    def __init__(
        self,
        fronts: Mapping[Door, Front],
        lambda_api: LambdaApi,
        admin: Surface,
        guard: ControlGuard,
        downloads: Downloads,
        authenticator: Authenticator | None = None,
        sqs: SqsApi | None = None,
        aws_events: AwsEvents | None = None,
    ) -> None:
        self._aws_events = aws_events
        self._fronts = fronts
        self._lambda_api = lambda_api
        self._admin = admin
        self._guard = guard
        self._downloads = downloads
        self._authenticator = authenticator
        self._sqs = sqs

    async def answer(self, request: Request) -> Reply:
        """Answer as the table above says. Raises ``Forbidden`` for foreign hosts and origins, and for those who may
        not ask."""
        call = called_by_host(request)
        if call is None:
            self._guard.check_host(hostname(request.host))
            call = called_by_path(request)
        if call is None or not self._welcomes(call, request):
            self._guard.check_origin(request.host, request.headers)
        if call is not None:
            return await self._fronts[call.door].answer(request, call.front_id, call.path)
        if request.path.startswith(DOWNLOADS):
            return await self._downloads.answer(request)
        for_sqs = self._sqs is not None and is_for_sqs(request)
        sender = None if self._aws_events is None else service_of(request)
        if self._authenticator is not None:
            if request.path == _HEALTH and not sigv4.is_signed(request.query, request.headers):
                return json_reply({"status": "ok"})
            service = "sqs" if for_sqs else sender or "lambda"
            try:
                request = await self._authenticator.authenticate(request, service)
            except RequestError as error:
                if sender is None:
                    raise
                return refusal_of(sender, error, request.request_id)
        if for_sqs and self._sqs is not None:
            return await self._sqs.answer(request)
        if sender is not None and self._aws_events is not None:
            return await self._aws_events.answer(request, sender)
        if API_PATH.match(request.path):
            return await self._lambda_api.answer(request)
        if request.path.startswith("/_glowplug/") or request.path == "/metrics":
            if request.principal is not None and not request.principal.may("control"):
                raise Forbidden(f"User: {request.principal.arn} is not authorized to control this node")
            return await self._admin.answer(request)
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    def _welcomes(self, call: Call, request: Request) -> bool:
        """Return whether the author of a URL or an API lets the page in that a browser says sent this."""
        origin = request.headers.get("origin")
        return origin is not None and self._fronts[call.door].welcomes(call.front_id, origin)


def called_by_host(request: Request) -> Call | None:
    """Return what is called when the host is a function's or an API's, else None.

    Any suffix will do, as the clients' DNS decides it. That a page can point such a name at a control listener gives it
    nothing that the function's author did not give away: a URL without authentication.
    """
    host = request.host.lower()
    if ".lambda-url" not in host and ".execute-api" not in host:
        return None
    host = hostname(host)
    if (url_id := url_id_of_host(host)) is not None:
        return Call("url", url_id, request.path)
    api_id = api_id_of_host(host)
    return None if api_id is None else Call("api", api_id, request.path)


def called_by_path(request: Request) -> Call | None:
    """Return what is called by ``/_url/<url-id>/…`` or ``/_apis/<api-id>/…``, else None."""
    for prefix, door in _PREFIXES.items():
        if request.path.startswith(prefix):
            front_id, slash, rest = request.path[len(prefix) :].partition("/")
            return Call(door, unquote(front_id), slash + rest or "/")
    return None
