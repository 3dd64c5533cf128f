"""Carry a template out: translate, install what its code requires, upload the code that the node does not have, put the
stack.

Everything that can be refused is refused before the first byte is sent. The node takes a stack in one step, so a
deploy that fails leaves what was deployed before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import FunctionSpec, LayerSpec
from glowplug.runtime.wanted import WantedFunction, wanted_of

from .building import Builder, built
from .errors import TemplateError
from .plan import Change, plan
from .resources import Account, numbered
from .template import Template, load
from .translate import Stack, translate

Progress = Callable[[Mapping[str, Any]], None]
"""Hears of each step: ``{"step": ..., ...}`` from here, and what the node reports while it works."""

_STACK_NAME_BYTES = 128
_UPLOADS = 4


class StackClient(Protocol):
    """What a deploy needs of the node's control plane."""

    @property
    def endpoint(self) -> str:
        """The URL at which the node answers, without a slash at its end."""

    def has_code(self, digest: str) -> bool:
        """Return whether the node holds the code with this SHA-256 (hex)."""

    def put_code(self, digest: str, data: bytes) -> None:
        """Upload a zip."""

    def stack(self, name: str) -> Mapping[str, Any] | None:
        """Return the stack as the node has it, or None."""

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> Mapping[str, Any]:
        """Make the stack exactly ``body``. Raises ``DefinitionError`` where the node refuses a definition."""


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What a deploy did. ``answer`` is the node's own account of it; ``uploaded_bytes`` is 0 when it had all code.

    ``notes`` are what the template says that has no effect, or another one, on that node.
    """

    stack: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    outputs: Mapping[str, Any]
    answer: Mapping[str, Any]
    uploaded_bytes: int = 0


def deploy(
    template_path: Path | str,
    client: StackClient,
    *,
    stack: str | None = None,
    parameters: Mapping[str, str] | None = None,
    account: Account | None = None,
    refresh: bool = False,
    builder: Builder | None = None,
    on_progress: Progress | None = None,
) -> DeployResult:
    """Make the node's stack exactly what the template says. ``refresh`` resolves model sources anew; without a
    ``builder`` no requirements are installed.

    Raises ``TemplateError`` for what the template gets wrong, whether found here or by the node, and whatever
    ``client`` raises when the node cannot be reached or fails.
    """
    report = on_progress or _silent
    template = load(template_path)
    name = stack or stack_name(template.path)
    report({"step": "translate", "template": template.name, "stack": name})
    wanted = translate(template, stack=name, account=account, endpoint=client.endpoint, parameters=parameters)
    if builder is not None:
        wanted = built(wanted, builder, report)
    changes = tuple(preview(wanted, client))
    report({"step": "plan", "stack": name, "changes": [str(change) for change in changes]})
    uploaded_bytes = _upload(wanted, client, report)
    answer = _put(wanted, client, refresh=refresh, report=report)
    notes = (*wanted.notes, *answer.get("notes", ()))
    outputs = numbered(wanted.outputs, answer.get("versions") or {})
    return DeployResult(name, changes, notes, outputs, answer, uploaded_bytes)


def preview(wanted: Stack, client: StackClient) -> list[Change]:
    """Return what deploying ``wanted`` would change, without changing anything."""
    held = client.stack(wanted.name) or {}
    current = {key: FunctionSpec.from_json(value) for key, value in (held.get("Functions") or {}).items()}
    layers = {spec.name: spec.layers for spec in current.values()}
    desired = {}
    for logical_id, definition in wanted.definitions.items():
        function = wanted_of(definition)
        known = layers.get(function.spec.name, ())
        desired[logical_id] = replace(function.spec, layers=_layers(function, wanted, known))
    return plan(current, desired)


def _layers(function: WantedFunction, stack: Stack, known: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """Return the layers that a function is to have; where ``known``, which it has, are the same, those."""
    found = []
    for position, (name, by_id) in enumerate(function.layers):
        digest = str(stack.layers.get(name, {}).get("CodeSha256", "")) if by_id else ""
        held = known[position] if position < len(known) else None
        same = held is not None and (held.digest == digest if by_id else held.arn == name)
        found.append(held if same and held is not None else LayerSpec(name, digest, 0))
    return tuple(found)


def stack_name(template: Path) -> str:
    """Return the default name of a template's stack: its directory's name, or its own unless it is ``template.*``.

    Two templates in one directory are therefore two stacks, and deploying one does not delete the other's functions.
    """
    name = template.parent.name if template.stem == "template" else template.stem
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:_STACK_NAME_BYTES] or "glowplug"


def template_digest(template: Template) -> str:
    """Return the SHA-256 (hex) of the template's text."""
    return hashlib.sha256(template.text.encode()).hexdigest()


def _upload(wanted: Stack, client: StackClient, report: Progress) -> int:
    """Upload what the node has not, several at a time: it makes byte code of each, and waits for its disk."""

    def upload(digest: str) -> int:
        archive = wanted.archives[digest]
        if client.has_code(digest):
            return 0
        with telling:  # whoever hears of it need not know of threads
            report({"step": "upload", "code": archive.origin, "bytes": len(archive.data)})
        client.put_code(digest, archive.data)
        return len(archive.data)

    telling = Lock()
    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload") as pool:
        return sum(pool.map(upload, wanted.archives))


def _put(wanted: Stack, client: StackClient, *, refresh: bool, report: Progress) -> Mapping[str, Any]:
    body = {
        "Functions": {key: dict(value) for key, value in wanted.definitions.items()},
        "Layers": {key: dict(value) for key, value in wanted.layers.items()},
        "TemplateDigest": template_digest(wanted.template),
        "Refresh": refresh,
    }
    try:
        return client.put_stack(wanted.name, body, report)
    except DefinitionError as error:
        raise _in_template(wanted, error) from error


def _in_template(wanted: Stack, error: DefinitionError) -> TemplateError:
    """Find the field that the node refused (``Embed.Glowplug.Model.Source``) in the template."""
    logical_id, _, field = error.field.partition(".")
    if logical_id in wanted.definitions or logical_id in wanted.layers:
        return wanted.error(logical_id, DefinitionError(field, error.problem))
    return TemplateError(wanted.template.name, 0, str(error))


def _silent(step: Mapping[str, Any]) -> None:
    """Report nothing."""
