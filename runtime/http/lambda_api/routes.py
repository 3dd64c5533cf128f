"""The operations of Lambda's API: where each is, and who answers it (spec 1.4).

Operations without an answer are refused by name, in AWS's shape: a 404 would make a client believe that its function is
missing. Paths are matched raw and each segment is decoded afterwards; one trailing slash is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glowplug.runtime.errors import NotSupported
from glowplug.runtime.http.messages import Request

from . import functions, invoke
from .call import Operation

_FUNCTION = "/2015-03-31/functions/{FunctionName}"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. ``answer`` of None: it is refused by name."""

    method: str
    template: str
    name: str
    answer: Operation | None = None


ROUTES: tuple[Route, ...] = (
    Route("POST", f"{_FUNCTION}/invocations", "Invoke", invoke.invoke),
    Route("GET", "/2015-03-31/functions", "ListFunctions", functions.list_functions),
    Route("GET", _FUNCTION, "GetFunction", functions.get_function),
    Route("GET", f"{_FUNCTION}/configuration", "GetFunctionConfiguration", functions.get_function_configuration),
)


@dataclass(slots=True)
class _Node:
    """A place in the tree of paths: what follows by name, what follows whatever it is called, and what is here."""

    named: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


class RouteTable:
    """Finds the operation of a request."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._root = _Node()
        for route in routes:
            node, captured = self._root, []
            for segment in route.template.strip("/").split("/"):
                if segment.startswith("{"):
                    captured.append(segment[1:-1])
                    node.any = node = node.any or _Node()
                else:
                    node = node.named.setdefault(segment, _Node())
            node.routes[route.method] = (route, tuple(captured))

    def find(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        """Return the operation and what its template captured. Raises ``NotSupported`` for an operation that is not
        answered, ``InvalidParameter`` for a path that is not UTF-8."""
        node: _Node | None = self._root
        values = []
        for segment in request.segments("/"):
            if node is None:
                break
            following = node.named.get(segment)
            if following is None:
                values.append(segment)
                following = node.any
            node = following
        found = None if node is None else node.routes.get(request.method)
        if found is None:
            raise NotSupported(f"{request.method} {request.path} is not supported")
        route, captured = found
        return route, dict(zip(captured, values, strict=True))
