"""Between the tables of ``registry.db`` and a ``Catalog``: read all of it, write what differs between two.

Called by ``registry.py`` alone, in its thread and inside its transactions. Functions that did not change are the same
objects in both catalogs, so a change costs what it changes, and not what is deployed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .catalog import Alias, Catalog, Function, Layer, LayerVersion, Provisioned, Stack, Url, Version
from .contents import Contents
from .errors import StateError
from .spec import FunctionSpec

_PLAIN = ("stack", "logical_id", "next_version", "reserved", "documents", "tags", "publications")


def load(connection: sqlite3.Connection, path: Path) -> Catalog:
    """Read the whole file. Raises ``StateError`` for what another release wrote and this one cannot read."""
    try:
        return _load(connection)
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(
            f"{path}: was written by another release of glowplug ({type(error).__name__}: {error}); run that release,"
            " or move the file away and deploy again"
        ) from error


def write(connection: sqlite3.Connection, before: Catalog, after: Catalog) -> None:
    """Write what ``after`` has otherwise than ``before``, inside the transaction that is open."""
    for name, slot in after.slots.items():
        if name not in before.slots:
            connection.execute("INSERT INTO slots (function, slot) VALUES (?, ?)", (name, slot))
    for name in before.functions.keys() - after.functions.keys():
        connection.execute("DELETE FROM functions WHERE name = ?", (name,))  # its versions with it
    for name, function in after.functions.items():
        old = before.functions.get(name)
        if old is not function:
            _write_function(connection, old, function)
    _write_values(connection, "stacks", "name", _changed(before.stacks, after.stacks, _stack_json))
    _write_values(connection, "layers", "name", _changed(before.layers, after.layers, _layer_json))
    _write_values(connection, "documents", "key", _changed(before.documents, after.documents, dict))


def _load(connection: sqlite3.Connection) -> Catalog:
    slots = dict(connection.execute("SELECT function, slot FROM slots"))
    versions: dict[str, dict[str, Version]] = {}
    for name, number, text in connection.execute("SELECT function, version, value FROM versions"):
        versions.setdefault(name, {})[number] = _version(json.loads(text))
    functions = tuple(
        _function(name, slots[name], json.loads(text), versions[name])
        for name, text in connection.execute("SELECT name, value FROM functions ORDER BY rowid")
    )
    catalog = Catalog(
        slots=slots,
        stacks={
            name: _stack(name, json.loads(text)) for name, text in connection.execute("SELECT name, value FROM stacks")
        },
        layers={
            name: _layer(name, json.loads(text)) for name, text in connection.execute("SELECT name, value FROM layers")
        },
        documents={
            key: json.loads(text) for key, text in connection.execute("SELECT key, value FROM documents ORDER BY rowid")
        },
    )
    return catalog.with_functions(functions)


def _write_function(connection: sqlite3.Connection, old: Function | None, new: Function) -> None:
    value = json.dumps(_function_json(new))
    connection.execute(
        "INSERT INTO functions (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (new.name, value),
    )
    before = {} if old is None else {version.number: version for version in old.all_versions()}
    after = {version.number: version for version in new.all_versions()}
    for number in before.keys() - after.keys():
        connection.execute("DELETE FROM versions WHERE function = ? AND version = ?", (new.name, number))
    for number, version in after.items():
        if before.get(number) is not version:
            connection.execute(
                "INSERT INTO versions (function, version, value) VALUES (?, ?, ?)"
                " ON CONFLICT (function, version) DO UPDATE SET value = excluded.value",
                (new.name, number, json.dumps(_version_json(version))),
            )


def _write_values(
    connection: sqlite3.Connection, table: str, key: str, changed: Mapping[str, dict[str, Any] | None]
) -> None:
    for name, value in changed.items():  # the names of table and key are this module's own
        if value is None:
            connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (name,))  # noqa: S608
        else:
            connection.execute(
                f"INSERT INTO {table} ({key}, value) VALUES (?, ?)"  # noqa: S608
                f" ON CONFLICT ({key}) DO UPDATE SET value = excluded.value",
                (name, json.dumps(value)),
            )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], to_json: Any) -> dict[str, dict[str, Any] | None]:
    gone: dict[str, dict[str, Any] | None] = dict.fromkeys(before.keys() - after.keys())
    return gone | {name: to_json(value) for name, value in after.items() if before.get(name) is not value}


def _function_json(function: Function) -> dict[str, Any]:
    value = {name: getattr(function, name) for name in _PLAIN}
    value["documents"] = {key: dict(document) for key, document in function.documents.items()}
    value["aliases"] = {name: _plain(alias) for name, alias in function.aliases.items()}
    value["provisioned"] = {name: asdict(one) for name, one in function.provisioned.items()}
    value["urls"] = {qualifier: _plain(url) for qualifier, url in function.urls.items()}
    return value


def _function(name: str, slot: int, value: dict[str, Any], versions: dict[str, Version]) -> Function:
    latest = versions.pop("$LATEST")
    made = Function(name, slot, latest, **{key: value[key] for key in _PLAIN if key in value})
    return replace(
        made,
        versions={int(number): version for number, version in sorted(versions.items(), key=lambda item: int(item[0]))},
        aliases={key: Alias(**one) for key, one in value.get("aliases", {}).items()},
        provisioned={key: Provisioned(**one) for key, one in value.get("provisioned", {}).items()},
        urls={
            qualifier: Url(**({"function": name, "qualifier": qualifier} | url))
            for qualifier, url in value.get("urls", {}).items()
        },
    )


def _version_json(version: Version) -> dict[str, Any]:
    return _plain(version) | {"spec": version.spec.to_json()}


def _version(value: dict[str, Any]) -> Version:
    return Version(**{**value, "spec": FunctionSpec.from_json(value["spec"])})


def _layer_json(layer: Layer) -> dict[str, Any]:
    versions = {str(number): asdict(one) for number, one in layer.versions.items()}
    return {"next_version": layer.next_version, "stack": layer.stack, "versions": versions}


def _layer(name: str, value: dict[str, Any]) -> Layer:
    def version(one: dict[str, Any]) -> LayerVersion:
        lists = {key: tuple(one[key]) for key in ("runtimes", "architectures")}
        return LayerVersion(**{**one, **lists})

    versions = {int(number): version(one) for number, one in value["versions"].items()}
    return Layer(name, value["next_version"], versions, value["stack"])


def _stack_json(stack: Stack) -> dict[str, Any]:
    value = {name: getattr(stack, name) for name in ("template_digest", "modified", "exports", "imports")}
    return value | {"names": stack.names.to_json(), "definitions": stack.definitions.to_json()}


def _stack(name: str, value: dict[str, Any]) -> Stack:
    contents = {key: Contents.of(value[key]) for key in ("names", "definitions")}
    return Stack(**{"name": name, **value, **contents})


def _plain(value: Alias | Url | Version) -> dict[str, Any]:
    """Return the fields as they are, mappings as dicts."""
    out = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: dict(given) if isinstance(given, Mapping) else given for name, given in out.items()}
