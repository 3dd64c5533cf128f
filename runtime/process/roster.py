"""Every living process below the node, by kind: what is counted, recorded for the sweep, and stopped at the end."""

from __future__ import annotations

import asyncio
from typing import Literal

from .child import Child
from .sweep import Records

Kind = Literal["base", "zygote", "worker"]


class Roster:
    """The living processes. One that is added leaves by itself when it is dead."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._members: dict[Child, Kind] = {}

    def __repr__(self) -> str:
        return f"Roster({', '.join(f'{kind}={len(self.of(kind))}' for kind in ('base', 'zygote', 'worker'))})"

    def add(self, child: Child, kind: Kind) -> None:
        """Take on a process that was just started. Its record is written one turn of the loop later: a start waits for
        this call, and need not wait for the file."""
        self._members[child] = kind
        asyncio.get_running_loop().call_soon(self._records.add, child.pid, kind)
        child.exited.add_done_callback(lambda _: self._remove(child))

    def of(self, kind: Kind) -> list[Child]:
        """Return the processes of a kind that are not known to be dead."""
        return [child for child, its in self._members.items() if its == kind and child.alive]

    def _remove(self, child: Child) -> None:
        self._members.pop(child, None)
        self._records.remove(child.pid)
