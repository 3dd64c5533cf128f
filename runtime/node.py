"""The composition root: builds every part of a node, starts them in order, stops them in the opposite order.

Start: state directory (one node each), what a killed node left behind, registry, base zygotes (their imports take the
longest, so they begin first), router, listeners, functions. From then on the node answers; requests for a function
whose base zygote is still importing wait for it.

Stop, on SIGTERM or SIGINT: no new connections, requests under way finish (``drain_s`` at most), bakes end, workers and
zygotes end (``stop_grace_s``, then SIGKILL), ledger, logs and registry are written out. A second signal skips the
drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from glowplug.cache.holds import raise_file_limit

from . import accelerator, interpreters, modelpath
from .accelerator import Accelerator, Client
from .cachemetrics import CacheMetrics
from .clock import Clock, SystemClock
from .codestore import CodeStore
from .config import NodeConfig
from .deployments import Deployments
from .edge import Edge
from .enginemetrics import EngineMetrics
from .enginewatch import EngineWatch
from .eventing import Eventing
from .http.server import HttpServer
from .keyring import Access
from .logs import Logs
from .metrics import Metrics
from .nodecontrol import NodeControl
from .process.memory import MemoryWatch
from .process.sweep import sweep
from .process.zygotes import Zygotes
from .queueing import Queueing
from .registry import Registry
from .routing.attempts import Suppliers
from .routing.coldstart import Starter
from .routing.devicememory import DeviceMemory
from .routing.devicestart import DeviceStarter
from .routing.environment import Site
from .routing.ledger import Ledger
from .routing.router import Router
from .routing.sink import Memory, Sink
from .routing.tasks import OwnedTasks
from .spec import FunctionSpec
from .stackcontrol import StackControl
from .state import StateDirectory
from .tracing import traced

log = logging.getLogger(__name__)


class Node:
    """A node that is up. ``endpoint`` is the URL of its control listener; ``stop`` asks it to end."""

    def __init__(self, http: HttpServer, router: Router, control: NodeControl) -> None:
        self._http = http
        self.router = router
        self.control = control
        self._stopping = asyncio.Event()
        self.hurried = False

    def __repr__(self) -> str:
        return f"<Node {self.endpoint} {self.router!r}>"

    @property
    def endpoint(self) -> str:
        """The URL of the control listener, without a final slash."""
        return self._http.endpoint

    @property
    def public_port(self) -> int | None:
        """The port of the public listener, None without one."""
        return self._http.public_port

    def stop(self) -> None:
        """End the node; a second call skips what is left of the drain."""
        self.hurried = self._stopping.is_set()
        self._stopping.set()

    async def stopped(self) -> None:
        """Return once somebody asked the node to end."""
        await self._stopping.wait()


async def serve(
    config: NodeConfig,
    *,
    ready: Callable[[Node], Awaitable[None]],
    environ: Mapping[str, str] | None = None,
) -> None:
    """Run a node until a signal. ``ready`` is called once it answers, while it serves; what that raises ends the node.

    Raises ``StateError`` when the state directory or a port cannot be had.
    """
    async with running(config, environ=os.environ if environ is None else environ) as node:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        try:
            greeting = asyncio.ensure_future(ready(node))
            stopped = asyncio.ensure_future(node.stopped())
            await asyncio.wait((greeting, stopped), return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                greeting.result()
                await stopped
            else:
                greeting.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def running(config: NodeConfig, *, environ: Mapping[str, str], clock: Clock | None = None) -> AsyncIterator[Node]:
    """Run a node for the length of a block, in this event loop."""
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        raise_file_limit()
        state = StateDirectory(config)
        state.create()
        state.lock()
        stack.callback(state.close)
        killed = await asyncio.to_thread(sweep, state.processes)
        if killed:
            log.warning("ended %d processes that a killed node left behind", len(killed))
        state.sweep_staging()

        access = Access.of(config)
        http = HttpServer(config, clock=clock, guarded=access.guarded)
        http.bind()
        stack.push_async_callback(http.close, 0)

        zygotes = Zygotes(config, on_stray_log=_stray, environ=environ)
        await zygotes.start()
        stack.push_async_callback(zygotes.close)

        tool, why_none = await accelerator.find(environ)
        gpu = Accelerator(config, zygotes, clock, tool=tool, why_none=why_none)
        stack.push_async_callback(gpu.close)

        pythons = await interpreters.find(config.state / "run" / "python", config.pythons, environ)

        logs = Logs(state.logs, max_bytes=config.limits.log_file_bytes, region=config.region, clock=clock)
        stack.callback(logs.close)
        registry = await Registry.open(state.registry, arn_prefix=config.arn_prefix, now=clock.time)
        stack.push_async_callback(registry.close)
        queues = await Queueing.open(state.queue, config, clock)
        stack.push_async_callback(queues.close)
        ledger = Ledger(state.ledger, clock=clock, limit=config.limits.ledger_records)
        stack.push_async_callback(ledger.flush)
        memory_watch = MemoryWatch(clock=clock)
        stack.callback(memory_watch.close)

        code = CodeStore(state.code, config.limits)
        site = Site.of(
            config,
            http.endpoint,
            slot_of=registry.slot if zygotes.users else None,
            device_of=gpu.device_of,
            device_environment=gpu.environment,
        )

        def baked(spec: FunctionSpec) -> None:
            watch.baked(spec)
            router.rebind(spec.revision)

        models = modelpath.build(
            config,
            state,
            site=site,
            code=code,
            environ=environ,
            clock=clock,
            on_baked=baked,
            on_kept=lambda spec, reason: router.keep(spec.revision, reason),
            relieve=lambda wanted: router.relieve(wanted),
        )
        stack.push_async_callback(models.close)
        watch = EngineWatch(
            models.snapshots.book,
            on_given_up=lambda spec, why, at_once: router.given_up(spec.revision, why, at_once=at_once),
        )
        suppliers = Suppliers(
            site=site,
            zygotes=zygotes,
            cache=models.sources,
            pages=models.pages,
            snapshots=models.snapshots,
            code=code,
            logs=logs,
            clock=clock,
            interpreters=pythons,
        )
        memory = Memory(clock)
        router = Router(
            config=config,
            starter=_starter(suppliers, gpu, lambda: router),
            cache=models.sources,
            ledger=ledger,
            logs=logs,
            memory=memory_watch,
            clock=clock,
            available_bytes=memory.available_bytes,
            engines=watch,
        )
        streaming = OwnedTasks()
        stack.push_async_callback(streaming.close)
        stack.push_async_callback(router.close)

        metrics = Metrics(
            statuses=router.describe,
            cache=CacheMetrics(config, models.sources, models.pages),
            engines=EngineMetrics(watch.figures, lambda: models.snapshots.book.given_up),
            queues=queues.metrics,
        )
        ledger.subscribe(metrics.started)
        invoke = metrics.observed(traced(router.invoke))
        eventing = Eventing(
            config=config,
            queues=queues.store,
            registry=registry,
            router=router,
            invoke=invoke,
            ledger=ledger,
            metrics=metrics,
            key=state.hmac_key(),
            clock=clock,
        )

        def removed(name: str) -> None:
            metrics.forget(name)
            eventing.forget(name)
            watch.figures.forget(name)
            models.snapshots.book.forget(name)

        async def changed(specs: Sequence[FunctionSpec]) -> None:
            eventing.changed()
            await gpu.changed(specs)
            await models.tidy(specs)

        await queues.stacks.tidy(registry.catalog)

        deployments = Deployments(
            registry=registry,
            code=code,
            placement=router,
            engines=models.snapshots,
            on_removed=removed,
            on_changed=changed,
            followers=(eventing.polling.pollers.follow,),
        )
        control = NodeControl(
            registry=registry,
            placement=router,
            engines=models.snapshots,
            figures=watch,
            files=models.porting,
            ledger=ledger,
            logs=logs,
            state=config.state,
            clock=clock,
            endpoint=lambda: http.endpoint,
            base_zygotes=lambda: zygotes.statistics().bases,
            pythons=pythons.runtimes,
            backlogs=eventing.asynchronous.backlogs,
        )
        stacks = StackControl(
            registry=registry,
            deployments=deployments,
            code=code,
            sources=models.sources,
            queues=queues.stacks,
            mapped=eventing.polling.sources,
            clock=clock,
            device_refusal=gpu.refusal,
            arn_prefix=config.arn_prefix,
            pythons=pythons.runtimes,
        )
        stack.push_async_callback(deployments.close)
        stack.push_async_callback(eventing.close)
        await deployments.resume()
        await gpu.start(config, environ, lambda: _clients(router))
        await changed(deployments.specs())
        keys = access.keyring(config.state, site, lambda: registry.catalog.functions)
        edge = Edge(
            config=config,
            registry=registry,
            deployments=deployments,
            code=code,
            queues=queues,
            eventing=eventing,
            control=control,
            stacks=stacks,
            invoke=invoke,
            streaming=streaming,
            metrics=metrics,
            keys=keys,
            guarded=access.required,
            link_key=state.hmac_key(),
            clock=clock,
            endpoint=lambda: http.endpoint,
        )
        await eventing.start()
        on_control, on_public = edge.surfaces(stack)
        await http.serve(control=on_control, public=on_public)
        state.announce(http.endpoint)

        node = Node(http, router, control)
        _settle_garbage()
        sink = asyncio.create_task(Sink(router, ledger, clock, pressure=memory.short).run(), name="sink")
        sink.add_done_callback(lambda task: _sink_ended(task, node))
        stack.push_async_callback(_cancelled, sink)
        yield node
        await _drain(http, eventing, node, config.drain_s)


def _starter(suppliers: Suppliers, gpu: Accelerator, router: Callable[[], Router]) -> Starter:
    """Return what starts workers; ``router``, which needs it, is asked for only when a start wants room on the GPU."""
    if not gpu.present:
        return Starter(suppliers)
    room = DeviceMemory(
        gpu.ask,
        gpu.contexts,
        suppliers.clock,
        pools=lambda: router().states(),
        perform=lambda action: router().perform(action),
    )
    return DeviceStarter(suppliers, accelerator=gpu, memory=room)


def _clients(router: Router) -> list[tuple[FunctionSpec, Client]]:
    """Return the processes of all instances, with what they run."""
    return [(one.spec, one.worker) for one in router.instances() if one.worker is not None]


def _settle_garbage() -> None:
    """Take what the node is made of out of the garbage collector's sight, and let it look less often.

    A request makes a few hundred short-lived objects and no cycles. With the default thresholds every few requests pay
    for a collection, and some of those walk over every imported module.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _drain(http: HttpServer, eventing: Eventing, node: Node, drain_s: float) -> None:
    """Stop accepting and wait for requests, events and batches under way; a second signal ends the wait."""
    http.stop_accepting()
    eventing.stop()
    draining = asyncio.gather(http.close(drain_s), eventing.drained(drain_s))
    while not draining.done() and not node.hurried:
        await asyncio.wait((draining,), timeout=0.1)
    await _cancelled(draining)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _sink_ended(task: asyncio.Future[None], node: Node) -> None:
    """Nothing scales down any more: a fault of the runtime, which must not go unnoticed."""
    if not task.cancelled():
        log.critical("the scaler ended; the node stops", exc_info=task.exception())
        node.stop()


def _stray(name: str, data: bytes) -> None:
    """Log what a base zygote printed, which should be nothing."""
    log.warning("%s: %s", name, data.decode(errors="replace").rstrip())
