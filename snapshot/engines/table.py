"""The engines there are, by name."""

from __future__ import annotations

from ..errors import EngineUnavailable
from . import Engine
from .aot_inductor import AotInductor
from .eager import Eager

ENGINES: dict[str, type[Eager] | type[AotInductor]] = {Eager.name: Eager, AotInductor.name: AotInductor}


def create(name: str) -> Engine:
    """Return a new engine by name. Raises ``EngineUnavailable`` for an unknown one."""
    engine = ENGINES.get(name)
    if engine is None:
        raise EngineUnavailable(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    return engine()
