"""What stacks share: one exports text under a name, others import it. Decided where a stack is put or taken out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import Conflict


def shared(
    catalog: Catalog, stack: str, exports: Mapping[str, str], imports: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a stack exports, and which stack each of its imports is from.

    Raises ``Conflict`` for a name that another stack exports, for an import that nobody exports, and where others
    import what is not exported any more.
    """
    owners = {name: other.name for other in catalog.stacks.values() if other.name != stack for name in other.exports}
    for name in exports:
        if name in owners:
            raise Conflict(f"{name} is exported by the stack {owners[name]} already")
    refuse_missing(catalog, stack, exports)
    for name in imports:
        if name not in owners:
            raise Conflict(f"Fn::ImportValue: no stack exports {name}")
    return dict(exports), {name: owners[name] for name in imports}


def refuse_missing(catalog: Catalog, stack: str, exports: Mapping[str, str]) -> None:
    """Raise ``Conflict`` where another stack imports of ``stack`` what is not in ``exports``."""
    for other in catalog.stacks.values():
        for name, owner in other.imports.items():
            if owner == stack and other.name != stack and name not in exports:
                raise Conflict(f"{name} is imported by the stack {other.name}: change or destroy that one first")
