"""The cold start: from nothing, or from a parked zygote, to a worker that may take a request.

Four ways, chosen by what the revision is and has (``Starter.start``):

1. *fork*: it is parked, and a worker is forked from its zygote;
2. *park and fork*: its zygote is built first: fork a base zygote, import the handler, bind the models, check the engine
   in a canary. For code that brings a module that base zygotes have preloaded, it is started as a program instead;
3. *fork and import*: ``Parking: off``; a worker is forked from a base zygote and does all of that itself;
4. *exec*: the function must not be forked (its settings say so, or its import left an obstacle); a worker is started as
   a program and does all of that itself.

What is found out on the way is remembered for the revision.

What a failure means stands in ``policy``, as tables; ``attempts`` goes on with the next engine where they say so. Files
are fetched and read ahead, and engines looked up, from the moment the start is decided, while the process is forked and
imports.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from glowplug.runtime.errors import CheckFailed, StartError
from glowplug.runtime.interpreters import OWN
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import WorkerDied
from glowplug.runtime.process.view import Place
from glowplug.runtime.spec import FunctionSpec

from .attempts import Attempts, Suppliers, owned
from .environment import Roots, load_environment
from .home import Home, NotForkable, Parked, Shadowed, Started
from .ledger import Recording
from .materials import Materials
from .orders import load_order, start_order, warmup_order
from .policy import is_engines
from .ports import FunctionZygote, Loadable, Worker
from .timelimit import time_limit

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""Pages do not leave memory so soon after their use: within it, a start from a parked zygote does not ask."""


