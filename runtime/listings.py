"""From what the parts of a node know to what it lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .apis import DEFAULT_ROUTE, api_of
from .catalog import Catalog, Function
from .control import EngineListing, FunctionListing, GivenUpListing
from .events.figures import NO_EVENTS, Backlog
from .neighbours import EngineState
from .routing.enginefigures import EngineRow
from .routing.status import FunctionStatus


def function_listing(
    function: Function,
    state: FunctionStatus | None,
    engines: tuple[EngineListing, ...],
    endpoint: str,
    routes: Sequence[str] = (),
    backlog: Backlog = NO_EVENTS,
) -> FunctionListing:
    """Return a function as ``ls`` shows it; ``state`` is None for one that the router does not know (yet).

    ``endpoint`` is the control listener's URL, for the function's own; ``routes`` are what ``routes_of`` has of it,
    ``backlog`` is of its asynchronous events.
    """
    spec = function.spec
    url_ids = tuple(url.url_id for url in function.urls.values())
    return FunctionListing(
        name=spec.name,
        stack=function.stack,
        tier="stored" if state is None else state.tier,
        instances=0 if state is None else state.instances,
        busy=0 if state is None else state.busy,
        starting=0 if state is None else state.starting,
        draining=0 if state is None else state.draining,
        held=0 if state is None else state.held,
        engine="; ".join(engine.describe() for engine in engines),
        engines=engines,
        url_ids=url_ids,
        urls=tuple(f"{endpoint}/_url/{url_id}/" for url_id in url_ids),
        routes=tuple(routes),
        unparkable_reason="" if state is None else state.unparkable_reason,
        last_error="" if state is None else state.last_error,
        last_start_ms=None if state is None or state.last_start is None else state.last_start.total_ms,
        revision=spec.revision,
        version=spec.version,
        last_modified=function.latest.modified,
        memory_mb=spec.memory_mb,
        timeout_s=spec.timeout_s,
        events=backlog.events,
        oldest_event_s=backlog.oldest_s,
        event_retries=backlog.retries,
        dead_letters=backlog.dead_letters,
    )


def routes_of(catalog: Catalog, endpoint: str) -> dict[str, list[str]]:
    """Return the routes of all APIs by the function that each leads to, as method and URL."""
    found: dict[str, list[str]] = {}
    for key, document in catalog.documents.items():
        kind, _, api_id = key.partition("/")
        if kind != "api":
            continue
        api = api_of(api_id, document)
        for route in api.routes:
            path = "/" if route.path == DEFAULT_ROUTE else route.path
            if route.function:
                url = f"{endpoint}/_apis/{api_id}{api.root}{path}"
                found.setdefault(route.function, []).append(f"{route.method} {url}")
    return found


def engine_listing(status: EngineState, figures: tuple[EngineRow, ...]) -> EngineListing:
    """Return one model's engine; ``figures`` are live."""
    return EngineListing(
        model=status.model_name,
        engine=status.engine,
        state=status.state,
        phase=status.phase,
        fraction=status.fraction,
        reason=status.reason,
        measurements=status.measurements,
        given_up=tuple(GivenUpListing(one.engine, one.kind, one.reason) for one in status.given_up),
        figures=figures,
    )
