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
    """One number. ``target`` is the bound in words; ``met`` is None for a figure that is only reported.

    ``value`` is None for what could not be measured; ``note`` says why, or what else a reader has to know. Figures with
    a ``column`` are the cells of a table of their own, one row a ``name``.
    """

    section: str
    name: str
    value: float | None
    unit: str
    target: str = ""
    met: bool | None = None
    note: str = ""
    column: str = ""


def at_most(section: str, name: str, value: float, unit: str, bound: float, note: str = "") -> Figure:
    """Return a figure that must not pass ``bound``."""
    return Figure(section, name, value, unit, f"≤ {bound:.4g} {unit}", value <= bound, note)


def at_least(section: str, name: str, value: float, unit: str, bound: float, note: str = "") -> Figure:
    """Return a figure that must reach ``bound``."""
    return Figure(section, name, value, unit, f"≥ {bound:.4g} {unit}", value >= bound, note)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; ``share`` in 0..1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(figures: Sequence[Figure], results: Path | None, remark: str = "") -> None:
    """Print the tables and write ``results`` (a directory) /latest.json, unless it is None.

    ``remark`` goes into the heading: what a reader must know before he believes a number.
    """
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    console = Console(width=110)
    listed = [row for row in figures if not row.column]
    console.print(_list(listed, machine + remark) if listed else machine + remark)
    for section in dict.fromkeys(row.section for row in figures if row.column):
        console.print(_matrix([row for row in figures if row.column and row.section == section], section))
    for row in figures:
        if row.note:
            where = f"{row.name}, {row.column}" if row.column else row.name
            console.print(f"{where}: {row.note}", style="dim", markup=False, highlight=False)
    if results is None:
        return
    results.mkdir(parents=True, exist_ok=True)
    document = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": [asdict(f) for f in figures],
    }
    (results / "latest.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"as JSON: {results / 'latest.json'}")


def _list(figures: Sequence[Figure], title: str) -> Table:
    """Return the table of what was asked and measured, one figure a row."""
    table = Table(title=title)
    for heading, justify in (("what", "left"), ("measured", "right"), ("asked", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    section = ""
    for figure in figures:
        if figure.section != section:
            section = figure.section
            table.add_section()
            table.add_row(f"[bold]{section}[/bold]")
        verdict = {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[figure.met]
        table.add_row(f"  {figure.name}", _value(figure), figure.target, verdict)
    return table


def _matrix(figures: Sequence[Figure], title: str) -> Table:
    """Return the table of one section whose figures have columns."""
    columns = list(dict.fromkeys(figure.column for figure in figures))
    cells = {(figure.name, figure.column): _value(figure) for figure in figures}
    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name in dict.fromkeys(figure.name for figure in figures):
        table.add_row(name, *(cells.get((name, column), "–") for column in columns))
    return table


def _value(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:,.2f} {figure.unit}"
