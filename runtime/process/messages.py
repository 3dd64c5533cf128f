"""What node, zygotes and workers say to each other: one frozen dataclass per message. ``wire`` puts them on a socket.

A process is asked for steps on its control channel (``Load``, ``Bind``, ``Check``, ``Start``, ``Stop``; a zygote also
``Spawn``) and answers each with one message, or with ``Failed``. Invocations travel on a worker's data channel.

Import-light: standard library only (a test holds it to that).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, ClassVar

PROTOCOL = 4


class ExitCode(enum.IntEnum):
    """How a zygote or worker ends when it ends by itself. Both sides import this; each number means one thing."""

    OK = 0
    BEFORE_SNAPSHOT_FAILED = 64  # 64 and 65 as Lambda's Python runtime client numbers them
    AFTER_RESTORE_FAILED = 65
    LOAD_FAILED = 70
    BIND_FAILED = 71
    CHECK_FAILED = 72
    NODE_GONE = 73
    OUT_OF_MEMORY = 74
    PROTOCOL_ERROR = 75
    CONTEXT_FAILED = 76


class Message:
    """Base of all messages. ``CODE`` is the first element of the msgpack array."""

    CODE: ClassVar[int]
    __slots__ = ()


# --- said by a process about itself (control channel) -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first frame of every exec'ed process: it is up and has imported its preloads.

    ``device`` is the one it holds a CUDA context of (``cuda:0``), made in ``context_ms``; empty for all others, which
    are single-threaded.
    """

    CODE: ClassVar[int] = 1
    pid: int
    protocol: int
    preloaded: list[str]
    import_ms: float
    device: str = ""
    context_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """A step (``load``, ``bind``, ``check``, ``start``; ``context`` in place of a Hello) did not succeed; the process
    exits after this frame.

    ``error_type``, ``error_message`` and ``stack_trace`` are those of Lambda's error body.
    """

    CODE: ClassVar[int] = 2
    step: str
    error_type: str
    error_message: str
    stack_trace: list[str]


@dataclass(frozen=True, slots=True)
class Loaded(Message):
    """The handler is imported. ``obstacle`` says why this process must not be forked from; empty when it may be.

    ``shadowed`` says that the obstacle is this process's own: it has loaded modules that the code brings itself.
    ``namespace_ms`` is what the process paid for its view of the file system.
    """

    CODE: ClassVar[int] = 3
    import_ms: float
    obstacle: str
    models: list[str]
    shadowed: bool = False
    namespace_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound(Message):
    """Every declared model has an engine and weights. ``engines`` maps model name to the engine that serves it."""

    CODE: ClassVar[int] = 4
    bind_ms: float
    engines: dict[str, str]
    weight_bytes: int
    obstacle: str


@dataclass(frozen=True, slots=True)
class Checked(Message):
    """The engine check passed. ``worst_error`` is the largest absolute difference from the recorded output.

    ``reads`` is what the process has read of files on the way here, in the order of first use, as ``[path, offset,
    length]``: empty unless ``Load.observe`` asked for it. Bounded by ``worker.firstuse.LIMIT_BYTES``.
    """

    CODE: ClassVar[int] = 5
    check_ms: float
    worst_error: float
    recorded: bool
    reads: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The worker will read its data channel next.

    ``namespace_ms`` is what it paid for its view of the file system; ``refusal`` says what of that the kernel refused.
    """

    CODE: ClassVar[int] = 6
    start_ms: float
    vm_data_bytes: int
    namespace_ms: float = 0.0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Adopted(Message):
    """The process has taken on its function's user, and nothing of the function yet."""

    CODE: ClassVar[int] = 7
    adopt_ms: float


# --- said by a zygote about its children (control channel) ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned(Message):
    """The fork happened; the child's pidfd travels with this frame."""

    CODE: ClassVar[int] = 10
    child_id: str
    pid: int
    fork_ms: float


@dataclass(frozen=True, slots=True)
class Exited(Message):
    """The child is dead and reaped. ``status`` as from ``os.waitpid``; ``max_rss_kib`` from its resource usage."""

    CODE: ClassVar[int] = 11
    child_id: str
    pid: int
    status: int
    max_rss_kib: int


# --- asked of a process (control channel) -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn(Message):
    """Fork a child. Descriptors: its control socket, its log pipe, and for a worker its data socket.

    ``role`` is ``zygote`` (a function zygote: it will be asked to spawn in turn) or ``worker``. ``uid`` and ``gid``
    of -1 leave the user as it is. ``code``, ``layers`` and ``tmp_mb`` are a ``view.Place``: empty for a child that has
    its parent's.
    """

    CODE: ClassVar[int] = 20
    child_id: str
    role: str
    uid: int
    gid: int
    code: str = ""
    layers: str = ""
    tmp_mb: int = 0


