"""Attempts of a start to import and bind: one after the other, down the engines, until one serves.

An attempt that fails through its engine is followed by another with the next one, the last with eager. That is the same
for all ways of ``coldstart``: what an attempt does is theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from glowplug.cache.errors import CacheError
from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError, StartError
from glowplug.runtime.interpreters import Interpreters
from glowplug.runtime.spec import FunctionSpec
from glowplug.snapshot.errors import SnapshotError

from .distrust import kind_of
from .environment import Site
from .home import Home, Parked, Started
from .ledger import Recording
from .materials import Materials
from .policy import Remedy, remedy, to_runtime
from .ports import Cache, Code, FunctionLog, Loadable, Logs, Pages, Snapshots, Zygotes

Result = TypeVar("Result", Parked, Started)


@dataclass(frozen=True, slots=True)
class Suppliers:
    """Who brings what a start needs."""

    site: Site
    zygotes: Zygotes
    cache: Cache
    pages: Pages
    snapshots: Snapshots
    code: Code
    logs: Logs
    clock: Clock
    interpreters: Interpreters = field(default_factory=Interpreters)


class Attempts:
    """Makes attempts. Holds no state."""

    def __init__(self, suppliers: Suppliers) -> None:
        self._cache = suppliers.cache
        self._pages = suppliers.pages
        self._snapshots = suppliers.snapshots
        self._logs = suppliers.logs
        self._clock = suppliers.clock

    async def until_one_serves(
        self, home: Home, recording: Recording, attempt: Callable[[Materials], Awaitable[Result]]
    ) -> Result:
        """Make an attempt; where the policy says so, give its engines up and make another with the next ones.

        A result that was planned before its engine turned out wrong (``Home.epoch``) is not used: it is made again.
        """
        spec = home.spec
        while True:
            with Materials(
                home, recording, cache=self._cache, pages=self._pages, snapshots=self._snapshots
            ) as material:
                try:
                    result = await self._down_the_ladder(spec, recording, material, attempt)
                except (CacheError, SnapshotError) as error:
                    raise to_runtime(error) from error
                if material.epoch == home.epoch:
                    if material.wants_bake:
                        self._snapshots.request_bake(spec)
                    return result
                result.process.kill("its engine was given up while it started")
                recording.notes.append("its engine was given up while it started, and it was started again")

    async def _down_the_ladder(
        self,
        spec: FunctionSpec,
        recording: Recording,
        material: Materials,
        attempt: Callable[[Materials], Awaitable[Result]],
    ) -> Result:
        while True:
            try:
                return await self._told(spec, attempt(material))
            except (GlowplugError, CacheError, SnapshotError) as error:
                if not material.engines or remedy(error) is not Remedy.EAGER:
                    raise
                await material.fall_back(self.give_up(spec, material.engines, error, recording))

    def give_up(self, spec: FunctionSpec, engines: Mapping[str, str], error: Exception, recording: Recording) -> str:
        """Give ``engines``, by model, up for ``error``; return the reason."""
        reason = f"{type(error).__name__}: {error}"
        for model_name, engine in engines.items():
            self._snapshots.give_up(spec, model_name, engine, reason, kind_of(error))
            recording.notes.append(f"{engine} was given up: {reason}")
        return reason

    async def _told(self, spec: FunctionSpec, attempt: Awaitable[Result]) -> Result:
        """Await an attempt to import and bind; the end of one that fails goes into the function's log."""
        began_s = self._clock.monotonic()
        try:
            return await attempt
        except (GlowplugError, CacheError, SnapshotError) as error:
            fault = error if isinstance(error, GlowplugError) else to_runtime(error)
            reported = fault.reported_type if isinstance(fault, StartError) else ""
            log, kind = self._logs.of(spec), reported or fault.error_type or type(fault).__name__
            if not reported or type(fault) is StartError:  # else the process that failed has printed it, with its trace
                log.output(f"[ERROR] {kind}: {fault}\n".encode())
            log.init_report((self._clock.monotonic() - began_s) * 1e3, status="error", error_type=kind)
            raise


@contextlib.asynccontextmanager
async def owned(process: Loadable, log: FunctionLog) -> AsyncIterator[None]:
    """Put what ``process`` prints into its function's ``log``; end it when the block does not succeed."""
    try:
        yield
    except BaseException:
        process.kill("its start did not succeed")
        raise
    finally:
        output = process.take_log()
        if output:
            log.output(output)
