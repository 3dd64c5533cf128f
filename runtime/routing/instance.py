"""An instance: the router's view of one worker, as a state machine.

    STARTING ──▶ READY ◀──▶ BUSY          ready(), reserve(), release()
        │          │          │
        │          └──▶ DRAINING ◀─┘      drain(): it is no longer chosen; a lease it holds is finished first
        │                  │
        └──────▶ STOPPED ◀─┘              stopped(): on purpose
    any of the four ──▶ FAILED            failed(): it could not start, or its process ended by itself

``reserve`` flips the state in the same synchronous step in which the instance is chosen, so nobody else can choose,
stop or drain it as if it were free between the choice and the moment the request runs (httpcore #1110 is that gap).
"""

from __future__ import annotations

import enum
import math

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import (
    FunctionFault,
    HandlerTimeout,
    InternalError,
    InvocationCancelled,
    ResponseTooLarge,
    WorkerExited,
)
from glowplug.runtime.invocation import Invocation, Outcome, Tier
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import WorkerDied
from glowplug.runtime.responsestream import ResponseStream
from glowplug.runtime.spec import FunctionSpec

from .home import Parked
from .policy import CANCELLED, TIMEOUT, died_fault
from .ports import EngineWatch, FunctionLog, InvocationLog, Memory, Worker
from .records import StartRecord
from .streamguard import StreamGuard

_ENDED = {TIMEOUT: "timed out", CANCELLED: "was cancelled"}


