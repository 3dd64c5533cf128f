"""Progress of long work on stderr: bars on a terminal, one line per step elsewhere.

Events come from ``deploy.apply`` (``{"step": "upload", …}``), from pip (``{"step": "install", "file", "message"}``) and
from the node while it fetches weights
(``{"step": "fetch", "file", "done_bytes", "total_bytes"}``) or bakes an engine (``{"step": "bake", "phase",
"fraction"}``), with the function and model that each is about. ``following``: another process fetches, this is its
progress. ``glowplug cache`` makes events of its own of that form, with the steps ``pull`` and ``verify``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .output import console, size


@dataclass(frozen=True, slots=True)
class Step:
    """One event, as it is shown. ``label`` stays the same while one piece of work goes on; ``done`` is 0 to 1."""

    label: str
    detail: str = ""
    done: float | None = None


def step_of(event: Mapping[str, Any]) -> Step | None:
    """Return how an event is shown; None for what is not worth a line (the result tells it)."""
    about = ":".join(str(event[key]) for key in ("function", "model") if event.get(key))
    kind = str(event.get("step", ""))
    if "total_bytes" in event:
        total, done = float(event["total_bytes"]), float(event["done_bytes"])
        sizes = f"{size(done)} of {size(total)}" if total else size(done)
        words = f"{event.get('file', '')} {sizes}".strip() + (", by another process" * bool(event.get("following")))
        return Step(f"{kind or 'fetch'} {about}".rstrip(), words, done / total if total else None)
    if "fraction" in event:
        return Step(f"bake {about}", str(event.get("phase", "")), float(event["fraction"]))
    if kind == "upload":
        return Step(f"upload {Path(str(event['code'])).name}", size(float(event["bytes"])), 1.0)
    if kind == "install":
        return Step(f"install {event['file']}", str(event.get("message", "")))
    if kind in ("", "translate", "plan"):
        return None
    return Step(f"{kind} {about}".strip(), str(event.get("message", "")))


class Display(Protocol):
    """Shows events while it is entered."""

    def __enter__(self) -> Display:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""


def display(*, quiet: bool) -> Display:
    """Return what suits stderr: bars on a terminal, lines elsewhere, nothing when ``quiet``."""
    if quiet:
        return Silence()
    return Bars() if console(stderr=True).is_terminal else Lines()


class Silence:
    """Shows nothing: the answer is JSON, and a program reads it."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show nothing."""


class Lines:
    """Shows one line when a piece of work begins and one for each phase: for logs and pipes."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._last = ("", "")

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Print a line, unless only a number has changed since the last one."""
        step = step_of(event)
        if step is None:
            return
        moved = "" if "done_bytes" in event else step.detail
        if (step.label, moved) != self._last:
            self._last = (step.label, moved)
            line = f"{step.label}: {step.detail}" if step.detail else step.label
            self._console.print(line, markup=False, soft_wrap=True)  # a log's reader searches for whole URLs


class Bars:
    """Shows one bar per piece of work, on a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Move the bar of this piece of work, or begin one."""
        step = step_of(event)
        if step is None:
            return
        total = None if step.done is None else 1.0  # without a total the bar pulses
        task = self._tasks.get(step.label)
        if task is None:
            task = self._tasks[step.label] = self._progress.add_task(step.label, total=total, detail="")
        self._progress.update(task, total=total, completed=step.done or 0.0, detail=step.detail)
