"""Which route of an API a request takes. Pure.

Paths are matched as they were sent, segment by segment, so that an encoded slash never makes two segments of one. Of
all paths that match, the most specific decides: one without a greedy variable before one with, then, from the left, a
literal segment before a variable and a variable before a greedy one; ``$default`` comes last. On one path the request's
own method comes before ``ANY``.

Where the path that decides has no such method, the next one that matches is asked in an HTTP API, whose routes are
method and path together. In a REST API they are a tree of resources: the resource is found first, and one without the
method has no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from glowplug.runtime.apis import ANY, DEFAULT_ROUTE, Api, Route, segments_of, variable_of


@dataclass(frozen=True, slots=True)
class Match:
    """A route, and what its variables stand for in the path, as it was sent."""

    route: Route
    parameters: Mapping[str, str]


class RouteTable:
    """The routes of one API, made ready for requests."""

    def __init__(self, api: Api) -> None:
        self._falls_through = api.protocol == "HTTP"
        self._default = next((route for route in api.routes if route.path == DEFAULT_ROUTE), None)
        paths: dict[str, dict[str, Route]] = {}
        for route in api.routes:
            if route is not self._default:
                paths.setdefault(route.path, {})[route.method] = route
        self._paths = sorted((_Path(path, methods) for path, methods in paths.items()), key=lambda one: one.rank)

    def find(self, method: str, path: str) -> Match | None:
        """Return the route of a request below the stage; ``path`` begins with a slash. None: there is none.

        A REST API takes ``/items/`` for ``/items``, an HTTP API does not (both as on AWS).
        """
        if not self._falls_through and path != "/":
            path = path.removesuffix("/")
        segments = segments_of(path)
        for one in self._paths:
            parameters = one.match(segments)
            if parameters is None:
                continue
            route = one.methods.get(method) or one.methods.get(ANY)
            if route is not None:
                return Match(route, parameters)
            if not self._falls_through:
                return None
        return None if self._default is None else Match(self._default, {})


class _Path:
    """One path template with the routes of its methods. ``rank`` sorts the most specific first."""

    def __init__(self, template: str, methods: Mapping[str, Route]) -> None:
        self.methods = methods
        self._segments = segments_of(template)
        self._variables = tuple(variable_of(segment) for segment in self._segments)
        self._greedy = bool(self._variables) and self._variables[-1].endswith("+")
        self.rank = (self._greedy, tuple(_weights(self._variables)), template)

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """Return what the variables stand for, each for something, or None where the path is another one."""
        count = len(self._segments)
        if len(segments) != count and not (self._greedy and len(segments) > count):
            return None
        parameters = {}
        for number, (literal, variable) in enumerate(zip(self._segments, self._variables, strict=True)):
            given = segments[number]
            if not variable:
                if given != literal and unquote(given) != literal:
                    return None
            elif self._greedy and number == count - 1:
                parameters[variable[:-1]] = "/".join(segments[number:])
            else:
                parameters[variable] = given
        return parameters if all(parameters.values()) else None


def _weights(variables: Iterable[str]) -> Iterable[int]:
    for variable in variables:
        yield 0 if not variable else 2 if variable.endswith("+") else 1
