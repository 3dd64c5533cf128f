"""From a file in the page cache to named tensors."""

from __future__ import annotations

import contextlib

from .cache_children import Child, child
from .cache_files import Workspace
from .cache_loaders import LOADERS
from .figures import Figure, at_most, median

ROUNDS = 5
BASELINES = ("torch", "torch-mmap", "load_file", "safe_open")


def figures(space: Workspace) -> list[Figure]:
    """Load the checkpoint by each means in turn, ``ROUNDS`` times, and report the medians."""
    checkpoint = space.checkpoint
    names = ("map", *BASELINES)
    targets = {name: str(LOADERS[name].file(checkpoint.path)) for name in names}
    available: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        children: dict[str, Child] = {name: stack.enter_context(child("bench.cache_loaders", name)) for name in names}
        for name in names:  # once uncounted: the format's own file, lazy imports, and the page cache is warm
            children[name].ask(do="write", source=str(checkpoint.path), target=targets[name])
            children[name].ask(do="load", target=targets[name])
        for _ in range(ROUNDS):
            for name in names:
                available[name].append(children[name].ask(do="load", target=targets[name])["available_ms"])
    LOADERS["torch"].file(checkpoint.path).unlink()
    section = f"{checkpoint} to named tensors, page cache hot"
    own = median(available["map"])
    return [
        at_most(section, LOADERS["map"].title, own, "ms", 10),
        *(
            Figure(section, f"{LOADERS[name].title} ({LOADERS[name].gives})", median(available[name]), "ms")
            for name in BASELINES
        ),
        Figure(section, "torch.load / glowplug", median(available["torch"]) / own, "x"),
    ]
