"""The tables of ``queue.db``, as the migrations that make them (``schema.migrate`` runs them; see there).

Rows are small, because a backlog of a million events should cost megabytes: ids are 16 bytes, names are numbers, what
is absent is NULL.
"""

from __future__ import annotations

from glowplug.runtime.schema import Migration

TIME_ORDERED = "substr(id, 7, 1) BETWEEN x'70' AND x'7f'"
"""Whether a message's id is a UUID of version 7, which begins with its time (RFC 9562)."""

MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE queues (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            created_ms INTEGER NOT NULL,
            modified_ms INTEGER NOT NULL,
            settings TEXT NOT NULL CHECK (json_valid(settings))
        ) STRICT""",
        # ``visible_ms`` is when it may be received: the end of its delay, or of its lease.
        """CREATE TABLE messages (
            sequence INTEGER PRIMARY KEY,
            queue INTEGER NOT NULL,
            visible_ms INTEGER NOT NULL,
            receives INTEGER NOT NULL,
            sent_ms INTEGER NOT NULL,
            first_ms INTEGER,
            ordered INTEGER,
            id BLOB NOT NULL,
            attributes BLOB,
            body BLOB NOT NULL
        ) STRICT""",
        # Exactly what a receive asks for. ``receives`` tells messages in flight from delayed ones without their rows.
        "CREATE INDEX messages_by_visibility ON messages (queue, visible_ms, receives)",
        "CREATE INDEX messages_by_group ON messages (ordered, sequence) WHERE ordered IS NOT NULL",
        # One row for each group of a FIFO queue that has messages; ``visible_ms`` is when its next may be received.
        """CREATE TABLE groups (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            queue INTEGER NOT NULL,
            name TEXT NOT NULL,
            visible_ms INTEGER NOT NULL,
            UNIQUE (queue, name)
        ) STRICT""",
        "CREATE INDEX groups_by_visibility ON groups (queue, visible_ms)",
        """CREATE TABLE duplicates (
            queue INTEGER NOT NULL,
            key BLOB NOT NULL,
            expires_ms INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            id BLOB NOT NULL,
            PRIMARY KEY (queue, key)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX duplicates_by_expiry ON duplicates (expires_ms)",
        "CREATE TABLE owners (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
        """CREATE TABLE records (
            number INTEGER PRIMARY KEY,
            id BLOB NOT NULL UNIQUE,
            owner INTEGER NOT NULL,
            state INTEGER NOT NULL,
            created_ms INTEGER NOT NULL,
            expires_ms INTEGER,
            attributes BLOB,
            body BLOB
        ) STRICT""",
        "CREATE INDEX records_by_state ON records (owner, state, created_ms)",
        "CREATE INDEX records_by_expiry ON records (expires_ms) WHERE expires_ms IS NOT NULL",
    ),
    # Of those that are looked up: each new one goes to the end of the index, where random ids would write a page each.
    (f"CREATE INDEX messages_by_id ON messages (id) WHERE {TIME_ORDERED}",),
)
"""A released one is never edited; a change of the tables is a new one at the end."""
