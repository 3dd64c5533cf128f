"""What a deploy will change: the node's stack against the template's. Pure, and printable before anything happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from glowplug.runtime.spec import FunctionSpec

Action = Literal["create", "update", "delete", "unchanged"]
_SIGNS: dict[Action, str] = {"create": "+", "update": "~", "delete": "-", "unchanged": "="}


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one function. ``fields`` name what differs (of an update only)."""

    action: Action
    logical_id: str
    function: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        detail = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{_SIGNS[self.action]} {self.function}{detail}"


def plan(current: Mapping[str, FunctionSpec], desired: Mapping[str, FunctionSpec]) -> list[Change]:
    """Return the changes that make ``current`` (by logical id, as the node has it) into ``desired``.

    Deletions come first, so that a function that is renamed frees what it held; the others in the template's order.
    Where a model's files were pinned is the node's knowledge and no difference.
    """
    changes = []
    kept = {spec.name for spec in desired.values()}
    held = {spec.name: spec for spec in current.values()}
    for logical_id, spec in current.items():
        if spec.name not in kept:
            changes.append(Change("delete", logical_id, spec.name))
    for logical_id, spec in desired.items():
        if spec.name not in held:
            changes.append(Change("create", logical_id, spec.name))
        elif fields := _differences(held[spec.name], spec):
            changes.append(Change("update", logical_id, spec.name, fields))
        else:
            changes.append(Change("unchanged", logical_id, spec.name))
    return changes


def _differences(held: FunctionSpec, wanted: FunctionSpec) -> tuple[str, ...]:
    before, after = _unpinned(held).to_json(), _unpinned(wanted).to_json()
    return tuple(name for name in after if before[name] != after[name])


def _unpinned(spec: FunctionSpec) -> FunctionSpec:
    return spec.resolved({model.name: () for model in spec.models})
