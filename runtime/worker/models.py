"""The models of this process: what the node declared, what the author described, and the engines that serve them.

One worker serves one function, so this is module state: ``declare`` (before the import of the handler) says which
files belong to which model; ``@model`` registers a ``Model``; ``bind`` gives each an engine; ``check`` runs the engine
check. In a plain Python process nothing is declared: a model finds its source itself and is bound on its first call.

Import-light: torch comes in with ``glowplug.snapshot.restore``, imported late where models are bound, in a process
whose zygote has torch already. Models that are ONNX files are restored without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from glowplug.snapshot.definition import ModelDefinition, OnnxDefinition
from glowplug.snapshot.errors import InputUnsupported, ModelUnknown, SnapshotError
from glowplug.snapshot.plan import Checked, Plan
from glowplug.snapshot.tolerance import Tolerance

from .calls import Calls, drawn

if TYPE_CHECKING:
    from glowplug.cache.holds import Hold
    from glowplug.snapshot.onnx.restore import Restored as OnnxRestored
    from glowplug.snapshot.recheck import Judge, Sample, Verdict
    from glowplug.snapshot.restore import Restored

Definition = ModelDefinition | OnnxDefinition
"""A model of either kind: a torch module, or an ONNX file."""

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
    """A model as the node knows it. ``name`` is empty for a function's only model; ``verify`` is the share of its warm
    calls that eager makes again."""

    name: str
    source: str
    files: Mapping[str, Path]
    verify: float = 0.0


class Model:
    """One model of this process: its definition, its files, and once bound its engine."""

    def __init__(self, definition: Definition, *, source: str = "", declared: Declared | None = None) -> None:
        self.definition = definition
        self.source = source
        self._declared = declared
        self._files: Mapping[str, Path] | None = declared.files if declared is not None else None
        self._restored: Restored | OnnxRestored | None = None
        self._opened = False
        self._plain: Restored | OnnxRestored | None = None
        self.calls = Calls()
        self._verify = declared.verify if declared is not None else 0.0
        self._sample: Sample | None = None
        self._refused = False

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
        plan = replace(plan or Plan(), device=_device)
        self._restored, self._opened = _restore(self.definition, self.files, plan), False
        self._plain = None
        return self._restored.mapped_bytes

    def open(self, threads: int) -> Restored | OnnxRestored:
        """Make ready what must not be forked, binding before if nobody has; a second call changes nothing.

        Raises as ``bind``, or ``EngineError``.
        """
        if self._restored is None:
            self.bind()
        assert self._restored is not None  # noqa: S101 - bind has just set it
        if not self._opened:
            began_s = perf_counter()
            self._restored.engine.open(threads)
            self.calls.opened_s = perf_counter() - began_s
            self._opened = True
        return self._restored

    def check(self, threads: int) -> CheckReport:
        """Run the engine check. Raises ``CheckFailed`` and what ``snapshot.restore.check`` raises."""
        checked = _check(self.open(threads))
        return CheckReport(checked.worst_error, checked.recorded)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; binds it eagerly when nobody has bound it yet."""
        restored = self._restored
        if restored is None or not self._opened:
            restored = self.open(len(os.sched_getaffinity(0)))
        calls, began_s = self.calls, perf_counter()
        warm = not calls.cold
        try:
            outputs = restored.engine.run(args, kwargs)
        except InputUnsupported as refusal:
            return self._run_plain(refusal, args, kwargs)
        except Exception:
            calls.failed += 1  # whose fault it is, its caller or the engine, is not known here
            raise
        calls.answer(perf_counter() - began_s)
        if self._verify and warm and self._sample is None and self.engine != "eager" and drawn(self._verify):
            self._keep(args, kwargs, outputs)
        return outputs

    def _keep(self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        from glowplug.snapshot.recheck import sample  # late: most functions verify nothing

        try:
            self._sample = sample(args, kwargs, outputs, _judge(self.definition))
        except Exception as error:  # whatever cannot be copied: the call was answered, and must stay so
            self._verify_no_more(f"a call cannot be copied: {type(error).__name__}: {error}")

    def _verify_no_more(self, why: str) -> None:
        self._verify = 0.0
        print(f"glowplug: model {self.definition.name}: calls are not verified: {why}", file=sys.stderr)

    @property
    def sampled(self) -> bool:
        """Whether a call waits to be verified."""
        return self._sample is not None

    def begin(self) -> None:
        """Become an instance's: what was called until now, in a zygote or for a check, does not count."""
        self.calls.begin()
        self._sample = None

    def verify(self) -> Verdict:
        """Run the sampled call again, eagerly, and compare. Never raises for what the model does.

        The eager engine is made on first use and kept, on the mapped weights. Where nothing can be compared, no further
        call of this process is tried.
        """
        from glowplug.snapshot.recheck import Verdict, recheck  # late, as in ``_keep``

        taken, self._sample = self._sample, None
        assert taken is not None and self._restored is not None  # noqa: S101, PT018 - only asked where ``sampled``
        try:
            plain, bounds = self._bind_plain(), _tolerance(self._restored)
        except Exception as error:  # the author's builder; the call was answered, only its check is lost
            found = Verdict("unknown", problem=f"no eager engine: {type(error).__name__}: {error}")
        else:
            found = recheck(taken, plain.engine.run, bounds, _judge(self.definition))
        if found.verdict == "unknown":
            self._verify_no_more(found.problem)
        return found

    def _bind_plain(self) -> Restored | OnnxRestored:
        if self._plain is None:
            self._plain = _restore(self.definition, self.files, Plan(device=_device))
            self._plain.engine.open(len(os.sched_getaffinity(0)))
        return self._plain

    def _run_plain(self, refusal: InputUnsupported, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call that the compiled engine does not take with eager, as slowly as before the bake."""
        if not self._refused:
            self._refused = True
            print(f"glowplug: model {self.definition.name}: runs eagerly: {refusal}", file=sys.stderr)
        return self._bind_plain().engine.run(args, kwargs)

    def _own_source(self) -> str:
        source = self.source or os.environ.get(SOURCE_VARIABLE, "")
        if not source:
            name = self.definition.name
            raise ModelUnknown(
                f"model {name} has no source: declare it in the template (Metadata.Glowplug.Model), write "
                f'@model(source="…") or onnx_model(…, source="…"), or set {SOURCE_VARIABLE}'
            )
        return source


_declared: dict[str, Declared] = {}
_models: dict[str, Model] = {}
_device = "cpu"  # what the node has them run on
_held: list[Hold] = []  # what this process fetched by itself; the kernel lets go when it ends


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
    model = Model(definition, source=source, declared=declared)
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
    _set_torch_threads(1)  # a thread pool made here would not exist in a forked worker
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
    _set_torch_threads(max(1, threads))
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


def _set_torch_threads(threads: int) -> None:
    if any(isinstance(model.definition, ModelDefinition) for model in _models.values()):
        import torch  # late: the base zygote has it already; a lean process never gets here

        torch.set_num_threads(threads)


def _restore(definition: Definition, files: Mapping[str, Path], plan: Plan) -> Restored | OnnxRestored:
    """Restore a model of either kind; only one of them may import torch."""
    if isinstance(definition, OnnxDefinition):
        from glowplug.snapshot.onnx import restore as onnx  # late, both: what a process has none of costs it nothing

        return onnx.restore(definition, files, plan)
    from glowplug.snapshot import restore

    return restore.restore(definition, files, plan)


def _check(restored: Restored | OnnxRestored) -> Checked:
    if isinstance(restored.definition, OnnxDefinition):
        from glowplug.snapshot.onnx import restore as onnx  # late, both, as above

        return onnx.check(restored)
    from glowplug.snapshot import restore

    return restore.check(restored)


def _judge(definition: Definition) -> Judge:
    """Return what compares the outputs of a model of this kind."""
    if isinstance(definition, OnnxDefinition):
        from glowplug.snapshot.onnx import outputs  # late, both, as above

        return outputs
    from glowplug.snapshot import verify

    return verify


def _tolerance(restored: Restored | OnnxRestored) -> Tolerance:
    if isinstance(restored.definition, OnnxDefinition):
        record = restored.record
        if record is None:
            raise RuntimeError("nothing was recorded")
        return Tolerance(record.absolute, record.relative)
    from glowplug.snapshot import restore  # late, as above

    return restore.tolerance(restored)


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
