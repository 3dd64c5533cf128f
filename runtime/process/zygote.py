"""The fork server: a single-threaded program that imports once and forks for everyone.

    python -m glowplug.runtime.process.zygote --control-fd 3 --preload torch --expose /var/lib/glowplug/code

The program is a *base zygote*. Told to ``Spawn`` a zygote it forks a *function zygote*, which runs the same loop and
takes ``Load`` and ``Bind``; told to ``Spawn`` a worker, either forks one. The loop waits for two things: frames on the
control channel, and deaths of children (pidfds). The zygote is the parent, so it is the one who knows of a death: it
kills what is left of the child's process group, reaps, and tells the node.

With ``--own`` the program is the zygote of one function from the start: one whose code brings modules that the base
zygotes have loaded, and that must therefore be imported where nothing has been.

End of file on the control channel means that the node is gone: everything below is killed and the zygote exits.
No asyncio and no threads, ever: a process with either must not be forked.
"""

from __future__ import annotations

import gc
import os
import select
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import NoReturn

from glowplug.runtime.worker import loop, program, streams
from glowplug.runtime.worker.connection import Connection, NodeGone
from glowplug.runtime.worker.faults import exit_status
from glowplug.runtime.worker.function import Function, StepFailed
from glowplug.runtime.worker.generators import Generators

from . import afterfork, confine, descendants, forkable, preload, wire
from .view import Place, View, forget_scratch
from .wire import ExitCode


@dataclass(frozen=True, slots=True)
class Birth:
    """What a fork child is to become. Descriptors are owned by whoever holds this."""

    role: str
    control: int
    data: int
    uid: int
    gid: int
    function: Function
    place: Place


@dataclass(frozen=True, slots=True)
class Child:
    """A living child, as its parent keeps it."""

    child_id: str
    role: str
    pid: int


