"""Side by side: a checkpoint to tensors by us, safetensors' own loader, runai-model-streamer and tensorizer.

A child for each loader does one load that is not timed but watched for the memory that it takes beyond the page cache,
and compares every tensor with the file bit for bit. Then the loaders take turns: with the file dropped from the page
cache (verified), and with all of it there. "returned" is when the call has given all tensors by name, which may have
read nothing yet; "all read" is when one byte of every page of every tensor has been read after that. A loader that
cannot run here is listed with its reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .cache_children import Child, PeakMemory, Unavailable, child
from .cache_files import Workspace, drop, warm
from .cache_loaders import LOADERS
from .figures import Figure, median

COLD_ROUNDS = 3
HOT_ROUNDS = 5
OWN = "glowplug"
COMPARED = (OWN, "load_file", "safe_open", "streamer", "tensorizer")

_WHY_NOT_FIRST = {
    "cold: returned": "a mapping is returned once its header is read, and by then glowplug's read-ahead, begun at the "
    "same moment, keeps the disk busy",
    "cold: all read": "all wait for the same disk, and where its queue is kept full nothing is left to gain",
    "hot: returned": "safetensors parses the header in Rust, glowplug in Python with every check of cache/header.py, "
    "and it asks for the read-ahead first",
    "hot: all read": "once mapped, all that maps takes the same page faults; glowplug has also waited for the "
    "read-ahead to see that there is nothing to read",
}
"""The metrics, each with what can keep us from the first place."""


@dataclass
class Measured:
    """One loader's figures: milliseconds by metric, and the memory beyond the page cache in bytes."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    extra_bytes: int = 0

    def add(self, temperature: str, answer: Mapping[str, float]) -> None:
        """Take the answer of one timed load."""
        self.milliseconds.setdefault(f"{temperature}: returned", []).append(answer["available_ms"])
        self.milliseconds.setdefault(f"{temperature}: all read", []).append(answer["touched_ms"])


def figures(space: Workspace) -> list[Figure]:
    """Measure every loader that runs here, print the table, and return its cells."""
    checkpoint = space.checkpoint
    _ = space.profile  # is read from the directory by our child
    measured: dict[str, Measured] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        children: dict[str, Child] = {}
        for name in COMPARED:
            try:
                children[name] = stack.enter_context(child("bench.cache_loaders", name))
            except Unavailable as error:
                missing[name] = str(error)
        for name, process in children.items():
            measured[name] = Measured(extra_bytes=_prepare(name, process, checkpoint.path))
        for temperature, rounds in (("cold", COLD_ROUNDS), ("hot", HOT_ROUNDS)):
            for _ in range(rounds):
                for name, process in children.items():
                    _load(name, process, checkpoint.path, temperature, measured[name])
    LOADERS["tensorizer"].file(checkpoint.path).unlink(missing_ok=True)
    return _rows(f"side by side: {checkpoint}", measured, missing)


def _prepare(name: str, process: Child, checkpoint: Path) -> int:
    """Have the loader's file written, load it once and check it; return the memory that this first load took.

    The first, because allocators keep what they once had. Raises ``RuntimeError`` when a tensor is not that of the
    checkpoint.
    """
    target = str(LOADERS[name].file(checkpoint))
    process.ask(do="write", source=str(checkpoint), target=target)
    with PeakMemory(process.pid) as peak:
        process.ask(do="load", target=target)
    different = process.ask(do="check", source=str(checkpoint), target=target)["different"]
    if different:
        raise RuntimeError(f"{LOADERS[name].title}: other tensors than in the file: {', '.join(different[:5])}")
    return peak.extra_bytes


def _load(name: str, process: Child, checkpoint: Path, temperature: str, into: Measured) -> None:
    target = LOADERS[name].file(checkpoint)
    if temperature == "cold":
        drop(target)
    else:
        warm(target)
    into.add(temperature, process.ask(do="load", target=str(target)))


def _rows(section: str, measured: Mapping[str, Measured], missing: Mapping[str, str]) -> list[Figure]:
    """Return the cells of the table; ours say which place they took, and why where it is not the first."""
    rows = []
    for metric, reason in _WHY_NOT_FIRST.items():
        cells = {name: median(seen.milliseconds[metric]) for name, seen in measured.items()}
        for name, value in cells.items():
            note = _place(cells, reason) if name == OWN else ""
            rows.append(Figure(section, _title(name), value, "ms", note=note, column=metric))
    rows += [
        Figure(section, _title(name), seen.extra_bytes / 1e6, "MB", column="own memory")
        for name, seen in measured.items()
    ]
    first = next(iter(_WHY_NOT_FIRST))
    return rows + [
        Figure(section, _title(name), None, "ms", note=f"does not run here: {reason}", column=first)
        for name, reason in missing.items()
    ]


def _title(name: str) -> str:
    return f"{LOADERS[name].title} ({LOADERS[name].gives})"


def _place(cells: Mapping[str, float], reason: str) -> str:
    """Return in words how our cell compares with the best of the others."""
    rivals = {name: value for name, value in cells.items() if name != OWN}
    if not rivals:
        return "nobody to compare with"
    best = min(rivals, key=lambda name: rivals[name])
    if cells[OWN] <= rivals[best]:
        return f"first, {rivals[best] / cells[OWN]:.2f}x faster than {LOADERS[best].title}"
    behind = f"{cells[OWN] - rivals[best]:.2f} ms behind {LOADERS[best].title} ({cells[OWN] / rivals[best]:.2f}x)"
    return f"{behind}: {reason}"
