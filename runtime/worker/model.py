"""One model of a process: what the author described, its files, and once bound the engine that serves its calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from glowplug.snapshot.candidates import EAGER
from glowplug.snapshot.errors import EngineError, EngineFailed, InputUnsupported
from glowplug.snapshot.plan import Plan

from . import kinds
from .calls import Calls, drawn
from .sources import locate, source_of
from .verification import Verification

if TYPE_CHECKING:
    from glowplug.snapshot.recheck import Verdict

    from .kinds import Definition, Restored


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
    """One model of this process. ``device`` is what it runs on."""

    def __init__(
        self, definition: Definition, *, source: str = "", declared: Declared | None = None, device: str = "cpu"
    ) -> None:
        self.definition = definition
        self.source = source
        self.calls = Calls()
        self._declared = declared
        self._device = device
        self._files: Mapping[str, Path] | None = declared.files if declared is not None else None
        self._restored: Restored | None = None
        self._opened = False
        self._plain: Restored | None = None
        self._verification = Verification(declared.verify if declared is not None else 0.0)
        self._told: set[type[EngineError]] = set()

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
            self._files = MappingProxyType(locate(source_of(self.definition.name, self.source)))
        return self._files

    @property
    def sampled(self) -> bool:
        """Whether a call waits to be verified."""
        return self._verification.sample is not None

    def bind(self, plan: Plan | None = None) -> int:
        """Give the model the plan's engine (None: eager); returns the bytes of mapped weights.

        Raises ``SnapshotError``, ``cache.errors.CacheError``.
        """
        plan = replace(plan or Plan(), device=self._device)
        self._restored, self._opened = kinds.restore(self.definition, self.files, plan), False
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
            began_s = perf_counter()
            self._restored.engine.open(threads)
            self.calls.opened_s = perf_counter() - began_s
            self._opened = True
        return self._restored

    def check(self, threads: int) -> CheckReport:
        """Run the engine check. Raises ``CheckFailed`` and what ``snapshot.restore.check`` raises."""
        checked = kinds.check(self.open(threads))
        return CheckReport(checked.worst_error, checked.recorded)

    def begin(self) -> None:
        """Become an instance's: what was called until now, in a zygote or for a check, does not count."""
        self.calls.begin()
        self._verification.sample = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; binds it eagerly when nobody has bound it yet.

        A call that the engine does not take, or fails at, is answered by eager, or raises what eager raises.
        """
        restored = self._restored
        if restored is None or not self._opened:
            restored = self.open(len(os.sched_getaffinity(0)))
        calls, began_s = self.calls, perf_counter()
        warm = not calls.cold
        try:
            outputs = restored.engine.run(args, kwargs)
        except InputUnsupported as refusal:
            return self._run_plain(refusal, args, kwargs)
        except EngineFailed as failure:
            calls.failed += 1
            if self.engine == EAGER:
                raise
            return self._run_plain(failure, args, kwargs)
        except Exception:
            calls.failed += 1  # whose fault it is, its caller or the engine, is not known here
            raise
        calls.answer(perf_counter() - began_s)
        wanted = self._verification
        if wanted.share and warm and wanted.sample is None and self.engine != EAGER and drawn(wanted.share):
            wanted.keep(self.definition, args, kwargs, outputs)
        return outputs

    def verify(self) -> Verdict:
        """Run the sampled call again, eagerly, and compare; only asked where ``sampled``. Never raises for what the
        model does.

        The eager engine is made on first use and kept, on the mapped weights.
        """
        assert self._restored is not None  # noqa: S101 - it has answered the call
        return self._verification.verify(self._restored, self._bind_plain)

    def _bind_plain(self) -> Restored:
        if self._plain is None:
            self._plain = kinds.restore(self.definition, self.files, Plan(device=self._device))
            self._plain.engine.open(len(os.sched_getaffinity(0)))
        return self._plain

    def _run_plain(self, reason: EngineError, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call that the engine does not take, or fails at, with eager, as slowly as before the bake.

        The log has the first of either.
        """
        if type(reason) not in self._told:
            self._told.add(type(reason))
            print(f"glowplug: model {self.definition.name}: runs eagerly: {reason}", file=sys.stderr)
        return self._bind_plain().engine.run(args, kwargs)
