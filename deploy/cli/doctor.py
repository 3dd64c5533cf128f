"""``glowplug doctor``: what this machine has, and what to do about what it has not."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import GlowplugError, MissingAuthenticationToken, StateError
from glowplug.runtime.process import confine
from glowplug.runtime.state import running_node

from ..errors import NodeUnreachable
from .disk import cache_disk, residency, state_disk
from .machine import Finding, probes
from .options import as_json as json_option
from .options import at, state_option
from .output import console, show_json, table

_MARKS = {"ok": Text("ok", style="green"), "warn": Text("warn", style="bold yellow")}


@click.command()
@state_option
@json_option
def doctor(state: Path | None, as_json: bool) -> None:
    """Check what this machine has, and what to do about the rest.

    Writes and reads at most 256 MiB in the cache's directory to measure its disk, which takes some seconds, and keeps
    the result there for read-ahead. Each line says ok or warn, and what to do.
    """
    config = NodeConfig.from_env(os.environ, state=state or state_of_endpoint())
    findings = [probe() for probe in probes()] + [isolation(), residency(), state_disk(config.state)]
    findings += [cache_disk(config.cache, config.state), node(config.state)]
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings]})
    else:
        show(findings)


def state_of_endpoint() -> Path | None:
    """Return the state directory of the node that GLOWPLUG_ENDPOINT names; None where it names none that answers."""
    endpoint = os.environ.get("GLOWPLUG_ENDPOINT")
    if not endpoint:
        return None
    try:
        health = at(endpoint).health()
        if "state" not in health:
            raise MissingAuthenticationToken(f"the node at {endpoint} does not say where its state is without a key")
        return Path(health["state"])
    except (NodeUnreachable, GlowplugError) as error:
        click.echo(f"glowplug: {error}; what follows is about the default state directory", err=True)
        return None


def isolation() -> Finding:
    """Say what keeps functions from each other and from the node."""
    described = confine.describe()
    if described == "users":
        return Finding("Isolation", "ok", "each function runs under a user of its own")
    if described == "landlock":
        return Finding("Isolation", "ok", "Landlock limits what each function reads and writes")
    return Finding("Isolation", "warn", described, "run the node as root, or on a kernel with Landlock (5.13)")


def node(state: Path) -> Finding:
    """Say whether a node runs on the state directory."""
    try:
        running = running_node(state)
    except StateError as error:
        return Finding("Node", "warn", str(error))
    if running is None:
        return Finding("Node", "ok", "none runs; start one with `glowplug up`")
    return Finding("Node", "ok", f"pid {running.pid} at {running.endpoint}")


def show(findings: list[Finding]) -> None:
    """Print the findings as a table, each piece of advice below its finding."""
    rows = []
    for finding in findings:
        found = Text(finding.found)
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style="yellow")
        rows.append((_MARKS[finding.verdict], finding.subject, found))
    console().print(table((("", "left"), ("CHECK", "left"), ("FOUND", "left")), rows))
