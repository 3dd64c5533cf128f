"""What every command shares: which node it talks to, and whether a program or a person reads the answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from glowplug.runtime import operatorkey
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import StateError
from glowplug.runtime.sigv4 import Key
from glowplug.runtime.state import running_node

from ..client import NodeClient
from ..errors import NodeUnreachable

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="State directory of the node (else GLOWPLUG_HOME, else ~/.local/state/glowplug).",
)


templates_argument = click.argument(
    "templates", nargs=-1, required=True, metavar="TEMPLATE...",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
)  # fmt: skip
stack_option = click.option(
    "--stack", metavar="NAME", help="Name of the stack of one template (else that of its directory, or of its file)."
)
parameter_option = click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A template parameter; repeatable."
)
strict_option = click.option("--strict", is_flag=True, help="Refuse what would only be noted: what has no effect here.")


def pairs(parameters: tuple[str, ...]) -> dict[str, str]:
    """Return ``NAME=VALUE`` words as a mapping. Raises ``click.BadParameter``."""
    given: dict[str, str] = {}
    for word in parameters:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", param_hint="--parameter")
        given[name] = value
    return given


def refuse_one_name_for_several(stack: str | None, templates: tuple[Path, ...]) -> None:
    """Raise ``click.BadParameter`` for ``--stack`` with several templates."""
    if stack is not None and len(templates) > 1:
        raise click.BadParameter("names the stack of one template; several are named after them", param_hint="--stack")


def of_a_node(command: F) -> F:
    """Add ``--endpoint``, ``--state`` and ``--json`` to a command that talks to a node that runs."""
    endpoint = click.option("--endpoint", metavar="URL", help="The node's control listener (else GLOWPLUG_ENDPOINT).")
    return endpoint(state_option(as_json(command)))


def connect(endpoint: str | None, state: Path | None) -> NodeClient:
    """Return a client of the node meant: --endpoint, --state, GLOWPLUG_ENDPOINT, or the state directory's own node.

    What was typed wins over the environment. Raises ``NodeUnreachable`` when no node runs there, ``StateError`` for a
    state directory that cannot be read.
    """
    if endpoint is None and state is None:
        endpoint = os.environ.get("GLOWPLUG_ENDPOINT") or None
    if endpoint is not None:
        return at(endpoint, state)
    directory = NodeConfig.from_env(os.environ, state=state).state
    node = running_node(directory)
    if node is None:
        raise NodeUnreachable(
            f"no node runs on {directory}; start one with `glowplug up`, or name another with --endpoint or --state"
        )
    return NodeClient(node.endpoint, key_of(directory))


def at(endpoint: str, state: Path | None = None) -> NodeClient:
    """Return a client of the node at ``endpoint``, with the environment's key or the operator's.

    The operator's is that of ``state`` where it is given, else that of the default state directory, if its node it is.
    """
    unsigned = NodeClient(endpoint)
    key = key_of_environment()
    if key is None and state is not None:
        key = operatorkey.read(state)
    elif key is None:
        directory = NodeConfig.from_env(os.environ).state
        with suppress(StateError):  # nothing of that directory was asked for
            node = running_node(directory)
            if node is not None and node.endpoint == unsigned.endpoint:
                key = operatorkey.read(directory)
    return unsigned if key is None else NodeClient(endpoint, key)


def key_of(directory: Path) -> Key | None:
    """Return what signs requests to the node on a state directory: the environment's key, else the operator's own.

    None where that node checks no signatures. Raises ``StateError`` for a key that cannot be read.
    """
    return key_of_environment() or operatorkey.read(directory)


def key_of_environment() -> Key | None:
    """Return GLOWPLUG_ACCESS_KEY_ID with its secret, or None. Raises ``StateError`` where one is there alone."""
    key_id, secret = (os.environ.get(f"GLOWPLUG_{name}", "") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if bool(key_id) != bool(secret):
        raise StateError("GLOWPLUG_ACCESS_KEY_ID and GLOWPLUG_SECRET_ACCESS_KEY go together: one of them is not set")
    return Key(key_id, secret) if key_id else None
