"""Several templates for one node: each is a stack of its own, and all are translated before anything is sent.

They are taken in the order given: what one exports, those after it may import.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import ARCHITECTURE
from glowplug.runtime.stacks import StackRequest, notes

from . import parameters as template_parameters
from .account import Account
from .errors import StrictRefusal, TemplateError
from .expansion import expand
from .packaged import Fetch, fetched
from .supported import check
from .template import Template, load
from .translate import Stack, translate

_STACK_NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class Site:
    """What translating needs to know of a node.

    ``exports`` is (text, stack) by name and ``functions`` the stack of each function; both are None where there is no
    node to ask. ``runtimes`` are the Pythons that it has.
    """

    endpoint: str = "http://127.0.0.1:9000"
    exports: Mapping[str, tuple[str, str]] | None = None
    functions: Mapping[str, str] = field(default_factory=dict)
    runtimes: Container[str] = ()
    architecture: str = ARCHITECTURE

    @classmethod
    def of(cls, endpoint: str, stacks: Sequence[Mapping[str, Any]], health: Mapping[str, Any]) -> Site:
        """Return what a node's answers say of it."""
        return cls(
            endpoint,
            {name: (text, one["Name"]) for one in stacks for name, text in (one.get("Exports") or {}).items()},
            {name: one["Name"] for one in stacks for name in (one.get("Functions") or {}).values()},
            health.get("runtimes") or (),
            health.get("architecture") or ARCHITECTURE,
        )

    def notes(self, stack: Stack) -> tuple[str, ...]:
        """Return what the template says that has no effect there, or another one."""
        return (*stack.notes, *notes(StackRequest(stack.name, stack.definitions), self.runtimes,
                                     architecture=self.architecture))  # fmt: skip


def stack_name(template: Path) -> str:
    """Return the default name of a template's stack: its directory's name, or its own unless it is ``template.*``.

    Two templates in one directory are therefore two stacks, and deploying one does not delete the other's functions.
    """
    name = template.parent.name if template.stem == "template" else template.stem
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:_STACK_NAME_BYTES] or "glowplug"


def named(paths: Sequence[Path], stack: str | None) -> dict[str, Template]:
    """Read templates; return them by the name of their stack. Raises ``TemplateError``, also for two of one name."""
    found: dict[str, Template] = {}
    for path in paths:
        template = load(path)
        name = stack or stack_name(template.path)
        if name in found:
            problem = f"its stack would be {name}, as that of {found[name].name}; deploy one of them with --stack NAME"
            raise TemplateError(template.name, 0, problem)
        found[name] = template
    return found


def look_over(paths: Sequence[Path], parameters: Mapping[str, str], *, strict: bool = False) -> None:
    """Refuse what can be seen without translating, which takes half a second to begin with. Raises ``TemplateError``
    and ``StrictRefusal``."""
    templates = named(paths, None)
    given = template_parameters.shared_out(templates.values(), parameters)
    for (name, template), values in zip(templates.items(), given, strict=True):
        names = template_parameters.resolve(template, values) | Account().pseudo_parameters(name)
        noted = check(expand(template, names, None)[0])
        refuse_notes(template, noted if strict else ())


def translated(
    templates: Mapping[str, Template],
    site: Site,
    *,
    parameters: Mapping[str, str],
    account: Account | None = None,
    fetch: Fetch = fetched,
) -> list[Stack]:
    """Translate each template for the stack that it is to be. ``fetch`` reads code that is in S3.

    Raises ``TemplateError`` for what one of them gets wrong, and for a function or an export that two stacks claim.
    """
    exports = None if site.exports is None else {name: text for name, (text, _) in site.exports.items()}
    exporters = {name: stack for name, (_, stack) in (site.exports or {}).items() if stack not in templates}
    owners = {name: stack for name, stack in site.functions.items() if stack not in templates}
    stacks: list[Stack] = []
    given = template_parameters.shared_out(templates.values(), parameters)
    for (name, template), values in zip(templates.items(), given, strict=True):
        stack = translate(
            template, stack=name, account=account, endpoint=site.endpoint, parameters=values, exports=exports,
            fetch=fetch,
        )  # fmt: skip
        for logical_id, definition in stack.definitions.functions.items():
            owner = owners.setdefault(definition["FunctionName"], name)
            if owner != name:
                problem = f"{definition['FunctionName']} belongs to the stack {owner}"
                raise stack.error(logical_id, DefinitionError("FunctionName", problem))
        for export in stack.exports:
            if exporters.setdefault(export, name) != name:
                raise stack.template.error(("Outputs",), f"{export} is exported by the stack {exporters[export]}")
        if exports is not None:
            exports |= stack.exports
        stacks.append(stack)
    return stacks


def refuse_notes(template: Template, noted: Sequence[str]) -> None:
    """Raise ``StrictRefusal`` where anything is noted."""
    if noted:
        listed = "".join(f"\n  {note}" for note in noted)
        raise StrictRefusal(f"{template.name}: refused, as --strict refuses what is noted otherwise:{listed}")
