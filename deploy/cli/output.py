"""How answers look: tables that fit a terminal, sizes and times in short words, JSON for programs.

Answers go to stdout, progress and errors to stderr, so that a pipe gets the answer alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 80
"""Columns of a terminal that does not say how wide it is, and of a pipe."""

TIER_STYLES = {"hot": "bold red", "parked": "yellow", "stored": "cyan", "remote": "dim"}


def show_json(value: Any, *, indent: int | None = 2) -> None:
    """Print ``value`` as JSON; ``indent`` of None puts it on one line."""
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout, or stderr. Colours only where there is a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False, soft_wrap=False)


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table; ``columns`` are (heading, justification). Long cells continue on the next line, uncut.

    Justification is "left", "right", or "words": left, and a line ends between words alone.
    """
    cells = list(rows)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, (heading, justify) in enumerate(columns):
        words = " ".join([heading, *(str(row[number]) for row in cells)]).split() if justify == "words" else [""]
        longest = max(len(word) for word in words)
        side: Literal["left", "right"] = "right" if justify == "right" else "left"
        made.add_column(heading, justify=side, overflow="fold", min_width=longest)
    for row in cells:
        made.add_row(*row)
    return made


def tier(name: str) -> Text:
    """Return a tier's name in its colour."""
    return Text(name, style=TIER_STYLES.get(name, ""))


def milliseconds(value: float) -> str:
    """Return a duration as ``7.3 ms``, ``840 ms`` or ``12.1 s``."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def size(value_bytes: float) -> str:
    """Return a size in decimal units, as disks and networks count: ``90.9 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value_bytes) < 1000:
            return f"{value_bytes:.0f} {unit}" if unit == "B" else f"{value_bytes:.1f} {unit}"
        value_bytes /= 1000
    return f"{value_bytes:.1f} TB"


def counted(number: int, noun: str) -> str:
    """Return ``1 function`` or ``2 functions``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ago(seconds: float) -> str:
    """Return an age as ``4 s ago``, ``3 min ago``, ``5 h ago`` or ``2 d ago``."""
    for limit, unit_s, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / unit_s:.0f} {name} ago"
    return f"{seconds / 86400:.0f} d ago"