@dataclass(frozen=True, slots=True)
class Load(Message):
    """Set the environment, enter the task root and import the handler.

    ``models`` is one dict per declared model: ``name``, ``source``, ``files`` (file name -> absolute path of the
    blob), ``verify`` (the share of its warm calls that are checked again, 0 to 1). ``environment`` is complete: it
    replaces ``os.environ``. ``initialization_type`` is Lambda's (``on-demand``, ``snap-start``,
    ``provisioned-concurrency``). ``observe`` asks for ``Checked.reads``. ``device`` is what models run on: ``cpu``,
    ``cuda:0``.
    """

    CODE: ClassVar[int] = 21
    function_name: str
    handler: str
    task_root: str
    import_paths: list[str]
    environment: dict[str, str]
    models: list[dict[str, Any]]
    initialization_type: str
    parked: bool
    observe: bool
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Bind(Message):
    """Give each model an engine. ``plans`` is one dict per model: ``name``, ``engine`` (``eager`` or an engine's name),
    ``snapshot`` (directory, empty for eager), ``manifest`` (the snapshot's verified manifest as JSON bytes)."""

    CODE: ClassVar[int] = 22
    plans: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Check(Message):
    """Run each model's example and compare with the recorded output, or for finite values of the right shape."""

    CODE: ClassVar[int] = 23
    threads: int


@dataclass(frozen=True, slots=True)
class Start(Message):
    """Become an instance: per-instance environment, after-restore hooks, memory limit. Answered by ``Ready``.

    ``restored`` says that the handler was imported before a fork (the hooks run); ``memory_bytes`` bounds what the
    process adds from here on (0: no bound). ``threads`` is for engines that settle theirs when they are opened.
    """

    CODE: ClassVar[int] = 24
    instance_id: str
    environment: dict[str, str]
    restored: bool
    memory_bytes: int
    memory_mb: int
    function_version: str
    log_group: str
    log_stream: str
    threads: int


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Finish what is in flight and exit with ``ExitCode.OK``; killed after ``grace_s`` seconds."""

    CODE: ClassVar[int] = 25
    grace_s: float


@dataclass(frozen=True, slots=True)
class Adopt(Message):
    """Asked of a worker that holds a context: belong to a function from now on. The fields are those of ``Spawn``."""

    CODE: ClassVar[int] = 26
    uid: int
    gid: int
    code: str = ""
    layers: str = ""
    tmp_mb: int = 0


# --- invocations (data channel) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invoke(Message):
    """Call the handler. ``events`` are JSON texts, ``deadline_ms`` is Unix time, ``client_context`` JSON or empty.

    ``window_bytes`` of 0 asks for the whole answer at once. Else the result of a handler that streams may come as
    ``Chunk`` messages, of which so many bytes may be on their way; each ``Credit`` adds to that.
    """

    CODE: ClassVar[int] = 30
    invocation_id: str
    events: list[bytes]
    deadline_ms: int
    function_arn: str
    trace_id: str
    client_context: bytes
    identity: bytes
    threads: int
    window_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Chunk(Message):
    """A part of a streamed answer, never empty nor spilled; the ``Outcome`` follows the last one.

    ``content_type`` is that of the whole stream; those after the first may leave it empty.
    """

    CODE: ClassVar[int] = 33
    invocation_id: str
    data: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """So many more bytes of an answer may be sent: the node has passed on as many. Nothing, for one that has ended."""

    CODE: ClassVar[int] = 34
    invocation_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Nobody reads the stream any more: end the handler where it yields. Nothing, for an answer that has ended.

    The ``Outcome`` still follows; a handler that does not stream finishes what it does.
    """

    CODE: ClassVar[int] = 35
    invocation_id: str


@dataclass(frozen=True, slots=True)
class Outcome(Message):
    """The answer to ``Invoke``: one JSON result per event, or one error body when ``failed``; no result after a stream.

    ``error_type`` is Lambda's errorType when ``failed``, else empty. ``handler_ms`` is the time in the handler alone.
    ``models`` has a row for each model that was called: name, engine, calls that answered, milliseconds of those but
    for the process's first, milliseconds of that first one and of opening the engine for it (-1 when it was not among
    them), calls that raised.
    ``checking`` says that a ``Verified`` follows; the worker reads nothing before it has sent that.
    """

    CODE: ClassVar[int] = 31
    invocation_id: str
    results: list[bytes]
    failed: bool
    error_type: str
    handler_ms: float
    models: list[list[Any]] = field(default_factory=list)
    checking: bool = False


@dataclass(frozen=True, slots=True)
class Verified(Message):
    """Calls of an invocation that has been answered were run again by eager, on the same inputs.

    ``models`` has a row for each: name, engine, the verdict (``right``, ``wrong``, or ``unknown`` where there is
    nothing to compare with), the largest absolute difference, and what is wrong or why it is not known.
    """

    CODE: ClassVar[int] = 32
    invocation_id: str
    models: list[list[Any]]


MESSAGES: dict[int, type[Any]] = {
    cls.CODE: cls
    for cls in (
        *(Hello, Failed, Loaded, Bound, Checked, Ready, Adopted),
        *(Spawned, Exited),
        *(Spawn, Load, Bind, Check, Start, Stop, Adopt),
        *(Invoke, Chunk, Credit, Cancel, Outcome, Verified),
    )
}
