"""Who may call through a function URL or a route of an API.

A URL of ``AWS_IAM`` needs a signature by somebody whom the function's policy, or the caller's own rights,
allow. A public URL needs a policy that lets everybody in, where the node enforces policies: AWS asks for it too, and
the SAM translator writes it. A route of ``AWS_IAM`` needs a signature by somebody of the API's own account with the
right to invoke: there are no policies of APIs. All refusals look the same to the client, as an AWS URL's do; the log
has the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.apis import Api
from glowplug.runtime.catalog import Url
from glowplug.runtime.errors import Forbidden, FunctionNotFound, NotAuthenticated
from glowplug.runtime.policies import allows_url, policy_of

from .authentication import Authenticator
from .invoking import Directory
from .messages import Request

log = logging.getLogger(__name__)

_Policy = Mapping[str, Any] | None


class Admission:
    """Lets callers in. ``authenticator`` of None: nobody's signature can be checked, so nothing of AWS_IAM is served.

    ``account_id`` is the functions' account.
    """

    def __init__(
        self,
        directory: Directory,
        authenticator: Authenticator | None,
        *,
        account_id: str,
        enforce_policies: bool,
    ) -> None:
        self._directory = directory
        self._authenticator = authenticator
        self._account_id = account_id
        self._enforce_policies = enforce_policies
        self._public: dict[str, tuple[_Policy, bool]] = {}

    async def to_url(self, request: Request, url: Url) -> Request:
        """Return ``request``, with its principal where the URL asks for one. Raises ``Forbidden``."""
        if url.auth_type == "NONE":
            if self._enforce_policies and not self._is_public(url):
                raise Forbidden("Forbidden")
            return request
        request = await self._authenticated(request, "lambda")
        if not allows_url(self._policy(url), request.principal, url.auth_type, self._account_id):
            log.info("request %s: %s may not call the URL %s", request.request_id, _name(request), url.url_id)
            raise Forbidden("Forbidden")
        return request

    async def to_route(self, request: Request, api: Api) -> Request:
        """Return ``request`` with its principal, who may call the routes of ``api`` that ask for a signature. Raises
        ``Forbidden``."""
        request = await self._authenticated(request, "execute-api")
        principal = request.principal
        if principal is None or principal.account_id != self._account_id or not principal.may("invoke"):
            log.info("request %s: %s may not call the API %s", request.request_id, _name(request), api.api_id)
            raise Forbidden("Forbidden")
        return request

    async def _authenticated(self, request: Request, service: str) -> Request:
        if self._authenticator is None:
            raise Forbidden("Forbidden")
        try:
            return await self._authenticator.authenticate(request, service)
        except NotAuthenticated as error:
            log.info("request %s: %s", request.request_id, error)
            raise

    def _policy(self, url: Url) -> _Policy:
        try:
            function = self._directory.get(url.function)
        except FunctionNotFound:
            return None
        return policy_of(function, url.qualifier)

    def _is_public(self, url: Url) -> bool:
        """Return what the policy says of everybody; read once, as policies are replaced and never changed."""
        policy = self._policy(url)
        known = self._public.get(url.url_id)
        if known is None or known[0] is not policy:
            known = self._public[url.url_id] = (policy, allows_url(policy, None, "NONE", self._account_id))
        return known[1]


def _name(request: Request) -> str:
    return "nobody" if request.principal is None else request.principal.arn
