"""All keys that a node knows: those of its credentials file, the operator's, and those it made for its functions.

A function's key names it: a call that it signs is made by its role's session, in AWS's form. It may call functions and
use queues, never control the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import operatorkey
from .config import NodeConfig
from .credentials import CredentialsFile, Identity, unique_id
from .errors import StateError
from .principal import Principal, Right
from .routing.environment import FUNCTION_KEY_PREFIX, Site, credentials
from .sigv4 import Key


@dataclass(frozen=True, slots=True)
class Access:
    """Whether callers of the control listener need a signature. ``guarded``: they do, and somebody has credentials."""

    file: CredentialsFile
    required: bool
    guarded: bool

    @classmethod
    def of(cls, config: NodeConfig) -> Access:
        """Read the credentials. Raises ``StateError`` for a file that cannot be used, or was named and is not there."""
        file = CredentialsFile(config.credentials_file, config.account_id)
        if config.credentials is not None and not config.credentials.exists():
            raise StateError(f"{config.credentials}: no such file; make it with `glowplug credentials add NAME`")
        configured = bool(file.read())
        required = config.auth == "on" or (config.auth == "auto" and configured)
        return cls(file, required, required and configured)

    def keyring(self, state: Path, site: Site, function_names: Callable[[], Mapping[str, object]]) -> NodeKeyring:
        """Return all keys, with one for the operator where a signature is required. Raises ``StateError``."""
        operator = None
        if self.required:
            operator = operatorkey.make(state)
        else:
            operatorkey.drop(state)
        return NodeKeyring(self.file, operator, site, function_names)


class NodeKeyring:
    """Finds whom a key belongs to. ``function_names`` returns those of the functions that are deployed."""

    def __init__(
        self,
        file: CredentialsFile,
        operator: Key | None,
        site: Site,
        function_names: Callable[[], Mapping[str, object]],
    ) -> None:
        self._file = file
        self._operator = None if operator is None else _operator(operator, site.account_id)
        self._site = site
        self._function_names = function_names
        self._functions: dict[str, Identity] = {}
        self._named: set[str] = set()

    def __repr__(self) -> str:
        return f"<NodeKeyring {self._file!r} operator={self._operator is not None}>"

    def find(self, access_key_id: str) -> Identity | None:
        """Return whom an access key id belongs to, or None."""
        if self._operator is not None and access_key_id == self._operator.key.access_key_id:
            return self._operator
        if access_key_id.startswith(FUNCTION_KEY_PREFIX):
            return self._function(access_key_id)
        return self._file.find(access_key_id)

    def _function(self, access_key_id: str) -> Identity | None:
        """Return the function that was given a key; one that is gone has none."""
        deployed = self._function_names()
        if access_key_id not in self._functions:
            for name in deployed.keys() - self._named:
                identity = _of_function(name, self._site)
                self._functions[identity.key.access_key_id] = identity
                self._named.add(name)
        found = self._functions.get(access_key_id)
        return found if found is not None and found.principal.name in deployed else None


def _operator(key: Key, account_id: str) -> Identity:
    arn = f"arn:aws:iam::{account_id}:user/operator"
    user_id = unique_id("AIDA", f"{account_id}/operator")
    rights: frozenset[Right] = frozenset({"control"})
    return Identity(Principal(key.access_key_id, account_id, arn, user_id, "operator", rights), key)


def _of_function(name: str, site: Site) -> Identity:
    own = credentials(site, name)
    principal = Principal(
        access_key_id=own.access_key_id,
        account_id=site.account_id,
        arn=f"arn:aws:sts::{site.account_id}:assumed-role/{name}/{name}",
        user_id=f"{unique_id('AROA', f'{site.account_id}/{name}')}:{name}",
        name=name,
        rights=frozenset({"invoke", "queue"}),
    )
    return Identity(principal, Key(own.access_key_id, own.secret_access_key, own.session_token))
