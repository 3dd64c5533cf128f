"""The tables of ``registry.db``, as the migrations that make them.

``PRAGMA user_version`` counts the migrations that a file has had. Each runs in one transaction together with the new
count, so a node killed in the middle of one leaves a file that the next start migrates again. A released migration is
never edited; a change of the tables is a new one at the end.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import StateError


def _to_aggregates(connection: sqlite3.Connection) -> None:
    """Move functions, stacks and URLs from tables with a column for each field to one JSON value for each."""
    for name, digest, modified in connection.execute("SELECT name, template_digest, modified FROM stacks_1").fetchall():
        members = dict(connection.execute("SELECT logical_id, name FROM functions_1 WHERE stack = ?", (name,)))
        value = {"template_digest": digest, "modified": modified, "functions": members}
        connection.execute("INSERT INTO stacks (name, value) VALUES (?, ?)", (name, json.dumps(value)))
    rows = connection.execute(
        "SELECT name, stack, logical_id, modified, revision_id, spec FROM functions_1"
        " JOIN revisions_1 ON revisions_1.revision = latest ORDER BY functions_1.rowid"
    ).fetchall()
    for name, stack, logical_id, modified, revision_id, text in rows:
        spec = json.loads(text)
        url = spec.pop("url", None)
        value = {"stack": stack, "logical_id": logical_id, "reserved": spec.pop("reserved", None)}
        if url is not None:
            value["urls"] = {"$LATEST": {"url_id": url[0], "auth_type": url[1], "invoke_mode": url[2]}}
        latest = {"spec": spec, "modified": modified, "revision_id": revision_id or str(uuid.uuid4())}
        connection.execute("INSERT INTO functions (name, value) VALUES (?, ?)", (name, json.dumps(value)))
        connection.execute(
            "INSERT INTO versions (function, version, value) VALUES (?, '$LATEST', ?)", (name, json.dumps(latest))
        )


def _to_sections(connection: sqlite3.Connection) -> None:
    """Put what a stack has into sections, with the definitions that can be found of its parts; those of queues and
    mappings cannot. Take from the versions of layers a size that nobody asks for."""
    layers = {name: json.loads(text) for name, text in connection.execute("SELECT name, value FROM layers")}
    there = {name for name, layer in layers.items() if layer["versions"]}
    for name, layer in layers.items():
        for version in layer["versions"].values():
            version.pop("unzipped", None)
        connection.execute("UPDATE layers SET value = ? WHERE name = ?", (json.dumps(layer), name))
    documents = {key: json.loads(text) for key, text in connection.execute("SELECT key, value FROM documents")}
    for stack, text in connection.execute("SELECT name, value FROM stacks").fetchall():
        value = json.loads(text)
        sections = ("Functions", "Layers", "Apis", "Queues", "Mappings", "Triggers")
        names = {section: value.pop(section.lower(), {}) for section in sections}
        definitions = {
            "Functions": value.pop("definitions", {}),
            "Layers": {
                key: _layer_definition(one, layers[one]) for key, one in names["Layers"].items() if one in there
            },
            "Apis": {key: _as_asked(documents.get(f"api/{one}")) for key, one in names["Apis"].items()},
            "Triggers": {key: _as_asked(documents.get(f"trigger/{stack}/{key}")) for key in names["Triggers"]},
        }
        value |= {"names": names, "definitions": definitions}
        connection.execute("UPDATE stacks SET value = ? WHERE name = ?", (json.dumps(value), stack))


def _as_asked(document: dict[str, Any] | None) -> dict[str, Any]:
    """Return a document without what a node adds to what was asked for."""
    return {name: value for name, value in (document or {}).items() if name not in ("Stack", "CreationDate")}


def _layer_definition(name: str, layer: dict[str, Any]) -> dict[str, Any]:
    """Return what a layer would have to be asked for as to stay what it is."""
    newest = layer["versions"][max(layer["versions"], key=int)]
    said = {
        "CodeSha256": newest["digest"], "Description": newest["description"],
        "CompatibleRuntimes": newest["runtimes"], "CompatibleArchitectures": newest["architectures"],
        "LicenseInfo": newest["license"],
    }  # fmt: skip
    return {"LayerName": name} | {key: value for key, value in said.items() if value}


Migration = tuple[str | Callable[[sqlite3.Connection], None], ...]
MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE stacks (
            name TEXT PRIMARY KEY,
            template_digest TEXT NOT NULL,
            modified TEXT NOT NULL
        ) STRICT""",
        # Outlives its function, so that a user id never passes to another function.
        """CREATE TABLE slots (
            function TEXT PRIMARY KEY,
            slot INTEGER NOT NULL UNIQUE
        ) STRICT""",
        """CREATE TABLE revisions (
            revision TEXT PRIMARY KEY,
            function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            spec TEXT NOT NULL CHECK (json_valid(spec)),
            created TEXT NOT NULL
        ) STRICT""",
        # A function and its latest revision name each other, hence the deferred checks.
        """CREATE TABLE functions (
            name TEXT PRIMARY KEY REFERENCES slots (function),
            stack TEXT NOT NULL REFERENCES stacks (name),
            logical_id TEXT NOT NULL,
            latest TEXT NOT NULL REFERENCES revisions (revision) DEFERRABLE INITIALLY DEFERRED,
            revision_id TEXT NOT NULL,
            modified TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE versions (
            function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
            version INTEGER NOT NULL CHECK (version > 0),
            revision TEXT NOT NULL REFERENCES revisions (revision) DEFERRABLE INITIALLY DEFERRED,
            description TEXT NOT NULL DEFAULT '',
            created TEXT NOT NULL,
            PRIMARY KEY (function, version)
        ) STRICT""",
        # An alias points to one version, or to two with the share of requests that the second one gets.
        """CREATE TABLE aliases (
            function TEXT NOT NULL,
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            other_version INTEGER,
            other_share REAL NOT NULL DEFAULT 0 CHECK (other_share BETWEEN 0 AND 1),
            description TEXT NOT NULL DEFAULT '',
            revision_id TEXT NOT NULL,
            PRIMARY KEY (function, name),
            FOREIGN KEY (function, version) REFERENCES versions (function, version) ON DELETE CASCADE,
            FOREIGN KEY (function, other_version) REFERENCES versions (function, version) ON DELETE CASCADE
        ) STRICT""",
        """CREATE TABLE urls (
            url_id TEXT PRIMARY KEY,
            function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
            qualifier TEXT NOT NULL,
            auth_type TEXT NOT NULL,
            invoke_mode TEXT NOT NULL
        ) STRICT""",
    ),
    # What belongs together is read and written together, so it is one JSON value: its structure is that of catalog.py.
    # Only versions have rows of their own: a function may have many, and they never change.
    (
        "ALTER TABLE stacks RENAME TO stacks_1",
        "ALTER TABLE functions RENAME TO functions_1",
        "ALTER TABLE revisions RENAME TO revisions_1",
        "DROP TABLE aliases",
        "DROP TABLE versions",
        "DROP TABLE urls",
        "CREATE TABLE functions (name TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (json_valid(value))) STRICT",
        """CREATE TABLE versions (
            function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            version TEXT NOT NULL,
            value TEXT NOT NULL CHECK (json_valid(value)),
            PRIMARY KEY (function, version)
        ) STRICT""",
        "CREATE TABLE stacks (name TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (json_valid(value))) STRICT",
        "CREATE TABLE layers (name TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (json_valid(value))) STRICT",
        "CREATE TABLE documents (key TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (json_valid(value))) STRICT",
        _to_aggregates,
        "DELETE FROM functions_1",
        "DROP TABLE revisions_1",
        "DROP TABLE functions_1",
        "DROP TABLE stacks_1",
    ),
    (_to_sections,),
)


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema. Raises ``StateError`` when a newer release has written it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise StateError(
            f"{path}: schema {version}, this release knows {len(migrations)}: a newer glowplug has written it; run that"
            " one or choose another directory with --state"
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement) if isinstance(statement, str) else statement(connection)
            connection.execute(f"PRAGMA user_version = {number}")  # an int of ours; a PRAGMA takes no parameters
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def unusable(path: Path, error: sqlite3.Error, *, damaged: str) -> StateError:
    """Say what a failed statement means for whoever runs the node; ``damaged``: what to do where the file is."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the low byte is the primary code
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full; free some space there or choose another directory with --state",
        sqlite3.SQLITE_READONLY: "it cannot be written; run as its owner or choose another directory with --state",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; choose another directory with --state",
        sqlite3.SQLITE_BUSY: "another process has it open; stop that process",
        sqlite3.SQLITE_IOERR: "its disk reports errors; choose another directory with --state",
    }.get(code, damaged)
    return StateError(f"{path}: {advice} ({error})")
