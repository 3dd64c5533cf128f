"""The models of this process: what the node declared, what the author described, and the engines that serve them.

One worker serves one function, so this is module state: ``declare`` (before the import of the handler) says which
files belong to which model; ``@model`` registers a ``Model``; ``bind`` gives each an engine; ``check`` runs the engine
check. In a plain Python process nothing is declared: a model finds its source itself and is bound on its first call.

Import-light: torch comes in with the models that need it (``kinds``), in a process whose zygote has torch already.
Models that are ONNX files are restored without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glowplug.snapshot.errors import ModelUnknown, SnapshotError
from glowplug.snapshot.plan import Plan

from . import kinds
from .kinds import Definition
from .model import CheckReport as CheckReport
from .model import Declared, Model
from .sources import locate as locate


@dataclass(frozen=True, slots=True)
class BindReport:
    """``engines``: model name -> engine that serves it; ``weight_bytes``: bytes of weights mapped and shared."""

    engines: dict[str, str]
    weight_bytes: int


_declared: dict[str, Declared] = {}
_models: dict[str, Model] = {}
_device = "cpu"  # what the node has them run on


def declare(models: Sequence[Mapping[str, Any]], *, device: str = "cpu") -> None:
    """Say which models the function has: ``name``, ``source``, ``files`` and ``verify`` of each, as in ``wire.Load``.

    ``device`` is what they run on. Called before the handler is imported; forgets what was declared and registered
    before.
    """
    global _device
    _models.clear()
    _declared.clear()
    _device = device
    for entry in models:
        files = MappingProxyType({name: Path(path) for name, path in entry["files"].items()})
        _declared[entry["name"]] = Declared(entry["name"], entry["source"], files, entry.get("verify", 0.0))


def register(definition: Definition, *, name: str = "", source: str = "") -> Model:
    """Add the author's model and return it. ``name`` is the one given in the code, if any.

    Which declared model it is: the one of that name, else the function's only one, else the one named like the builder.
    Raises ``ModelUnknown`` when models are declared and none of them is meant, or one is described twice.
    """
    declared = _meant(definition, name)
    if declared is None and _declared and not source:
        wanted = ", ".join(_spelled(known) for known in _declared)
        raise ModelUnknown(f"the template declares {wanted}; the code has a model {name or definition.name!r}")
    model = Model(definition, source=source, declared=declared, device=_device)
    before = _models.get(model.name)
    if before is not None and before.definition.identity != definition.identity:
        raise ModelUnknown(f"{before.definition.name} and {definition.name} are both {_spelled(model.name)}")
    _models[model.name] = model
    return model


def _meant(definition: Definition, name: str) -> Declared | None:
    if name:
        return _declared.get(name)
    if len(_declared) == 1 and not _models:
        return next(iter(_declared.values()))
    return _declared.get(definition.name)


def registered() -> list[str]:
    """Return the names of the models that the imported handler has, as the node knows them."""
    return list(_models)


def find(name: str) -> Model:
    """Return the model the node knows by ``name``. Raises ``ModelUnknown``."""
    model = _models.get(name)
    if model is None:
        known = ", ".join(_spelled(other) for other in _models) or "none"
        raise ModelUnknown(f"the template declares {_spelled(name)}; the handler has {known} (@model is missing?)")
    return model


def _spelled(name: str) -> str:
    """Return a declared model in words: a function's only one may be without a name."""
    return f"a model {name!r}" if name else "a model (Metadata.Glowplug.Model)"


def bind(plans: Sequence[Mapping[str, Any]]) -> BindReport:
    """Give every model an engine: those in ``plans`` (as in ``wire.Bind``) theirs, all others eager.

    Leaves the process single-threaded. Raises ``SnapshotError`` or ``cache.errors.CacheError``.
    """
    wanted = {plan["name"]: plan for plan in plans}
    for name in wanted:
        find(name)
    if not _models:
        return BindReport({}, 0)
    _set_threads(1)  # a thread pool made here would not exist in a forked worker
    weight_bytes = 0
    for name, model in _models.items():
        plan = wanted.get(name)
        if plan is None:
            weight_bytes += model.bind()
            continue
        snapshot = Path(plan["snapshot"]) if plan["snapshot"] else None
        weight_bytes += model.bind(Plan(plan["engine"], snapshot, bytes(plan["manifest"])))
    return BindReport({name: model.engine for name, model in _models.items()}, weight_bytes)


def check(threads: int) -> CheckReport:
    """Run every model's engine check with ``threads`` threads; in a process that nobody forks from afterwards.

    Raises ``CheckFailed``, ``SnapshotError``.
    """
    if not _models:
        return CheckReport(0.0, recorded=False)
    _set_threads(max(1, threads))
    reports = [model.check(max(1, threads)) for model in _models.values()]
    return CheckReport(max(report.worst_error for report in reports), all(report.recorded for report in reports))


def open_all(threads: int) -> None:
    """Make every model's engine ready to be called, in a process that nobody forks from afterwards.

    Raises ``SnapshotError``.
    """
    for model in _models.values():
        model.open(max(1, threads))


def begin() -> None:
    """Count from here on: this process becomes an instance."""
    for model in _models.values():
        model.begin()


def taken() -> tuple[list[list[Any]], bool]:
    """Return the rows of ``wire.Outcome.models`` since the last time, and whether a call waits to be verified."""
    rows = [row for name, model in _models.items() if (row := model.calls.take(name, model.engine)) is not None]
    return rows, any(model.sampled for model in _models.values())


def verify() -> list[list[Any]]:
    """Run the calls that wait again, eagerly; return the rows of ``wire.Verified.models``."""
    rows: list[list[Any]] = []
    for name, model in _models.items():
        if model.sampled:
            found = model.verify()
            rows.append([name, model.engine, found.verdict, found.worst_error, found.problem])
    return rows


def _set_threads(threads: int) -> None:
    for model in _models.values():
        kinds.set_threads(model.definition, threads)


def redefine(model: Model, **changes: Any) -> None:
    """Change parts of a model's definition (its example, its renaming); used by the decorators while importing."""
    if model.engine:
        raise SnapshotError(f"model {model.definition.name} is bound already; describe it before it is called")
    model.definition = replace(model.definition, **changes)
