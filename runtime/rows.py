"""Between the tables of ``registry.db`` and values: read all of it, write one stack, check what would collide.

Called by ``registry.py`` alone, in its thread and inside its transactions.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from .errors import Conflict, DefinitionError, StateError
from .spec import FunctionSpec

LATEST = "$LATEST"


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A deployed function.

    ``slot`` is a small integer of its own: the function's unprivileged user is ``uid_base + slot``. A name keeps its
    slot for ever, and no other name ever gets it: files that a deleted function left in /tmp stay out of reach.
    ``last_modified`` is in Lambda's form, ``2025-11-24T23:11:20.123+0000``; ``revision_id`` is Lambda's RevisionId,
    new with every change.
    """

    spec: FunctionSpec
    slot: int
    stack: str
    logical_id: str
    last_modified: str
    revision_id: str


@dataclass(frozen=True, slots=True)
class StackRecord:
    """A template as deployed: logical id to function. ``template_digest`` is what the client said of its template."""

    name: str
    template_digest: str
    functions: Mapping[str, FunctionSpec]
    last_modified: str = ""


@dataclass(frozen=True, slots=True)
class FunctionChange:
    """What ``put_stack`` did to one function."""

    function: str
    change: Literal["created", "updated", "unchanged", "deleted"]


@dataclass(frozen=True, slots=True)
class View:
    """The registry as of one commit. Never changed, only replaced."""

    functions: Mapping[str, FunctionRecord] = field(default_factory=dict)
    stacks: Mapping[str, StackRecord] = field(default_factory=dict)
    urls: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)


def refuse_collisions(stack: StackRecord, view: View) -> None:
    """Check what no single definition shows: names and URL ids that are taken, within the stack or by another one.

    Raises ``DefinitionError`` or ``Conflict``.
    """
    names: dict[str, str] = {}
    urls = {
        record.spec.url.url_id: name
        for name, record in view.functions.items()
        if record.spec.url is not None and record.stack != stack.name
    }
    for logical_id, spec in stack.functions.items():
        if spec.name in names:
            raise DefinitionError(f"{logical_id}.FunctionName", f"{spec.name!r} is {names[spec.name]}'s name already")
        names[spec.name] = logical_id
        record = view.functions.get(spec.name)
        if record is not None and record.stack != stack.name:
            raise Conflict(f"{logical_id}: function {spec.name} belongs to the stack {record.stack}")
        if spec.url is not None:
            taken = urls.setdefault(spec.url.url_id, spec.name)
            if taken != spec.name:
                raise DefinitionError(
                    f"{logical_id}.FunctionUrlConfig", f"URL id {spec.url.url_id!r} is taken by the function {taken}"
                )


def write_stack(connection: sqlite3.Connection, stack: StackRecord, view: View, now: str) -> list[FunctionChange]:
    """Write ``stack`` inside the transaction that is open."""
    connection.execute(
        "INSERT INTO stacks (name, template_digest, modified) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET template_digest = excluded.template_digest, modified = excluded.modified",
        (stack.name, stack.template_digest, now),
    )
    changes: list[FunctionChange] = []
    kept = {spec.name for spec in stack.functions.values()}
    for name, record in sorted(view.functions.items()):
        if record.stack == stack.name and name not in kept:
            connection.execute("DELETE FROM functions WHERE name = ?", (name,))  # versions, aliases and URLs with it
            changes.append(FunctionChange(name, "deleted"))
    for logical_id, spec in stack.functions.items():
        old = view.functions.get(spec.name)
        if old is not None and old.spec.revision == spec.revision and old.logical_id == logical_id:
            changes.append(FunctionChange(spec.name, "unchanged"))
            continue
        _write_function(connection, stack.name, logical_id, spec, now)
        changes.append(FunctionChange(spec.name, "created" if old is None else "updated"))
    connection.execute("DELETE FROM urls WHERE function IN (SELECT name FROM functions WHERE stack = ?)", (stack.name,))
    for spec in stack.functions.values():
        if spec.url is not None:
            connection.execute(
                "INSERT INTO urls (url_id, function, qualifier, auth_type, invoke_mode) VALUES (?, ?, ?, ?, ?)",
                (spec.url.url_id, spec.name, LATEST, spec.url.auth_type, spec.url.invoke_mode),
            )
    connection.execute(
        "DELETE FROM revisions WHERE revision NOT IN (SELECT latest FROM functions)"
        " AND revision NOT IN (SELECT revision FROM versions)"
    )
    return changes


def _write_function(connection: sqlite3.Connection, stack: str, logical_id: str, spec: FunctionSpec, now: str) -> None:
    connection.execute(
        "INSERT INTO slots (function, slot) VALUES (?, (SELECT coalesce(max(slot) + 1, 0) FROM slots))"
        " ON CONFLICT (function) DO NOTHING",
        (spec.name,),
    )
    connection.execute(
        "INSERT INTO revisions (revision, function, spec, created) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (revision) DO UPDATE SET spec = excluded.spec",
        (spec.revision, spec.name, json.dumps(spec.to_json(), sort_keys=True), now),
    )
    connection.execute(
        "INSERT INTO functions (name, stack, logical_id, latest, revision_id, modified) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET logical_id = excluded.logical_id, latest = excluded.latest,"
        " revision_id = excluded.revision_id, modified = excluded.modified",
        (spec.name, stack, logical_id, spec.revision, str(uuid.uuid4()), now),
    )


def load(connection: sqlite3.Connection, path: Path) -> View:
    functions: dict[str, FunctionRecord] = {}
    members: dict[str, dict[str, FunctionSpec]] = {}
    for name, slot, stack, logical_id, modified, revision_id, text in connection.execute(
        "SELECT name, slot, stack, logical_id, modified, revision_id, spec FROM functions"
        " JOIN slots ON slots.function = name JOIN revisions ON revisions.revision = latest ORDER BY functions.rowid"
    ):
        try:
            spec = FunctionSpec.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(
                f"{path}: the function {name} was written by another release of glowplug ({error}); run that release,"
                " or move the file away and deploy again"
            ) from error
        functions[name] = FunctionRecord(spec, slot, stack, logical_id, modified, revision_id)
        members.setdefault(stack, {})[logical_id] = spec
    stacks = {
        name: StackRecord(name, digest, MappingProxyType(members.get(name, {})), modified)
        for name, digest, modified in connection.execute("SELECT name, template_digest, modified FROM stacks")
    }
    urls = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT url_id, function, qualifier FROM urls")}
    slots = dict(connection.execute("SELECT function, slot FROM slots"))
    return View(functions, stacks, urls, slots)
