"""What every command shares: which node it talks to, and whether a program or a person reads the answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from glowplug.runtime.config import NodeConfig
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
        return NodeClient(endpoint)
    directory = NodeConfig.from_env(os.environ, state=state).state
    node = running_node(directory)
    if node is None:
        raise NodeUnreachable(
            f"no node runs on {directory}; start one with `glowplug up`, or name another with --endpoint or --state"
        )
    return NodeClient(node.endpoint)
