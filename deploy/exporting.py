"""Exports a snapshot of a node into a file, signed with the operator's key (``snapshot/portable.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glowplug.snapshot.errors import SnapshotError
from glowplug.snapshot.portable import PrivateKey, ReceivedSnapshot, key_id, load_private_key, write_signed

from .client import NodeClient
from .errors import ExportError


def export(client: NodeClient, name: str, model: str | None, path: Path, key: Path | None) -> dict[str, Any]:
    """Write the snapshot of a function's model to ``path``; return key, signer, file and size in bytes.

    Raises ``ExportError`` without a signing key, when the file cannot be written, or when what the node sent is not
    what its manifest says; ``path`` is as it was then.
    """
    if key is None:
        raise ExportError(
            "no key to sign with: name an Ed25519 private key with --key or GLOWPLUG_SIGNING_KEY;"
            " `openssl genpkey -algorithm ed25519 -out signing.pem` makes one"
        )
    try:
        private = load_private_key(key)
        with client.export_snapshot(name, model) as pieces:
            received = _written(path, pieces, private)
    except (ValueError, SnapshotError) as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error
    return {
        "key": received.key,
        "signer": key_id(private.public_key()),
        "file": str(path),
        "bytes": path.stat().st_size,
    }


def _written(path: Path, pieces: Iterator[bytes], private: PrivateKey) -> ReceivedSnapshot:
    """Write the file. An error about a path is the file's; any other is the connection's, which its client names."""
    try:
        return write_signed(path, pieces, private)
    except OSError as error:
        if error.filename is None:
            raise
        raise ExportError(f"{path}: {error.strerror}") from error
