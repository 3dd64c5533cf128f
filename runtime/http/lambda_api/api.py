"""Answers Lambda's API: finds the operation of a request and lets it answer."""

from __future__ import annotations

import re

from glowplug.runtime.errors import NotSupported
from glowplug.runtime.http.messages import Reply, Request

from .authorization import authorize
from .call import Call, Services
from .routes import RouteTable

API_PATH = re.compile(r"/20\d\d-\d\d-\d\d/")


class LambdaApi:
    """Answers requests whose path begins with an API version, such as ``/2015-03-31/``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._routes = RouteTable()

    async def answer(self, request: Request) -> Reply:
        """Dispatch on the raw path. Raises ``GlowplugError``, ``Forbidden`` for a signer who may not do this."""
        route, captured = self._routes.find(request)
        call = Call.of(route.name, request, captured)
        if request.principal is not None:
            authorize(request.principal, route.name, call, self._services)
        if route.answer is None:
            raise NotSupported(f"{route.name} is not supported")
        return await route.answer(self._services, call)
