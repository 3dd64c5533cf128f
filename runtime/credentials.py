"""The credentials file: who may call this node, as TOML that an operator can read and edit.

    [[credential]]
    name = "ci"                          # 1 to 64 of a-z A-Z 0-9 + = , . @ _ -
    access_key_id = "AKIAGLOWPLUG7Q2V…"  # 16 to 128 of a-z A-Z 0-9 _
    secret_access_key = "…"              # 16 characters or more
    rights = ["invoke"]                  # control (all there is), invoke, queue
    account_id = "111122223333"          # else the node's; another account has no control
    arn = "arn:aws:iam::…"               # else arn:aws:iam::<account>:user/<name>
    organization_id = "o-…"              # else none

Whoever reads the file can do what its owners can, so one that others than its owner may read or write is refused, and
so is one of another user than root and the node's. The node looks at the file's time for each signature and reads it
again when it changed: a credential that was taken out is out with the next request. A file that is gone has no
credentials; one that cannot be used leaves those that were read before, with an error in the node's log.

Secrets are stored as they are: to check a signature one needs the very secret that made it.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from .errors import StateError
from .principal import Principal, Right
from .sigv4 import Key
from .state import publish, unusable

log = logging.getLogger(__name__)

RIGHTS: tuple[Right, ...] = get_args(Right)
_NAME = re.compile(r"[a-zA-Z0-9+=,.@_-]{1,64}")
_FORMS = {
    "access_key_id": re.compile(r"[a-zA-Z0-9_]{16,128}"),
    "secret_access_key": re.compile(r"[!-~]{16,256}"),
    "account_id": re.compile(r"[0-9]{12}"),
    "arn": re.compile(r"arn:aws[a-z-]*:(iam|sts)::[0-9]{12}:[!-~]{1,200}"),
    "organization_id": re.compile(r"o-[a-z0-9]{10,32}"),
}
_KEYS = {"name", "rights", *_FORMS}
_REQUIRED = ("name", "access_key_id", "secret_access_key", "rights")
_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a key belongs to, and the key."""

    principal: Principal
    key: Key = field(repr=False)


class CredentialsFile:
    """What the file at ``path`` holds, as of now. ``account_id`` is the node's. A file that is missing has nothing."""

    def __init__(self, path: Path, account_id: str) -> None:
        self.path = path
        self._account_id = account_id
        self._stamp: tuple[int, ...] | None = None
        self._known: Mapping[str, Identity] = {}

    def __repr__(self) -> str:
        return f"<CredentialsFile {self.path} {len(self._known)} credentials>"

    def read(self) -> Mapping[str, Identity]:
        """Return all credentials by access key id. Raises ``StateError`` naming the file and what is wrong with it."""
        self._stamp = _stamp(self.path)
        self._known = {one.key.access_key_id: one for one in _entries(self.path, self._account_id)}
        return self._known

    def find(self, access_key_id: str) -> Identity | None:
        """Return whom an access key id belongs to, or None."""
        if _stamp(self.path) != self._stamp:
            try:
                self.read()
            except StateError as error:
                log.error("%s; the credentials that were read before stay", error)
        return self._known.get(access_key_id)

    def add(self, name: str, rights: tuple[Right, ...]) -> Identity:
        """Make a credential and write it down. Raises ``StateError`` for a name that is taken or is none."""
        if not _NAME.fullmatch(name):
            raise StateError(f"{name!r} is not a name: it does not match {_NAME.pattern}")
        with _alone(self.path):
            if any(one.principal.name == name for one in self.read().values()):
                raise StateError(f"{self.path}: there is a credential {name!r} already; remove it first")
            entry = {
                "name": name,
                "access_key_id": f"AKIAGLOWPLUG{base64.b32encode(secrets.token_bytes(5)).decode()}",
                "secret_access_key": secrets.token_urlsafe(30),
                "rights": list(rights),
            }
            before = self.path.read_text() if self._known else ""
            self._write("\n".join([before, _toml(entry)]) if before else _toml(entry))
            return self.read()[str(entry["access_key_id"])]

    def remove(self, name: str) -> None:
        """Take a credential out; the file's comments are lost. Raises ``StateError`` when there is none of the name."""
        with _alone(self.path):
            entries = list(_tables(self.path))
            left = [entry for entry in entries if entry.get("name") != name]
            if len(left) == len(entries):
                raise StateError(f"{self.path}: there is no credential {name!r}")
            self._write("\n".join(map(_toml, left)))

    def _write(self, text: str) -> None:
        try:
            publish(self.path, text.encode())
        except OSError as error:
            raise unusable(self.path, error) from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile; makes its directory."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unusable(path.parent, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _entries(path: Path, account_id: str) -> Iterator[Identity]:
    seen: set[str] = set()
    for number, entry in enumerate(_tables(path), 1):
        where = f"{path}: credential {number}"
        _check(where, entry)
        identity = _identity(entry, account_id)
        name, key_id = identity.principal.name, identity.key.access_key_id
        if identity.principal.account_id != account_id and identity.principal.may("control"):
            raise StateError(f"{where} ({name}): control is for the node's own account, {account_id}")
        if name in seen or key_id in seen:
            raise StateError(f"{where} ({name}): its name or its access key id is there twice")
        seen |= {name, key_id}
        yield identity


