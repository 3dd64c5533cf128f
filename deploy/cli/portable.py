"""``glowplug bake --export`` and ``--import``: a snapshot as a signed file, from one node to another.

The signature is made here, by whoever runs the command, and not by the node: the node runs other people's code and has
no business with the private key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ..client import NodeClient
from .output import show_json, size

F = TypeVar("F", bound=Callable[..., Any])

KEY_VARIABLE = "GLOWPLUG_SIGNING_KEY"

_FILE = click.Path(path_type=Path, dir_okay=False)
_PRESENT = click.Path(path_type=Path, dir_okay=False, exists=True)


@dataclass(frozen=True, slots=True)
class Move:
    """What to move: the snapshot of a function's model into the file ``export``, or one from the file ``take``.

    Raises ``UsageError`` for what does not go together.
    """

    name: str | None
    export: Path | None
    model: str | None
    key: Path | None
    take: Path | None

    def __post_init__(self) -> None:
        if self.take is not None and (self.name is not None or self.export is not None):
            raise click.UsageError("--import stands alone: every function whose model it is may use the snapshot.")
        if self.take is None and self.name is None:
            raise click.UsageError("Missing argument 'NAME'.")
        if self.model is not None and self.export is None:
            raise click.UsageError("--model goes with --export.")


def moves_snapshots(command: F) -> F:
    """Add the options whose values are the fields of ``Move``."""
    for option in (
        click.option("--import", "take", type=_PRESENT, metavar="FILE", help="Publish a file's snapshot on this node."),
        click.option("--key", type=_FILE, envvar=KEY_VARIABLE, help=f"Signs the file (else {KEY_VARIABLE})."),
        click.option("--model", metavar="MODEL", help="Which model to export, where there are several."),
        click.option("--export", type=_FILE, metavar="FILE", help="Write a snapshot to a signed file."),
    ):
        command = option(command)
    return command


def show_move(client: NodeClient, move: Move, *, wait: bool, as_json: bool) -> None:
    """Move a snapshot and say what came of it. Raises ``ExportError`` and the client's errors."""
    from ..exporting import export  # late: cryptography, which `ls` should not pay for

    if move.export is not None:
        answer = export(client, str(move.name), move.model, move.export, move.key)
        words = f"{move.name}: snapshot {answer['key'][:12]} in {move.export} ({size(answer['bytes'])})"
    else:
        answer = take(client, Path(str(move.take)), wait=wait)
        words = said(answer)
    if as_json:
        show_json(answer)
    else:
        click.echo(words)


def take(client: NodeClient, path: Path, *, wait: bool) -> dict[str, Any]:
    """Send a file to the node."""
    with path.open("rb") as file:
        return client.import_snapshot(file, path.stat().st_size, wait=wait)


def said(answer: Mapping[str, Any]) -> str:
    """Return an import in words: the snapshot, and a line for each model that has its weights."""
    lines = [f"snapshot {answer['key'][:12]}{' was here already' if answer['reused'] else ' is published'}"]
    for row in answer["models"]:
        name = f"{row['function']} {row['model']}".rstrip()
        if row["used"]:
            reason = f" ({row['reason']})" if row["reason"] else ""
            lines.append(f"{name} uses it: {row['engine']}{reason}")
        elif row["state"] in ("queued", "baking"):
            lines.append(f"{name} has its weights; whether it is the snapshot of this model is seen now")
        else:
            lines.append(f"{name} has its weights and does not use it: {row['reason'] or 'eager was asked for'}")
    if not answer["models"]:
        lines.append("no function has its weights; one that is deployed later uses it without compiling")
    return "\n".join(lines)
