"""The operator's own key: made by a node that checks signatures, for the commands of its machine.

It is in the state directory, mode 0600, so whoever may read the node's state may control the node: root, and the user
that it runs as. It is new with each start of the node. Apart from ``runtime/credentials.py``, because each command
reads it and nothing heavy may come along.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from .errors import StateError
from .sigv4 import Key
from .state import publish, unusable

_FILE = "operator.json"


def make(state: Path) -> Key:
    """Make a key and write it down. Raises ``StateError`` when it cannot be written."""
    key = Key(f"AKIAGLOWPLUG{base64.b32encode(secrets.token_bytes(5)).decode()}", secrets.token_urlsafe(30))
    value = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}
    path = state / _FILE
    try:
        publish(path, json.dumps(value).encode())
    except OSError as error:
        raise unusable(path, error) from None
    return key


def drop(state: Path) -> None:
    """Delete the key of a node that does not check signatures. Raises ``StateError`` when it cannot be deleted."""
    path = state / _FILE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(path, error) from None


def read(state: Path) -> Key | None:
    """Return the key of the node on ``state``, None where it checks no signatures. Raises ``StateError``."""
    path = state / _FILE
    try:
        value = json.loads(path.read_text())
        return Key(str(value["access_key_id"]), str(value["secret_access_key"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unusable(path, error) from None
    except (ValueError, KeyError, TypeError):
        raise StateError(f"{path}: is no operator's key; start the node again") from None