class Starter:
    """Brings workers up. Holds no state but its collaborators: what a revision has is in its ``Home``."""

    def __init__(self, suppliers: Suppliers) -> None:
        self._site = suppliers.site
        self._zygotes = suppliers.zygotes
        self._pages = suppliers.pages
        self._code = suppliers.code
        self._logs = suppliers.logs
        self._interpreters = suppliers.interpreters
        self._clock = suppliers.clock
        self._attempts = Attempts(suppliers)
        self._numbers = itertools.count(1)
        self._refusals: set[str] = set()

    async def start(self, home: Home, instance_id: str, recording: Recording) -> Started:
        """Return a worker that is ready for its first request.

        Raises ``StartError``, ``WorkerDied`` when a process ended on the way, ``StartTimeout`` after
        InitTimeoutSeconds. Whatever it raises, no process of this start is left.
        """
        self._look_for_python(home)
        async with self._time_limit(home.spec):
            try:
                return await self._begin(home, instance_id, recording)
            except NotForkable as obstacle:
                home.exec_reason = str(obstacle)
            return await self._alone(home, instance_id, recording)

    async def _begin(self, home: Home, instance_id: str, recording: Recording) -> Started:
        way = self._fork if home.forkable else self._alone
        return await way(home, instance_id, recording)

    async def park(self, home: Home, recording: Recording) -> Parked:
        """Return the revision's zygote, built if there is none. Raises as ``start`` does, or ``NotForkable``."""
        self._look_for_python(home)
        if home.exec_reason:
            raise NotForkable(home.exec_reason)
        async with self._time_limit(home.spec):
            with recording.phase("wait") if home.building.locked() else contextlib.nullcontext():
                await home.building.acquire()
            try:
                if home.parked is None:
                    home.parked = await self._build_zygote(home, recording)
                return home.parked
            finally:
                home.building.release()

    async def rebuild(self, home: Home, recording: Recording) -> Parked | None:
        """Replace the revision's zygote by a new one; the old one serves until then, and is returned: the caller's.

        None, and nothing is built, when the function has sunk meanwhile: there is no zygote to replace any more.
        """
        async with self._time_limit(home.spec), home.building:
            if home.parked is None:
                return None
            fresh = await self._build_zygote(home, recording)
            replaced, home.parked = home.parked, fresh
            return replaced

    async def _build_zygote(self, home: Home, recording: Recording) -> Parked:
        recording.way = "park"

        async def build(material: Materials) -> Parked:
            try:
                return await self._build(home, material, recording)
            except Shadowed as own:
                home.shadowed = str(own)
            return await self._build(home, material, recording)

        return await self._attempts.until_one_serves(home, recording, build)

    # --- ways 1 and 2 -----------------------------------------------------------------------------------------------

    async def _fork(self, home: Home, instance_id: str, recording: Recording) -> Started:
        """Fork from the parked zygote; it is built when there is none, or when it had died unnoticed."""
        found = home.parked
        if found is not None:
            try:
                self._look_again(found, home, recording)
                return await self._fork_from(found, home.spec, instance_id, recording, built=False)
            except WorkerDied:
                if not found.zygote.exited.done():
                    raise
                recording.notes.append("the parked zygote had died and was built again")
                home.parked = None if home.parked is found else home.parked
            except StartError as error:
                if not found.engines or not is_engines(error):
                    raise
                self._attempts.give_up(home.spec, found.engines, error, recording)
                home.parked = None if home.parked is found else home.parked
                found.zygote.kill("its engine could not be opened")  # instances that have it open go on
        parked = await self.park(home, recording)
        built = parked.start_id == recording.start_id  # else another start, or a rebuild, was faster
        recording.way = "park and fork" if built else "fork"
        return await self._fork_from(parked, home.spec, instance_id, recording, built=built)

    async def _fork_from(
        self, parked: Parked, spec: FunctionSpec, instance_id: str, recording: Recording, *, built: bool
    ) -> Started:
        log = self._logs.of(spec)
        if not built:
            recording.engine, recording.engine_reason = parked.engine, parked.engine_reason
            recording.warmup = parked.warmup and "not repeated, the zygote it was forked from had passed"
            log.restore_start()
        began_s = self._clock.monotonic()
        with recording.phase("fork"):
            worker = await parked.zygote.fork(self._name(spec), uid=-1, gid=-1)
        await self._become_instance(worker, spec, instance_id, recording, restored=True)
        restore_ms = (self._clock.monotonic() - began_s) * 1e3
        if built:
            return Started(worker, parked, parked.init_ms, None)
        log.restore_report(restore_ms)
        return Started(worker, parked, None, restore_ms)

    def _look_again(self, parked: Parked, home: Home, recording: Recording) -> None:
        """Pages of a parked function may have left memory since it was last used: bring them back, beside the fork."""
        now_s = self._clock.monotonic()
        if home.weights is not None and now_s - parked.looked_at_s >= LOOK_AGAIN_S:
            parked.looked_at_s = now_s
            recording.reading = self._pages.begin(home.spec, home.weights, imported=True)

    async def _build(self, home: Home, material: Materials, recording: Recording) -> Parked:
        spec, began_s = home.spec, self._clock.monotonic()
        if home.shadowed:
            recording.notes.append(f"a zygote of its own: {home.shadowed}")
        with recording.phase("zygote"):
            user, place = self._site.user_of(spec.name), self._place(spec)
            bring = self._zygotes.own_zygote if home.shadowed else self._zygotes.function_zygote
            zygote = await bring(self._name(spec), lean=spec.lean, uid=user, gid=user, place=place)
        async with owned(zygote, self._logs.of(spec)):
            await self._load_and_bind(zygote, spec, material, recording, parked=True)
            init_ms = (self._clock.monotonic() - began_s) * 1e3
            if spec.models or spec.warmup_event:
                with recording.phase("warmup"):
                    recording.warmup = await self._canary(zygote, spec)
        built_at_s = self._clock.monotonic()
        return Parked(
            zygote,
            recording.start_id,
            built_at_s=built_at_s,
            looked_at_s=built_at_s,
            init_ms=init_ms,
            engine=recording.engine,
            engine_reason=recording.engine_reason,
            warmup=recording.warmup,
            epoch=material.epoch,
            engines=dict(material.engines),
        )

    async def _canary(self, zygote: FunctionZygote, spec: FunctionSpec) -> str:
        """Check the engine in a fork that serves nobody, so that every later fork is known to be good."""
        canary = await zygote.fork(self._name(spec), uid=-1, gid=-1)
        async with owned(canary, self._logs.of(spec)):
            said = await self._check(canary, spec) if spec.models else "no engine"
            if spec.warmup_event:
                await canary.start(self._start_order(spec, "canary", restored=True))
                said += f"; {await self._call_handler(canary, spec, spec.warmup_event)}"
            canary.kill("checked")  # it served nobody and flushed before it answered: nothing to wait for
        return f"{said} (in a canary)"

    # --- ways 3 and 4 -----------------------------------------------------------------------------------------------

    async def _alone(self, home: Home, instance_id: str, recording: Recording) -> Started:
        """Start a worker that imports and binds by itself."""
        recording.way = "exec" if home.exec_reason else "fork and import"
        if home.exec_reason:
            recording.notes.append(f"not forked: {home.exec_reason}")
        process, began_s = partial(self._alone_process, home, recording), self._clock.monotonic()
        return await self._attempts.until_one_serves(
            home,
            recording,
            lambda material: self._import_in(process, home, instance_id, material, recording, began_s=began_s),
        )

    async def _alone_process(self, home: Home, recording: Recording) -> Worker:
        spec, user = home.spec, self._site.user_of(home.spec.name)
        place = self._place(spec)
        if home.exec_reason:
            with recording.phase("exec"):
                own = load_environment(self._site, spec, Roots.laid(spec))
                return await self._zygotes.execute(
                    self._name(spec),
                    environment=own,
                    uid=user,
                    gid=user,
                    place=place,
                    interpreter=self._interpreters.of(spec),
                )
        with recording.phase("fork"):
            return await self._zygotes.worker(self._name(spec), lean=spec.lean, uid=user, gid=user, place=place)

    async def _import_in(
        self,
        process: Callable[[], Awaitable[Worker]],
        home: Home,
        instance_id: str,
        material: Materials,
        recording: Recording,
        *,
        began_s: float,
    ) -> Started:
        """Have an empty worker, which ``process`` brings, import and bind by itself."""
        spec, worker = home.spec, await process()
        async with owned(worker, self._logs.of(spec)):
            await self._load_and_bind(worker, spec, material, recording, parked=False)
            if spec.models:
                with recording.phase("warmup"):
                    recording.warmup = await self._check(worker, spec)
        await self._become_instance(worker, spec, instance_id, recording, restored=False)
        return Started(worker, None, (self._clock.monotonic() - began_s) * 1e3, None)

    # --- steps that the ways share ----------------------------------------------------------------------------------

    async def _load_and_bind(
        self, process: Loadable, spec: FunctionSpec, material: Materials, recording: Recording, *, parked: bool
    ) -> None:
        """Import the handler and bind the models. Raises ``NotForkable`` when only exec can do that."""
        self._logs.of(spec).init_start()
        with recording.phase("fetch") if spec.models else contextlib.nullcontext():
            files = await material.files()
        # After a bake too: another engine reads other files.
        observe = bool(spec.models) and (recording.cause in ("bake", "distrust") or self._pages.unknown(spec))
        other = self._interpreters.of(spec)
        python = OWN if other is None else other.runtime
        roots = Roots.laid(spec)
        order = load_order(self._site, spec, roots, files, python=python, parked=parked, observe=observe)
        with recording.phase("import"):
            loaded = await process.load(order)
        recording.measured("namespace", loaded.namespace_ms)
        if loaded.obstacle:
            raise (Shadowed if loaded.shadowed else NotForkable)(loaded.obstacle)
        if not spec.models:
            return
        with recording.phase("restore"):
            bound = await process.bind(await material.bind())
        recording.engine = ", ".join(sorted(set(bound.engines.values())))
        recording.engine_reason = await material.reason()
        recording.bytes_read, recording.bytes_from = bound.weight_bytes, "the local store"
        if parked and bound.obstacle:
            raise NotForkable(bound.obstacle)

    async def _check(self, worker: Worker, spec: FunctionSpec) -> str:
        checked = await worker.check(wire.Check(threads=self._site.cores))
        if checked.reads:
            self._pages.learn(spec, checked.reads)
        if checked.recorded:
            return f"passed, largest difference from the recorded output {checked.worst_error:.2g}"
        return "passed: finite, of the right shape and dtype; what runs on eager is compared with no record"

    async def _become_instance(
        self, worker: Worker, spec: FunctionSpec, instance_id: str, recording: Recording, *, restored: bool
    ) -> None:
        async with owned(worker, self._logs.of(spec)):
            with recording.phase("start"):
                ready = await worker.start(self._start_order(spec, instance_id, restored=restored))
            if restored:
                recording.measured("namespace", ready.namespace_ms)
            if ready.refusal:
                recording.notes.append(ready.refusal)
                self._warn(ready.refusal)

    def _start_order(self, spec: FunctionSpec, instance_id: str, *, restored: bool) -> wire.Start:
        return start_order(self._site, spec, instance_id, at_s=self._clock.time(), restored=restored)

    def _place(self, spec: FunctionSpec) -> Place:
        """Return where the function's files are. Raises ``StartError`` when its layers are not here."""
        roots = Roots.real(spec, self._code)
        return Place(roots.task, roots.layers, spec.ephemeral_mb)

    def _look_for_python(self, home: Home) -> None:
        """Remember that a function on another interpreter than the node's starts by exec."""
        other = self._interpreters.of(home.spec)
        if other is not None and not home.exec_reason:
            home.exec_reason = other.reason

    def _warn(self, refusal: str) -> None:
        """Say once per node what its kernel refuses to functions."""
        if refusal not in self._refusals:
            self._refusals.add(refusal)
            _log.warning("functions have %s", refusal)

    async def _call_handler(self, canary: Worker, spec: FunctionSpec, event: str) -> str:
        """Call the handler with Warmup.Event, JSON text by now. Raises ``CheckFailed`` when it fails."""
        answer = await canary.invoke(warmup_order(self._site, spec, event.encode(), at_s=self._clock.time()))
        if answer.failed:
            raise CheckFailed(f"the handler failed on Warmup.Event: {answer.error_type}")
        return f"the handler took Warmup.Event in {answer.handler_ms:.1f} ms"

    def _time_limit(self, spec: FunctionSpec) -> contextlib.AbstractAsyncContextManager[None]:
        return time_limit(spec, clock=self._clock, log=self._logs.of(spec))

    def _name(self, spec: FunctionSpec) -> str:
        return f"{spec.name}-{next(self._numbers)}"
