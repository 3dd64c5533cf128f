"""What was measured, against what was asked: rows that print as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One number. ``target`` is the bound in words; ``met`` is None for a figure that is only reported."""

    section: str
    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None


def at_most(section: str, name: str, value: float, unit: str, bound: float) -> Figure:
    """Return a figure that must not pass ``bound``."""
    return Figure(section, name, value, unit, f"≤ {bound:g} {unit}", value <= bound)


def at_least(section: str, name: str, value: float, unit: str, bound: float) -> Figure:
    """Return a figure that must reach ``bound``."""
    return Figure(section, name, value, unit, f"≥ {bound:g} {unit}", value >= bound)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; ``share`` in 0..1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(figures: Sequence[Figure], results: Path) -> None:
    """Print the table and write ``results`` (a directory) /latest.json."""
    table = Table(
        title=f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    )
    for heading, justify in (("what", "left"), ("measured", "right"), ("asked", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    section = ""
    for figure in figures:
        if figure.section != section:
            section = figure.section
            table.add_section()
            table.add_row(f"[bold]{section}[/bold]")
        verdict = {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[figure.met]
        table.add_row(f"  {figure.name}", f"{figure.value:,.2f} {figure.unit}", figure.target, verdict)
    Console(width=110).print(table)
    results.mkdir(parents=True, exist_ok=True)
    document = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": [asdict(f) for f in figures],
    }
    (results / "latest.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"as JSON: {results / 'latest.json'}")
