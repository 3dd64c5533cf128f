"""``glowplug cache``: the node-local cache of model files, for its operator.

Every command works on the store itself, with or without a node that runs: any number of processes may use one store.
"""

from __future__ import annotations

import click

from .. import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "ls": ("listing", "List sources: files, size, what is here, who holds and pins it."),
    "pull": ("transfer", "Fetch a source into the store."),
    "verify": ("transfer", "Read blobs and compare their digests."),
    "prune": ("keeping", "Evict what was not used for longest."),
    "pin": ("keeping", "Keep sources or blobs from eviction; list pins."),
    "df": ("listing", "Say what the store takes, what is free and what may go."),
}
"""Command -> (module in this package, short help)."""


@click.command(cls=LazyGroup, commands_of=COMMANDS, package=__name__)
def cache() -> None:
    """List, fetch, check, evict and pin what the cache of model files holds.

    The store is --cache, else GLOWPLUG_CACHE, else `cache` in the state directory. A node need not run.
    """
