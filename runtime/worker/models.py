"""The models of this process: what the node declared, what the author described, and the engines that serve them.

One worker serves one function, so this is module state: ``declare`` (before the import of the handler) says which
files belong to which model; ``@model`` registers a ``Model``; ``bind`` gives each an engine; ``check`` runs the engine
check. In a plain Python process nothing is declared: a model finds its source itself and is bound on its first call.

Import-light: torch comes in with ``glowplug.snapshot.restore``, imported late where models are bound, in a process
whose zygote has torch already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.errors import InputUnsupported, ModelUnknown, SnapshotError

if TYPE_CHECKING:
    from glowplug.cache.holds import Hold
    from glowplug.snapshot.restore import Plan, Restored

SOURCE_VARIABLE = "GLOWPLUG_MODEL_SOURCE"


@dataclass(frozen=True, slots=True)
class BindReport:
    """``engines``: model name -> engine that serves it; ``weight_bytes``: bytes of weights mapped and shared."""

    engines: dict[str, str]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """``worst_error``: largest absolute difference over all models; ``recorded``: whether there were recorded outputs
    for every model."""

    worst_error: float
    recorded: bool


@dataclass(frozen=True, slots=True)
class Declared:
    """A model as the node knows it. ``name`` is empty for a function's only model."""

    name: str
    source: str
    files: Mapping[str, Path]


class Model:
    """One model of this process: its definition, its files, and once bound its engine."""

    def __init__(self, definition: ModelDefinition, *, source: str = "", declared: Declared | None = None) -> None:
        self.definition = definition
        self.source = source
        self._declared = declared
        self._files: Mapping[str, Path] | None = declared.files if declared is not None else None
        self._restored: Restored | None = None
        self._opened = False
        self._plain: Restored | None = None

    def __repr__(self) -> str:
        return f"<Model {self.definition.name!r} engine={self.engine or 'none'}>"

    @property
    def name(self) -> str:
        """The name by which the node knows it; where nothing was declared, the author's."""
        return self._declared.name if self._declared is not None else self.definition.name

    @property
    def engine(self) -> str:
        """The label of the engine that serves it; empty before it is bound."""
        return self._restored.label if self._restored is not None else ""

    @property
    def files(self) -> Mapping[str, Path]:
        """File name -> path. Raises ``ModelUnknown`` without a source, ``CacheError`` when it cannot be had."""
        if self._files is None:
            self._files = MappingProxyType(locate(self._own_source()))
        return self._files

    def bind(self, plan: Plan | None = None) -> int:
        """Give the model the plan's engine (None: eager); returns the bytes of mapped weights.

        Raises ``SnapshotError``, ``cache.errors.CacheError``.
        """
        from glowplug.snapshot.restore import Plan, restore  # late: the first import of torch, as documented above

        self._restored, self._opened = (
            restore(self.definition, self.files, replace(plan or Plan(), device=_device)),
            False,
        )
        self._plain = None
        return self._restored.mapped_bytes

    def open(self, threads: int) -> Restored:
        """Make ready what must not be forked, binding before if nobody has; a second call changes nothing.

        Raises as ``bind``, or ``EngineError``.
        """
        if self._restored is None:
            self.bind()
        assert self._restored is not None  # noqa: S101 - bind has just set it
        if not self._opened:
            self._restored.engine.open(threads)
            self._opened = True
        return self._restored

    def check(self, threads: int) -> CheckReport:
        """Run the engine check. Raises ``CheckFailed`` and what ``snapshot.restore.check`` raises."""
        from glowplug.snapshot.restore import check  # late, as in ``bind``

        checked = check(self.open(threads))
        return CheckReport(checked.worst_error, checked.recorded)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; binds it eagerly when nobody has bound it yet."""
        restored = self._restored
        if restored is None or not self._opened:
            restored = self.open(len(os.sched_getaffinity(0)))
        try:
            return restored.engine.run(args, kwargs)
        except InputUnsupported as refusal:
            return self._run_plain(refusal, args, kwargs)

    def _run_plain(self, refusal: InputUnsupported, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call that the compiled engine does not take with eager, as slowly as before the bake."""
        from glowplug.snapshot.restore import Plan, restore  # late, as in ``bind``

        if self._plain is None:
            print(f"glowplug: model {self.definition.name}: runs eagerly: {refusal}", file=sys.stderr)
            self._plain = restore(self.definition, self.files, Plan(device=_device))
            self._plain.engine.open(len(os.sched_getaffinity(0)))
        return self._plain.engine.run(args, kwargs)

    def _own_source(self) -> str:
        source = self.source or os.environ.get(SOURCE_VARIABLE, "")
        if not source:
            name = self.definition.name
            raise ModelUnknown(
                f"model {name} has no source: declare it in the template (Metadata.Glowplug.Model), write "
                f'@model(source="…"), or set {SOURCE_VARIABLE}'
            )
        return source