class State(enum.Enum):
    """Where an instance is in its life."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class IllegalTransition(InternalError):
    """An instance was asked for a step that its state does not allow. The message has both states."""


class Instance:
    """One instance of one revision. All methods but ``invoke`` are synchronous and take no time."""

    __slots__ = (
        *("instance_id", "spec", "worker", "record", "parked", "state", "idle_since_s", "served", "why"),
        *("leave_by_s", "running", "checking", "_clock", "_log", "_memory", "_limits", "_engines"),
        *("_init_ms", "_restore_ms", "_ended_for", "_cancel_grace_s"),
    )

    def __init__(
        self,
        instance_id: str,
        spec: FunctionSpec,
        *,
        clock: Clock,
        log: FunctionLog,
        memory: Memory,
        limits: Limits,
        engines: EngineWatch,
        cancel_grace_s: float = 5.0,
    ) -> None:
        self.instance_id = instance_id
        self.spec = spec
        self.worker: Worker | None = None
        self.record: StartRecord | None = None
        self.parked: Parked | None = None  # the zygote that its worker was forked from
        self.state = State.STARTING
        self.idle_since_s = math.inf
        self.served = 0
        self.why = ""
        self.leave_by_s = 0.0  # while draining: when an invocation that nobody waits for runs into its deadline
        self.running = ""  # the invocation that somebody waits for
        self.checking = ""  # the invocation that was answered and is being checked: nobody's turn yet
        self._engines = engines
        self._clock = clock
        self._log = log
        self._memory = memory
        self._limits = limits
        self._cancel_grace_s = cancel_grace_s
        self._init_ms: float | None = None
        self._restore_ms: float | None = None
        self._ended_for = ""  # why the node ended the invocation under way: TIMEOUT or CANCELLED

    def __repr__(self) -> str:
        why = f", {self.why}" if self.why else ""
        return f"<Instance {self.spec.name} {self.instance_id[:8]} {self.state.value}, served={self.served}{why}>"

    # --- transitions ------------------------------------------------------------------------------------------------

    def ready(
        self, worker: Worker, record: StartRecord, *, init_ms: float | None = None, restore_ms: float | None = None
    ) -> None:
        """STARTING → READY: the start is done. The durations go to the REPORT of the first invocation."""
        self._step(State.READY, State.STARTING)
        self.worker = worker
        self.record = record
        self.idle_since_s = self._clock.monotonic()
        self._init_ms = init_ms
        self._restore_ms = restore_ms

    def reserve(self) -> None:
        """READY → BUSY: a request owns it."""
        if self.state is not State.READY:
            raise self._refused(State.BUSY)
        self.state = State.BUSY

    def release(self) -> None:
        """BUSY → READY: the request is done with it."""
        if self.state is not State.BUSY:
            raise self._refused(State.READY)
        self.state = State.READY
        self.idle_since_s = self._clock.monotonic()

    def drain(self, why: str) -> None:
        """READY or BUSY → DRAINING: it is not chosen again."""
        self._step(State.DRAINING, State.READY, State.BUSY)
        self.why = why

    def stopped(self, why: str = "") -> None:
        """STARTING or DRAINING → STOPPED: the process is gone, or its start was discarded."""
        self._step(State.STOPPED, State.STARTING, State.DRAINING)
        self.why = why or self.why

    def failed(self, why: str) -> None:
        """STARTING, READY, BUSY or DRAINING → FAILED."""
        self._step(State.FAILED, State.STARTING, State.READY, State.BUSY, State.DRAINING)
        self.why, self.checking = why, ""

    def _step(self, target: State, *sources: State) -> None:
        if self.state not in sources:
            raise self._refused(target)
        self.state = target

    def _refused(self, target: State) -> IllegalTransition:
        which = f"instance {self.instance_id[:8]} of {self.spec.name}"
        return IllegalTransition(f"{which} cannot become {target.value}: it is {self.state.value}")

    # --- the request path -------------------------------------------------------------------------------------------

    async def invoke(
        self, invocation: Invocation, *, threads: int, tier: Tier, waited: tuple[tuple[str, float], ...] = ()
    ) -> Outcome:
        """Call the handler and return what its caller gets; the caller of this holds the lease.

        A handler that fails, runs into its Timeout, ends its process or answers too much gives an ``Outcome`` with
        ``function_error``. Raises ``WorkerDied`` only when the request certainly never reached the process. Cancelled:
        the handler may finish what it began (it has side effects), then the instance goes; it is never chosen again.

        With a stream, what the handler streams has gone there by then; a stream that is abandoned ends the handler and
        not this, so that what it did is logged and accounted for.
        """
        worker, spec, stream = self._owned(), self.spec, invocation.stream
        began_s, self.running = self._clock.monotonic(), invocation.request_id
        alarm = self._clock.call_later(spec.timeout_s, lambda: self._end(TIMEOUT))
        answer: wire.Outcome | WorkerDied
        guard = None if stream is None else self._guard(stream, worker, invocation.request_id)
        try:
            if guard is not None:
                guard.attach(tier, waited)
            answer = await worker.invoke(
                wire.Invoke(
                    invocation_id=invocation.request_id,
                    events=[invocation.payload],
                    deadline_ms=int((self._clock.time() + spec.timeout_s) * 1e3),
                    function_arn=invocation.function_arn,
                    trace_id=invocation.trace_id,
                    client_context=invocation.client_context,
                    identity=invocation.identity,
                    threads=threads,
                    window_bytes=0 if stream is None else stream.window_bytes,
                ),
                stream,
            )
        except WorkerDied as death:
            answer = death
        except BaseException:
            if self.state is State.BUSY:
                self.drain("its caller went away")
            self.leave_by_s = began_s + spec.timeout_s
            raise
        finally:
            self.running = ""
            alarm.cancel()
            if guard is not None:
                guard.close()
        duration_ms = (self._clock.monotonic() - began_s) * 1e3
        if type(answer) is wire.Outcome and (answer.models or answer.checking):
            self._note_calls(answer)
        if type(answer) is wire.Outcome and not self._ended_for and self._acceptable(answer, stream):
            payload, failed, handler_ms = b"".join(answer.results), answer.failed, answer.handler_ms
            lines = self._write(worker, invocation, duration_ms, payload, failed=failed)
        else:
            fault = self._fault(invocation.request_id, answer, stream)
            payload, failed, handler_ms = fault.body(), True, duration_ms
            lines = self._write(worker, invocation, duration_ms, payload, failed=True, fault=fault)
        if guard is not None and guard.killed and self.state is not State.FAILED:
            self.failed("killed: its client had gone")  # an answer that crossed the kill saves nobody
        self.served += 1
        return Outcome(
            request_id=invocation.request_id,
            payload=payload,
            executed_version=spec.version,
            tier=tier,
            function_error="Unhandled" if failed else None,
            duration_ms=duration_ms,
            phases=(*waited, ("handler", handler_ms)),
            log_tail=_tail(lines, self._limits.log_tail_bytes) if invocation.log_tail else b"",
        )

    def cancel(self) -> None:
        """End the invocation under way as an elapsed Timeout does, because whoever waits for it wants it no more.

        Its caller still gets an outcome, once the process is gone: until then nothing that it held is free.
        """
        self._end(CANCELLED)

    async def checked(self) -> None:
        """Wait for the check of the last answer, and pass on what came of it. The lease goes on meanwhile.

        Never fails: a process that dies of it, or takes longer than an invocation may, is an instance that failed.
        """
        worker, (invocation_id, self.checking) = self._owned(), (self.checking, "")
        alarm = self._clock.call_later(self.spec.timeout_s, lambda: worker.kill("a check of its answer took too long"))
        try:
            found = await worker.verified(invocation_id)
        except WorkerDied as death:
            self.failed(str(death))
        else:
            self._engines.verified(self.spec, found.models)
        finally:
            alarm.cancel()

    def _note_calls(self, answer: wire.Outcome) -> None:
        if answer.checking and not self._ended_for and self.state in (State.BUSY, State.DRAINING):
            self.checking = answer.invocation_id
        if self.record is not None:
            self._engines.called(self.spec, self.record, answer.models)

    def _owned(self) -> Worker:
        if self.worker is None or self.state not in (State.BUSY, State.DRAINING):
            raise IllegalTransition(f"instance {self.instance_id[:8]} is {self.state.value}: nobody has a lease")
        return self.worker

    def _end(self, reason: str) -> None:
        self._ended_for = self._ended_for or reason
        self._owned().kill(reason)

    def _guard(self, stream: ResponseStream, worker: Worker, request_id: str) -> StreamGuard:
        return StreamGuard(stream, worker, request_id, clock=self._clock, grace_s=self._cancel_grace_s)

    def _acceptable(self, answer: wire.Outcome, stream: ResponseStream | None) -> bool:
        if _is_misfit(answer, stream) or (stream is not None and stream.overflowed):
            return False
        return all(len(result) <= self._limits.sync_response_bytes for result in answer.results)

    def _fault(
        self, request_id: str, answer: wire.Outcome | WorkerDied, stream: ResponseStream | None
    ) -> FunctionFault:
        """Say in Lambda's words (spec 1.6) why there is no answer; a dead worker's instance leaves the pool.

        What the node ended stays ended although an answer crossed the kill: the worker is as good as dead either way.
        What was cancelled is not given to another instance, even if it never reached this one.
        """
        if self._ended_for:
            self.failed(f"killed: its invocation {_ENDED[self._ended_for]}")
        elif isinstance(answer, WorkerDied):
            self.failed(str(answer))
        if isinstance(answer, WorkerDied) and not answer.sent and self._ended_for != CANCELLED:
            raise answer
        if self._ended_for:
            kind = InvocationCancelled if self._ended_for == CANCELLED else HandlerTimeout
            return kind(f"RequestId: {request_id} Error: {self._notice()}")
        if stream is not None and stream.overflowed:
            return _too_large(self._limits.stream_response_bytes)
        if not isinstance(answer, WorkerDied) and _is_misfit(answer, stream):
            self._owned().kill("protocol error: one event, not one result")
            self.failed("broke the protocol")
            return WorkerExited(f"RequestId: {request_id} Error: Runtime exited without providing a reason")
        if not isinstance(answer, WorkerDied):
            return _too_large(self._limits.sync_response_bytes)
        return died_fault(request_id, answer)

    def _notice(self) -> str:
        if self._ended_for == TIMEOUT:
            return f"Task timed out after {self.spec.timeout_s:.2f} seconds"
        return "Task was cancelled, and its process killed" if self._ended_for else ""

    def _write(
        self,
        worker: Worker,
        invocation: Invocation,
        duration_ms: float,
        payload: bytes,
        *,
        failed: bool,
        fault: FunctionFault | None = None,
    ) -> bytes:
        init_ms, self._init_ms = self._init_ms, None
        restore_ms, self._restore_ms = self._restore_ms, None
        return self._log.invocation(
            InvocationLog(
                request_id=invocation.request_id,
                version=self.spec.version,
                output=worker.take_log(),
                duration_ms=duration_ms,
                memory_mb=self.spec.memory_mb,
                max_memory_mb=max(1, -(-self._memory.peak_bytes(worker) // (1024 * 1024))),
                init_ms=init_ms,
                restore_ms=restore_ms,
                status="" if fault is None else "timeout" if isinstance(fault, HandlerTimeout) else "error",
                error_type="" if fault is None else fault.error_type,
                notice=self._notice(),
                failed=failed,
                produced_bytes=len(payload) + (0 if invocation.stream is None else invocation.stream.size_bytes),
            )
        )


def _is_misfit(answer: wire.Outcome, stream: ResponseStream | None) -> bool:
    """Tell whether an answer is not the one that was asked for: one result, or none of a handler that streamed."""
    if not answer.results:
        return stream is None or answer.failed
    return len(answer.results) != 1 or (stream is not None and stream.size_bytes > 0 and not answer.failed)


def _too_large(limit_bytes: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"Response payload size exceeded maximum allowed payload size ({limit_bytes} bytes).")


def _tail(lines: bytes, limit_bytes: int) -> bytes:
    """Return the last bytes of an invocation's log, as many as LogType Tail gives, beginning with a whole character."""
    cut = max(0, len(lines) - limit_bytes)
    for _ in range(3):  # at most: a character of UTF-8 has three bytes after its first
        if cut and cut < len(lines) and lines[cut] & 0xC0 == 0x80:
            cut += 1
    return lines[cut:]
