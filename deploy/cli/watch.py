"""The loop of ``--watch``: deploys again when something has changed, until it is told to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from glowplug.cache.errors import CacheError
from glowplug.runtime.errors import GlowplugError

from ..errors import DeployError
from ..watching import LOOK_S, Watch, changed, decide, look, places_of

_SHOWN = 3


def watch(
    templates: Sequence[Path],
    parameters: Mapping[str, str],
    deploy: Callable[[], None],
    *,
    ended: Callable[[float], bool],
    deployed: bool = False,
) -> None:
    """Call ``deploy`` now, unless ``deployed``, and whenever what the templates are made of has changed.

    What a deploy refuses is printed, and the watch goes on. ``ended`` waits for so many seconds and returns whether to
    end; Ctrl-C ends it as well.
    """
    places = {template: places_of(template, parameters) for template in templates}
    found = look(frozenset().union(*places.values()))
    state = Watch(deployed=found, seen=found)
    click.echo(f"watching {', '.join(map(str, templates))}; Ctrl-C ends it", err=True)
    try:
        if not deployed:
            _try(deploy)
        while not ended(LOOK_S):
            places = {template: places_of(template, parameters, known) for template, known in places.items()}
            before = state.deployed or {}
            state, now = decide(state, look(frozenset().union(*places.values())), time.monotonic())
            if now:
                click.echo(f"\n{_what(changed(before, state.seen))}", err=True)
                _try(deploy)
    except KeyboardInterrupt:
        click.echo(err=True)


def _try(deploy: Callable[[], None]) -> None:
    try:
        deploy()
    except (GlowplugError, DeployError, CacheError) as error:
        lines = [str(error), *getattr(error, "__notes__", ())]
        click.echo("glowplug: " + "\n".join(lines), err=True)


def _what(paths: Sequence[str]) -> str:
    """Name what has changed, as the user would."""
    here = Path.cwd()
    names = [str(path.relative_to(here)) if (path := Path(name)).is_relative_to(here) else name for name in paths]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"changed: {', '.join(names[:_SHOWN])}{more}"
