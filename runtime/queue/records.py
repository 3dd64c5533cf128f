"""The steps of records, as statements. Called by the engine within a transaction, in its thread."""

from __future__ import annotations

import sqlite3

from glowplug.runtime.errors import InvalidParameter, RecordExists

from .model import NOTHING, Record
from .rows import pack, unpack
from .steps import InsertRecord, PutRecord, ScanRecords

ID_BYTES = 16

_Row = tuple[bytes, int, int, int, int | None, bytes | None, bytes | None]
_COLUMNS = "id, owner, state, created_ms, expires_ms, attributes, body"
_WITHOUT_BODY = _COLUMNS.replace("body", "NULL")
_INSERT = f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - names of columns


class Records:
    """Records of all owners of a file. An owner's name is kept once and stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def load(self) -> None:
        """Read the owners; again after a transaction was rolled back."""
        rows = self._connection.execute("SELECT number, name FROM owners").fetchall()
        self._names = dict(rows)
        self._numbers = {name: number for number, name in rows}

    def get(self, key: bytes) -> Record | None:
        """Return a record, or None."""
        row: _Row | None = self._connection.execute(
            f"SELECT {_COLUMNS} FROM records WHERE id = ?",  # noqa: S608 - names of columns
            (key,),
        ).fetchone()
        return None if row is None else self._record(row)

    def insert(self, step: InsertRecord) -> None:
        """Keep a record that must not be there."""
        added = self._connection.execute(_INSERT + " ON CONFLICT (id) DO NOTHING", self._row(step.record))
        if added.rowcount == 0:
            raise RecordExists(f"Record {step.record.id.hex()} exists", self.get(step.record.id))

    def put(self, step: PutRecord) -> None:
        """Keep a record, in place of an earlier one."""
        self._connection.execute(
            _INSERT + " ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, state = excluded.state,"
            " created_ms = excluded.created_ms, expires_ms = excluded.expires_ms, attributes = excluded.attributes,"
            " body = excluded.body",
            self._row(step.record),
        )

    def delete(self, key: bytes) -> bool:
        """Forget a record."""
        return self._connection.execute("DELETE FROM records WHERE id = ?", (key,)).rowcount > 0

    def scan(self, step: ScanRecords) -> list[Record]:
        """Return records of an owner by the time of their making."""
        owner = self._numbers.get(step.owner)
        if owner is None:
            return []
        direction = "DESC" if step.newest_first else "ASC"
        states = step.states or self._states(owner)
        found: list[_Row] = []
        for state in states:  # each is one range of the index; together they are merged below
            found += self._connection.execute(
                f"SELECT {_WITHOUT_BODY} FROM records WHERE owner = ? AND state = ?"  # noqa: S608 - names of columns
                f" ORDER BY created_ms {direction}, number {direction} LIMIT ?",
                (owner, state, step.limit),
            ).fetchall()
        found.sort(key=lambda row: row[3], reverse=step.newest_first)
        return [self._record(row) for row in found[: step.limit]]

    def expire(self, now_ms: int, limit: int) -> int:
        """Remove records whose time has passed."""
        return self._connection.execute(
            "DELETE FROM records WHERE number IN (SELECT number FROM records WHERE expires_ms <= ? LIMIT ?)",
            (now_ms, limit),
        ).rowcount

    def _states(self, owner: int) -> tuple[int, ...]:
        """Return an owner's states, in as many looks into the index as there are."""
        found: list[int] = []
        query = "SELECT state FROM records WHERE owner = ? AND state > ? ORDER BY state LIMIT 1"
        while row := self._connection.execute(query, (owner, found[-1] if found else -(2**62))).fetchone():
            found.append(row[0])
        return tuple(found)

    def _row(self, record: Record) -> _Row:
        if not is_id(record.id):
            raise InvalidParameter(f"a record's id has {ID_BYTES} bytes, not {len(record.id)}")
        return (
            record.id,
            self._owner(record.owner),
            record.state,
            record.created_ms,
            record.expires_ms,
            pack(record.attributes),
            record.body,
        )

    def _owner(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            added: tuple[int] = self._connection.execute(
                "INSERT INTO owners (name) VALUES (?) RETURNING number", (name,)
            ).fetchone()
            number = added[0]
            self._numbers[name], self._names[number] = number, name
        return number

    def _record(self, row: _Row) -> Record:
        key, owner, state, created_ms, expires_ms, attributes, body = row
        return Record(
            id=key,
            owner=self._names[owner],
            state=state,
            created_ms=created_ms,
            expires_ms=expires_ms,
            attributes=unpack(attributes) if attributes else NOTHING,
            body=body,
        )


def is_id(key: bytes) -> bool:
    """Return whether ``key`` can be the id of a record."""
    return len(key) == ID_BYTES