def _tables(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the file's tables, once it is known that nobody else can read or write them. Raises ``StateError``."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & _OTHERS:
                mode = f"mode {status.st_mode & 0o777:04o}"
                raise StateError(f"{path}: others than its owner may read or write it ({mode}); chmod 600 it")
            if status.st_uid not in (0, os.geteuid()):
                raise StateError(f"{path}: belongs to user {status.st_uid}, neither root nor this one; chown it")
            value = tomllib.load(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(path, error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: not TOML: {error}") from None
    tables = value.pop("credential", [])
    if value or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise StateError(f"{path}: must hold [[credential]] tables and nothing else")
    yield from tables


def _check(where: str, entry: Mapping[str, Any]) -> None:
    """Refuse what a credential cannot be; what is said of it never holds a secret."""
    unknown, missing = sorted(set(entry) - _KEYS), [key for key in _REQUIRED if key not in entry]
    if unknown or missing:
        what = f"{', '.join(unknown)}: no such key" if unknown else f"{', '.join(missing)}: missing"
        raise StateError(f"{where}: {what} (known: {', '.join(sorted(_KEYS))})")
    for key, form in {"name": _NAME, **_FORMS}.items():
        if key in entry and not (isinstance(entry[key], str) and form.fullmatch(entry[key])):
            raise StateError(f"{where}: {key}: does not match {form.pattern}")
    rights = entry["rights"]
    if not isinstance(rights, list) or not rights or not all(right in RIGHTS for right in rights):
        raise StateError(f"{where}: rights: must be a list with some of {', '.join(RIGHTS)}")


def _identity(entry: Mapping[str, Any], account_id: str) -> Identity:
    name, account = entry["name"], entry.get("account_id", account_id)
    principal = Principal(
        access_key_id=entry["access_key_id"],
        account_id=account,
        arn=entry.get("arn", f"arn:aws:iam::{account}:user/{name}"),
        user_id=unique_id("AIDA", f"{account}/{name}"),
        name=name,
        rights=frozenset(cast("list[Right]", entry["rights"])),
        organization_id=entry.get("organization_id", ""),
    )
    return Identity(principal, Key(entry["access_key_id"], entry["secret_access_key"]))


def unique_id(prefix: str, name: str) -> str:
    """Return an id as AWS gives one to a user (``AIDA``) or a role (``AROA``): 21 characters, the same for a name."""
    return prefix + base64.b32encode(hashlib.sha256(name.encode()).digest())[:17].decode()


def _toml(entry: Mapping[str, Any]) -> str:
    """Return one table; what JSON calls a string or a list of them, TOML does as well."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    return "\n".join(["[[credential]]", *lines, ""])
