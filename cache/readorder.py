"""What a start reads, in the order of first use: recorded at a good start, kept as JSON, replayed by ``prefetch``.

An order comes out of the process of a function, over a frame or a file, so it is checked: its form by ``from_rows`` and
``from_json``, where it points by ``within``. An order that is out of form is none at all: reading in file order is
never wrong, it only brings in late what is needed early.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_EXTENTS = 65_536
MAX_ORDER_BYTES = 16 * 1024 * 1024
"""Limits of a recorded order; a model of a thousand tensors and as many modules takes some hundred kilobytes."""

_MAX_PATH = 4096  # PATH_MAX
_MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a file, in bytes."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """What an earlier start used, in the order of first use."""

    extents: tuple[Extent, ...] = ()

    @classmethod
    def from_rows(cls, rows: object) -> ReadOrder:
        """Return the order that ``[[path, offset, length], …]`` describe. One row out of form, and there is none."""
        if not isinstance(rows, (list, tuple)) or len(rows) > MAX_EXTENTS:
            return cls()
        try:
            return cls(tuple(_checked(row) for row in rows))
        except ValueError:
            return cls()  # whoever wrote this cannot be believed; the start reads in file order

    @classmethod
    def from_json(cls, text: str | bytes) -> ReadOrder:
        """Return the order that ``to_json`` wrote; none when the text is anything else."""
        if len(text) > MAX_ORDER_BYTES:
            return cls()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(value, dict) or value.get("version") != 1:
            return cls()
        return cls.from_rows(value.get("extents"))

    def to_json(self) -> str:
        """Return the order as JSON: ``{"version": 1, "extents": [[path, offset, length], …]}``."""
        rows = [[extent.path, extent.offset, extent.length] for extent in self.extents]
        return json.dumps({"version": 1, "extents": rows})

    def within(self, roots: Iterable[str | Path]) -> ReadOrder:
        """Return the order without files outside ``roots`` and paths that are not in plain form (no ``..``)."""
        folders = tuple(os.path.join(os.path.normpath(root), "") for root in roots)
        return ReadOrder(
            tuple(
                extent
                for extent in self.extents
                if extent.path.startswith(folders) and os.path.normpath(extent.path) == extent.path
            )
        )


def file_order(paths: Iterable[str | Path]) -> tuple[Extent, ...]:
    """Return whole files as an order, as they are given; those that are not there are left out."""
    extents = []
    for path in paths:
        with contextlib.suppress(OSError):
            extents.append(Extent(os.path.abspath(path), 0, os.stat(path).st_size))
    return tuple(extent for extent in extents if extent.length)


def _checked(row: Any) -> Extent:
    """Return a row as an extent. Raises ``ValueError``."""
    if not isinstance(row, (list, tuple)) or len(row) != 3:
        raise ValueError("not a path and two numbers")
    path, offset, length = row
    if not isinstance(path, str) or not path.startswith("/") or len(path) > _MAX_PATH or not path.isprintable():
        raise ValueError("not a path")
    # type() rather than isinstance(): True is an int
    if type(offset) is not int or type(length) is not int:
        raise ValueError("not numbers")
    if offset < 0 or length <= 0 or offset + length > _MAX_OFFSET:
        raise ValueError("not a range")
    return Extent(path, offset, length)
