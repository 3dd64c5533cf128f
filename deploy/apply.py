"""Carry templates out: translate, install what their code requires, upload the code that the node has not, put the
stacks.

Everything that can be refused is refused before the first byte is sent. The node takes a stack in one step, so a
deploy that fails leaves what was deployed before; errors carry that as a note (PEP 678).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from glowplug.runtime.errors import DefinitionError, GlowplugError, InternalError

from . import queues
from .account import Account
from .apis import in_template
from .building import Builder, built
from .errors import DeployError, NodeUnreachable, TemplateError
from .plan import Change, plan
from .template import Template
from .together import Site, named, refuse_notes, translated
from .translate import Stack
from .triggers import trigger_in_template
from .versionnumbers import numbered

Progress = Callable[[Mapping[str, Any]], None]
"""Hears of each step: ``{"step": ..., ...}`` from here, and what the node reports while it works."""

_UPLOADS = 4


class StackClient(Protocol):
    """What a deploy needs of the node's control plane."""

    @property
    def endpoint(self) -> str:
        """The URL at which the node answers, without a slash at its end."""

    def health(self) -> Mapping[str, Any]:
        """Return the node's account of itself."""

    def has_code(self, digest: str) -> bool:
        """Return whether the node holds the code with this SHA-256 (hex)."""

    def put_code(self, digest: str, data: bytes) -> None:
        """Upload a zip."""

    def stacks(self) -> Sequence[Mapping[str, Any]]:
        """Return every stack, without its definitions."""

    def stack(self, name: str) -> Mapping[str, Any] | None:
        """Return the stack as the node has it, or None."""

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> Mapping[str, Any]:
        """Make the stack exactly ``body``. Raises ``DefinitionError`` where the node refuses a definition."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stack that can be put. ``changes`` is what that would do; ``notes`` say what has no effect on that node."""

    stack: Stack
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


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

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions that the stack has."""
        return tuple(one.name for one in self.changes if one.section == "Functions" and one.action != "delete")


def prepare(
    template_paths: Sequence[Path],
    client: StackClient,
    *,
    stack: str | None = None,
    parameters: Mapping[str, str] | None = None,
    account: Account | None = None,
    strict: bool = False,
    builder: Builder | None = None,
    on_progress: Progress | None = None,
) -> list[Prepared]:
    """Return what deploying the templates would do, without changing anything on the node.

    ``stack`` names the stack of one template. Without a ``builder`` no requirements are installed. Raises
    ``TemplateError`` for what a template gets wrong, ``StrictRefusal`` with ``strict`` where anything is noted, and
    whatever ``client`` raises when the node cannot be reached.
    """
    report = on_progress or _silent
    templates = named(template_paths, stack)
    for name, template in templates.items():
        report({"step": "translate", "template": template.name, "stack": name})
    site = Site.of(client.endpoint, client.stacks(), client.health())
    done = []
    for wanted in translated(templates, site, parameters=parameters or {}, account=account):
        found = wanted if builder is None else built(wanted, builder, report)
        noted = site.notes(found)
        refuse_notes(found.template, noted if strict else ())
        held = client.stack(found.name)
        changes = tuple(plan(held, found.definitions))
        report({"step": "plan", "stack": found.name, "changes": [str(change) for change in changes]})
        done.append(Prepared(found, changes, noted))
    return done


def deploy_all(
    template_paths: Sequence[Path],
    client: StackClient,
    *,
    stack: str | None = None,
    parameters: Mapping[str, str] | None = None,
    account: Account | None = None,
    refresh: bool = False,
    strict: bool = False,
    builder: Builder | None = None,
    on_progress: Progress | None = None,
) -> list[DeployResult]:
    """Make the node's stacks exactly what the templates say, one after the other. ``refresh`` resolves model sources
    anew.

    Raises as ``prepare``, and ``TemplateError`` for what the node refuses. What an error says of the others and of the
    node is in its notes.
    """
    results: list[DeployResult] = []
    try:
        prepared = prepare(
            template_paths, client, stack=stack, parameters=parameters, account=account, strict=strict,
            builder=builder, on_progress=on_progress,
        )  # fmt: skip
        for one in prepared:
            results.append(_carried_out(one, client, refresh=refresh, report=on_progress or _silent))
    except (DeployError, GlowplugError) as error:
        deployed = ", ".join(result.stack for result in results)
        if deployed:
            error.add_note(f"deployed before that: {deployed}")
        if not getattr(error, "__notes__", None):
            error.add_note("nothing was changed on the node")
        raise
    return results


def _carried_out(prepared: Prepared, client: StackClient, *, refresh: bool, report: Progress) -> DeployResult:
    wanted = prepared.stack
    try:
        uploaded_bytes = _upload(wanted, client, report)
    except (DeployError, GlowplugError) as error:
        error.add_note(f"the stack {wanted.name} is what it was")
        raise
    answer = _put(wanted, client, refresh=refresh, report=report)
    notes = tuple(dict.fromkeys((*prepared.notes, *answer.get("notes", ()))))
    outputs = numbered(wanted.outputs, answer.get("versions") or {})
    return DeployResult(wanted.name, prepared.changes, notes, outputs, answer, uploaded_bytes)


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
        **wanted.definitions.to_json(),
        "TemplateDigest": template_digest(wanted.template),
        "Refresh": refresh,
        "Exports": dict(wanted.exports),
        "Imports": list(wanted.imports),
    }
    unchanged = f"the stack {wanted.name} is what it was: a stack is put as a whole or not at all"
    try:
        return client.put_stack(wanted.name, body, report)
    except (NodeUnreachable, InternalError) as error:
        error.add_note(f"whether the stack {wanted.name} was put is not known; `glowplug plan` shows what is missing")
        raise
    except DefinitionError as error:
        found = _in_template(wanted, error)
        found.add_note(unchanged)
        raise found from error
    except GlowplugError as error:
        error.add_note(unchanged)
        raise


def _in_template(wanted: Stack, error: DefinitionError) -> TemplateError:
    """Find the field that the node refused (``Embed.Glowplug.Model.Source``) in the template."""
    logical_id, _, field = error.field.partition(".")
    asked, refusal = wanted.definitions, DefinitionError(field, error.problem)
    if logical_id in asked.functions or logical_id in asked.layers:
        return wanted.error(logical_id, refusal)
    if logical_id in asked.apis:
        return in_template(wanted.template, logical_id, asked.apis[logical_id], refusal)
    if logical_id in asked.queues or logical_id in asked.mappings:
        return queues.in_template(wanted.template, logical_id, refusal)
    if logical_id in asked.triggers:
        return trigger_in_template(wanted.template, logical_id, refusal)
    return TemplateError(wanted.template.name, 0, str(error))


def _silent(step: Mapping[str, Any]) -> None:
    """Report nothing."""