_declared: dict[str, Declared] = {}
_models: dict[str, Model] = {}
_device = "cpu"  # what the node has them run on
_held: list[Hold] = []  # what this process fetched by itself; the kernel lets go when it ends


def declare(models: Sequence[Mapping[str, Any]], *, device: str = "cpu") -> None:
    """Say which models the function has: ``name``, ``source`` and ``files`` of each, as in ``wire.Load``.

    ``device`` is what they run on. Called before the handler is imported; forgets what was declared and registered
    before.
    """
    global _device
    _models.clear()
    _declared.clear()
    _device = device
    for entry in models:
        files = MappingProxyType({name: Path(path) for name, path in entry["files"].items()})
        _declared[entry["name"]] = Declared(entry["name"], entry["source"], files)


def register(definition: ModelDefinition, *, name: str = "", source: str = "") -> Model:
    """Add the author's model and return it. ``name`` is the one given in the code, if any.

    Which declared model it is: the one of that name, else the function's only one, else the one named like the builder.
    Raises ``ModelUnknown`` when models are declared and none of them is meant, or one is described twice.
    """
    declared = _meant(definition, name)
    if declared is None and _declared and not source:
        wanted = ", ".join(_spelled(known) for known in _declared)
        raise ModelUnknown(f"the template declares {wanted}; the code has a model {name or definition.name!r}")
    model = Model(definition, source=source, declared=declared)
    before = _models.get(model.name)
    if before is not None and before.definition.build.__qualname__ != definition.build.__qualname__:
        raise ModelUnknown(f"{before.definition.name} and {definition.name} are both {_spelled(model.name)}")
    _models[model.name] = model
    return model


def _meant(definition: ModelDefinition, name: str) -> Declared | None:
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
    import torch  # late: the base zygote has it already; a lean process never gets here

    from glowplug.snapshot.restore import Plan

    torch.set_num_threads(1)  # a thread pool made here would not exist in a forked worker
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
    import torch  # late, as in ``bind``

    torch.set_num_threads(max(1, threads))
    reports = [model.check(max(1, threads)) for model in _models.values()]
    return CheckReport(max(report.worst_error for report in reports), all(report.recorded for report in reports))


def open_all(threads: int) -> None:
    """Make every model's engine ready to be called, in a process that nobody forks from afterwards.

    Raises ``SnapshotError``.
    """
    for model in _models.values():
        model.open(max(1, threads))


def redefine(model: Model, **changes: Any) -> None:
    """Change parts of a model's definition (its example, its renaming); used by the decorators while importing."""
    if model.engine:
        raise SnapshotError(f"model {model.definition.name} is bound already; describe it before it is called")
    model.definition = replace(model.definition, **changes)


def locate(source: str) -> dict[str, Path]:
    """Return file name -> path of a model source, for a process without a node. Local sources are used in place;
    others are fetched once into ``GLOWPLUG_CACHE`` or ``~/.cache/glowplug``, and held there for this process's life.

    Raises ``cache.errors.CacheError``.
    """
    from glowplug.cache.fetch import fetch  # late: a worker under a node never needs them
    from glowplug.cache.sources.table import open_source
    from glowplug.cache.store import BlobStore

    roots = (Path("/"),)  # the process is its user's own: what it may read, it may name
    if source.startswith(("package://", "file://")):
        paths = {}
        for file in open_source(source, file_roots=roots):
            with file.open() as stream:
                paths[file.name] = Path(os.readlink(f"/proc/self/fd/{stream.fileno()}"))
        return paths
    store = BlobStore(Path(os.environ.get("GLOWPLUG_CACHE") or Path.home() / ".cache" / "glowplug"))
    manifest = fetch(source, store, file_roots=roots).manifest
    hold = store.hold(manifest.blobs)
    _held.append(hold)
    return {file.name: hold.paths[file.sha256] for file in manifest.files}
