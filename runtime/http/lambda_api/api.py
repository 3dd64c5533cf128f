"""Answers Lambda's API: finds the operation of a request and lets it answer.

An operation of Lambda's that is not answered here is refused by name, in AWS's shape: a 404 would make a client believe
that its function is missing.
"""

from __future__ import annotations

import re

from glowplug.runtime.errors import NotSupported
from glowplug.runtime.http.messages import Reply, Request

from .authorization import authorize
from .call import Call, Services
from .routes import RouteTable
from .shapes import operation_at

API_PATH = re.compile(r"/20\d\d-\d\d-\d\d/")


class LambdaApi:
    """Answers requests whose path begins with an API version, such as ``/2015-03-31/``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._routes = RouteTable()

    async def answer(self, request: Request) -> Reply:
        """Dispatch on the raw path. Raises ``GlowplugError``, ``Forbidden`` for a signer who may not do this."""
        found = self._routes.find(request)
        if found is None:
            name = await operation_at(request.method, request.path)
            raise NotSupported(f"{name or f'{request.method} {request.path}'} is not supported")
        route, captured = found
        call = Call.of(route.name, request, captured)
        if request.principal is not None:
            authorize(request.principal, route.name, call, self._services)
        return await route.answer(self._services, call)