class ForkServer:
    """The loop of one zygote. ``function`` is None in a base zygote."""

    def __init__(self, control: Connection, function: Function | None = None) -> None:
        self._control = control
        self._function = function
        self._own_generators = Generators()
        self._signals: dict[int, afterfork.Disposition] = {}
        self._children: dict[int, Child] = {}  # by pidfd
        self._adopted: dict[int, int] = {}  # pid by pidfd: workers whose function zygote died before them
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._stop_at_s: float | None = None

    def __repr__(self) -> str:
        return f"ForkServer({self._function!r}, children={len(self._children)}, adopted={len(self._adopted)})"

    def serve(self) -> Birth:
        """Serve until a fork child comes out of it: this returns in children only. The zygote itself exits in here."""
        while True:
            if self._stop_at_s is not None and (not self._children or monotonic() >= self._stop_at_s):
                self._exit(ExitCode.OK)
            for descriptor, _ in self._poll.poll(self._patience_ms()):
                if descriptor == self._control.fileno():
                    birth = self._hear()
                    if birth is not None:
                        return birth
                else:
                    self._bury(descriptor)

    @property
    def _generators(self) -> Generators:
        return self._own_generators if self._function is None else self._function.generators

    def _patience_ms(self) -> int | None:
        return None if self._stop_at_s is None else max(0, int((self._stop_at_s - monotonic()) * 1000) + 1)

    def _hear(self) -> Birth | None:
        """Take the messages that arrived; return the birth certificate in a child."""
        while True:
            try:
                message = self._control.receive()
                if isinstance(message, wire.Spawn):
                    birth = self._spawn(message, self._control.take_descriptors())
                    if birth is not None:
                        return birth
                elif isinstance(message, wire.Stop):
                    self._stop_at_s = monotonic() + message.grace_s
                elif self._function is not None:
                    self._step(self._function, message)
                else:
                    raise wire.WireError(f"a base zygote takes no {type(message).__name__}")
            except NodeGone:
                self._exit(ExitCode.NODE_GONE)
            except wire.WireError as error:
                print(f"glowplug zygote: {error}", file=sys.stderr)
                self._exit(ExitCode.PROTOCOL_ERROR)
            if not self._control.pending:
                return None

    def _step(self, function: Function, message: wire.Message) -> None:
        try:
            reply = function.prepare(message)
        except StepFailed as failure:
            streams.flush()
            self._control.send(failure.frame)
            self._exit(failure.code)
        except SystemExit as error:  # the author's module ended the process, which is theirs to end
            self._exit(exit_status(error))
        if isinstance(message, wire.Load):
            self._signals = afterfork.quiet_signals()
        gc.collect()  # what an import or a bind leaves behind would be frozen, and copied by children, for ever
        preload.trim_heap()
        streams.flush()
        self._control.send(reply)

    def _spawn(self, spawn: wire.Spawn, descriptors: list[int]) -> Birth | None:
        """Fork. In the parent: tell the node. In the child: clean up and return what it is to become."""
        wanted = {"zygote": 2, "worker": 3}.get(spawn.role)
        if wanted != len(descriptors):
            raise wire.WireError(f"Spawn of a {spawn.role!r} with {len(descriptors)} descriptors")
        streams.flush()
        gc.freeze()
        started = perf_counter()
        try:
            pid = os.fork()
        except OSError as error:
            _close(descriptors)
            self._control.send(wire.Failed(f"spawn:{spawn.child_id}", type(error).__name__, str(error), []))
            return None
        if pid == 0:
            return self._become(spawn, descriptors)
        fork_ms = (perf_counter() - started) * 1000.0
        pidfd = os.pidfd_open(pid)
        _close(descriptors)
        self._children[pidfd] = Child(spawn.child_id, spawn.role, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._control.send(wire.Spawned(spawn.child_id, pid, fork_ms), (pidfd,))
        self._generators.renew()  # the child has the state of before; the next one must have another
        return None

    def _become(self, spawn: wire.Spawn, descriptors: list[int]) -> Birth:
        function = self._function
        self._control.close()
        afterfork.clean(
            inherited=(*self._children, *self._adopted),
            log=descriptors[1],
            signals=self._signals,
            generators=self._generators,
        )
        data = descriptors[2] if spawn.role == "worker" else -1
        channels = (descriptors[0], *descriptors[2:])
        place = Place(spawn.code, spawn.layers, spawn.tmp_mb)
        return Birth(spawn.role, descriptors[0], data, spawn.uid, spawn.gid, function or Function(channels), place)

    def _bury(self, pidfd: int) -> None:
        """A child died: kill its group, reap it, tell the node, and deal with what it left behind."""
        self._poll.unregister(pidfd)
        os.close(pidfd)
        child = self._children.pop(pidfd, None)
        pid = child.pid if child is not None else self._adopted.pop(pidfd)
        status, max_rss_kib = descendants.reap_group(pid)
        forget_scratch(pid)
        known = {*(living.pid for living in self._children.values()), *self._adopted.values()}
        for orphan in descendants.reap_strays(known, adopt=child is not None and child.role == "zygote"):
            adopted = os.pidfd_open(orphan)
            self._adopted[adopted] = orphan
            self._poll.register(adopted, select.POLLIN)
        if child is not None:
            try:
                self._control.send(wire.Exited(child.child_id, pid, status, max_rss_kib))
            except NodeGone:
                self._exit(ExitCode.NODE_GONE)

    def _exit(self, code: int) -> NoReturn:
        """Kill everything below and end the process."""
        descendants.kill_all()
        streams.flush()
        os._exit(code)


def main(arguments: Sequence[str]) -> NoReturn:
    """Be a base zygote, or with ``--own`` the zygote of one function; in fork children, be what was asked for."""
    parser = program.parser("glowplug.runtime.process.zygote")
    parser.add_argument("--preload", choices=preload.CHOICES, required=True)
    parser.add_argument("--no-users", action="store_true", help="functions keep the node's user")
    parser.add_argument("--own", action="store_true", help="import for one function alone, its own modules first")
    options = parser.parse_args(arguments)
    program.begin()
    confine.become_subreaper()
    os.set_inheritable(options.control_fd, False)
    control = Connection(options.control_fd)
    birth, control = (_alone if options.own else _base)(control, options)
    # From here on: children only, and zygotes of one function. Each fork unwinds to this function, so that no child
    # runs on its parent's frames.
    while birth.role == "zygote":
        confine.become_subreaper()
        birth = ForkServer(control, birth.function).serve()
        control = Connection(birth.control)
        birth.function.view.divide()
    loop.run(control, Connection(birth.data), birth.function)


def _base(control: Connection, options: Namespace) -> tuple[Birth, Connection]:
    """Preload and serve; return in fork children only, confined, with their own channel."""
    confinement = confine.Confinement.arrange(options.expose, users=not options.no_users)
    started = perf_counter()
    preload.load(options.preload)
    import_ms = (perf_counter() - started) * 1000.0
    why = forkable.obstacle((options.control_fd,))
    if why:
        print(f"glowplug zygote: cannot fork after preloading {options.preload}: {why}", file=sys.stderr)
        os._exit(ExitCode.LOAD_FAILED)
    gc.collect()
    _greet(control, import_ms)
    birth = ForkServer(control).serve()
    control = Connection(birth.control)
    _confine(confinement, birth, control)
    return birth, control


def _alone(control: Connection, options: Namespace) -> tuple[Birth, Connection]:
    """Become a function zygote without a base: preloading waits for ``Load``, which says where the function's code is.

    As its user already (``enter``), for it is the author's code that may be imported in place of what is preloaded.
    """
    view = View.of(options)
    if not confine.is_confined():
        confinement = confine.Confinement.arrange(options.expose, users=False)
        view = View.of(options, confinement.exposed)
        view.lay()
        confinement.enter(-1, -1)
    function = Function((options.control_fd,), forked=False)
    function.view = view
    if options.preload != "lean":
        function.before_import = partial(preload.load, options.preload)
    _greet(control, 0.0)
    return Birth("zygote", options.control_fd, -1, -1, -1, function, Place()), control


def _greet(control: Connection, import_ms: float) -> None:
    try:
        control.send(wire.Hello(os.getpid(), wire.PROTOCOL, preload.top_level_modules(), import_ms))
    except NodeGone:  # stopped while this imported
        os._exit(ExitCode.NODE_GONE)


def _confine(confinement: confine.Confinement, birth: Birth, control: Connection) -> None:
    birth.function.view = view = View(birth.place, confinement.exposed)
    view.lay()
    try:
        confinement.enter(birth.uid, birth.gid)
    except OSError as error:
        control.send(wire.Failed("load", "Glowplug.ConfinementError", str(error), []))
        os._exit(ExitCode.LOAD_FAILED)
    if birth.role == "worker":
        view.settle()


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
