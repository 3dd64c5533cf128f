"""Which surface a request is for, by listener, host and raw path (design section 11).

    listener   host                     path                     answered by
    control    <url-id>.lambda-url.*    any                      that function
    control    ours                     /_url/<url-id>[/…]       that function
    control    ours                     /_glowplug/…, /metrics   admin API
    control    ours                     /20yy-mm-dd/…            Lambda API
    control    ours                     /, /<account>/<queue>    SQS (POST with its X-Amz-Target)
    public     <url-id>.lambda-url.*    any                      that function
    public     any                      /_url/<url-id>[/…]       that function
    anything else                                                403 (a host or origin), 404 (a path)

Host is matched first, so a function's host never reaches ``/_*`` or the API.

Where the node checks signatures, everything of ours on the control listener needs one, before anything else is made of
the request; function URLs follow their own AuthType. ``/_glowplug/health`` without a signature says that the node is up
and nothing more: whoever restarts a node that does not answer has no key.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import unquote

from glowplug.runtime import sigv4
from glowplug.runtime.errors import Forbidden, ResourceNotFound

from .authentication import Authenticator
from .function_url import FunctionUrls
from .hosts import ControlGuard, hostname, url_id_of_host
from .lambda_api.api import API_PATH, LambdaApi
from .messages import Reply, Request, json_reply
from .sqs.api import SqsApi, is_for_sqs

_URL_PREFIX = "/_url/"
_HEALTH = "/_glowplug/health"


class Surface(Protocol):
    """What a listener serves."""

    async def answer(self, request: Request) -> Reply:
        """Return the response. Raises ``GlowplugError``."""


class PublicSurface:
    """The public listener: function URLs and nothing else."""

    def __init__(self, urls: FunctionUrls) -> None:
        self._urls = urls

    async def answer(self, request: Request) -> Reply:
        """Run a function URL. Raises ``Forbidden`` for every other path."""
        call = called_by_host(request) or called_by_path(request)
        if call is None:
            raise Forbidden("Forbidden")
        return await self._urls.answer(request, *call)


class ControlSurface:
    """The control listener: everything, for callers that are not tricked into it.

    ``authenticator`` of None: nobody needs a signature.
    """

    def __init__(
        self,
        urls: FunctionUrls,
        lambda_api: LambdaApi,
        admin: Surface,
        guard: ControlGuard,
        authenticator: Authenticator | None = None,
        sqs: SqsApi | None = None,
    ) -> None:
        self._urls = urls
        self._lambda_api = lambda_api
        self._admin = admin
        self._guard = guard
        self._authenticator = authenticator
        self._sqs = sqs

    async def answer(self, request: Request) -> Reply:
        """Answer as the table above says. Raises ``Forbidden`` for foreign hosts and origins, and for those who may
        not ask."""
        self._guard.check_origin(request.host, request.headers)
        call = called_by_host(request)
        if call is None:
            self._guard.check_host(hostname(request.host))
            call = called_by_path(request)
        if call is not None:
            return await self._urls.answer(request, *call)
        for_sqs = self._sqs is not None and is_for_sqs(request)
        if self._authenticator is not None:
            if request.path == _HEALTH and not sigv4.is_signed(request.query, request.headers):
                return json_reply({"status": "ok"})
            request = await self._authenticator.authenticate(request, "sqs" if for_sqs else "lambda")
        if for_sqs and self._sqs is not None:
            return await self._sqs.answer(request)
        if API_PATH.match(request.path):
            return await self._lambda_api.answer(request)
        if request.path.startswith("/_glowplug/") or request.path == "/metrics":
            if request.principal is not None and not request.principal.may("control"):
                raise Forbidden(f"User: {request.principal.arn} is not authorized to control this node")
            return await self._admin.answer(request)
        raise ResourceNotFound(f"Nothing is served at {request.path}")


def called_by_host(request: Request) -> tuple[str, str] | None:
    """Return (URL id, raw path) when the host is a function's, else None.

    Any suffix will do, as the clients' DNS decides it. That a page can point such a name at a control listener gives it
    nothing that the function's author did not give away: a URL without authentication.
    """
    if ".lambda-url" not in request.host.lower():
        return None
    url_id = url_id_of_host(hostname(request.host))
    return None if url_id is None else (url_id, request.path)


def called_by_path(request: Request) -> tuple[str, str] | None:
    """Return (URL id, raw path after it) of ``/_url/<url-id>/…``, else None."""
    if not request.path.startswith(_URL_PREFIX):
        return None
    url_id, slash, rest = request.path[len(_URL_PREFIX) :].partition("/")
    return unquote(url_id), slash + rest or "/"
