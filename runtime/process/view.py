"""What a function sees of the file system: its code at /var/task, its layers at /opt, a /tmp of its own.

The code and the layers are the same for all instances, so a function zygote lays them, in a mount namespace that its
forks share: what it imports has ``/var/task/x.py`` as its file. /tmp belongs to one instance. A worker gets it after
the last fork, when it is nobody's root any more, and so in a user namespace, which it leaves without capabilities and
closed to further namespaces: the size of its /tmp holds. What the import wrote to /tmp is in every instance's, as
module-level state is, and shared until it is changed (an overlay; a copy where the kernel has none).

All of it goes with the last process of the namespace. Nothing of the host is written: a directory that the host lacks
is added by covering the one above with a tmpfs that shows everything that was there.

Where the kernel refuses, the function runs with its directories where they are, and each instance gets a directory of
its own in the machine's /tmp as ``TMPDIR``. ``View.refusal`` then says why.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

from . import confine, mounts
from .wire import Load

TASK_ROOT, RUNTIME, LAYERS, TMP = "/var/task", "/var/runtime", "/opt", "/tmp"

_MAPPED = ("PWD", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "LD_LIBRARY_PATH", "PYTHONPATH")
_WORKER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "worker")
_SPARE = "mode=755,size=1m"  # holds only directories and symbolic links
_MPS_PIPES = "glowplug-mps-"  # in /tmp, the node's: through them a function reaches a shared GPU
_NOBODY = 65534


class Place(NamedTuple):
    """Where a function's files really are. ``layers`` is empty for one without; ``tmp_mb`` is the size of its /tmp.

    Without ``code`` there is nothing to lay, and without ``tmp_mb`` no /tmp to make.
    """

    code: str = ""
    layers: str = ""
    tmp_mb: int = 0

    def options(self) -> list[str]:
        """Return this as arguments of a program with ``add_options``."""
        given = {"--code": self.code, "--layers": self.layers, "--tmp-mb": str(self.tmp_mb or "")}
        return [word for name, value in given.items() if value for word in (name, value)]


def add_options(parser: ArgumentParser) -> None:
    """Add what a program is told of its place, and of what the stage before it has made of that."""
    parser.add_argument("--code", default="", metavar="PATH", help="what is to be at /var/task")
    parser.add_argument("--layers", default="", metavar="PATH", help="what is to be at /opt")
    parser.add_argument("--tmp-mb", type=int, default=0, metavar="MB", help="the size of a /tmp of its own")
    parser.add_argument("--laid", action="store_true", help="all of that is there")
    parser.add_argument("--refusal", default="", metavar="TEXT", help="why not")


class View:
    """One process's view, handed on to its forks.

    ``laid`` says whether directories are at Lambda's places; ``refusal`` is why not, or why there is no /tmp of its
    own; ``scratch`` is the directory that stands in for that; ``took_ms`` is what the last step cost.
    """

    __slots__ = ("_exposed", "_kept", "laid", "place", "refusal", "scratch", "took_ms")

    def __init__(self, place: Place | None = None, exposed: Iterable[str] = (), *, laid: bool = False) -> None:
        self.place = place or Place()
        self.laid = laid
        self.refusal = ""
        self.scratch = ""
        self.took_ms = 0.0
        self._exposed = tuple(exposed)
        self._kept = [*_below(TMP, self._exposed), *_in_tmp(_MPS_PIPES)]  # now: what a fork does, a request waits for

    @classmethod
    def of(cls, options: Namespace, exposed: Iterable[str] = ()) -> View:
        """Return the view of a program that was given ``add_options``."""
        view = cls(Place(options.code, options.layers, options.tmp_mb), exposed, laid=options.laid)
        view.refusal = options.refusal
        return view

    def __repr__(self) -> str:
        return f"View({self.place}, laid={self.laid}, refusal={self.refusal!r})"

    def lay(self) -> None:
        """Lay code, layers and a /tmp, for this process and its forks. Never fails: see ``refusal``.

        ``exposed`` are the real paths that must stay where they are, as far as they lie below what is covered.
        """
        if self.laid or not self.place.code:
            return
        began, umask = perf_counter(), os.umask(0o022)
        try:
            as_user = _separate()
            os.chdir("/")
            _make(TASK_ROOT, RUNTIME)
            _show(self.place.code, TASK_ROOT)
            if self.place.layers:
                _make(LAYERS)
                _show_layers(self.place.layers, _below(LAYERS, self._exposed))
            _cover_tmp(self.place.tmp_mb, self._kept)
            if as_user:
                mounts.drop_capabilities()
            self.laid = True
        except OSError as error:
            self.refusal = f"no /var/task and no /tmp of its own: {error.strerror}"
        finally:
            os.umask(umask)
            self.took_ms = (perf_counter() - began) * 1000.0

    def divide(self) -> None:
        """Give this process, the last fork, a /tmp of its own. Never fails: see ``refusal`` and ``scratch``."""
        if not self.place.tmp_mb:
            return
        began, umask = perf_counter(), os.umask(0o022)
        try:
            if not self.laid:
                raise OSError(errno.EPERM, self.refusal)
            _divide_tmp(self.place.tmp_mb, self._kept)
        except OSError as error:
            self.refusal = self.refusal or f"no /tmp of its own: {error.strerror}"
            self._resort()
        finally:
            os.umask(umask)
            self.took_ms = (perf_counter() - began) * 1000.0

    def settle(self) -> None:
        """Say that this process is an instance already, as its user: what was laid is its own."""
        if self.place.code and not self.laid:
            self._resort()

    def _resort(self) -> None:
        """Make the directory that stands in for a /tmp of its own. ``forget_scratch`` removes it."""
        with suppress(OSError):  # a full disk: TMPDIR stays /tmp
            self.scratch = tempfile.mkdtemp(prefix=_scratch_prefix(os.getpid()), dir=TMP)

    def inside(self, load: Load) -> Load:
        """Return ``load``, which names directories as they are laid, with the names that they have here."""
        if self.laid or not self.place.code:
            return load
        environment = {
            name: ":".join(map(self._real, value.split(":"))) if name in _MAPPED else value
            for name, value in load.environment.items()
            if (name, value) != ("PYTHONPATH", RUNTIME)
        }
        return replace(
            load,
            task_root=self._real(load.task_root),
            import_paths=[self._real(path) for path in load.import_paths],
            environment=environment,
        )

    def outside(self, path: str) -> str:
        """Return what ``path`` is called outside of this view."""
        return self._real(path) if self.laid else path

    def _real(self, path: str) -> str:
        for root, real in ((TASK_ROOT, self.place.code), (LAYERS, self.place.layers), (RUNTIME, _WORKER)):
            if real and (path == root or path.startswith(root + "/")):
                return real + path[len(root) :]
        return path


def forget_scratch(pid: int) -> None:
    """Remove what stood in for the /tmp of a process that has ended."""
    for path in _in_tmp(_scratch_prefix(pid)):
        shutil.rmtree(path, ignore_errors=True)


def refusal() -> str:
    """Try, in this process, what a function's processes do; return what the kernel says against it, empty for nothing.

    This process's view changes: call it in one that ends then.
    """
    confinement = confine.Confinement.arrange((), users=False)
    view = View(Place(code="/usr", tmp_mb=1), confinement.exposed)
    view.lay()
    confinement.enter(-1, -1)
    if os.geteuid() == 0:
        confine.Confinement(users=True, rules=None).enter(_NOBODY, _NOBODY)
    view.divide()
    forget_scratch(os.getpid())
    return view.refusal


def _separate() -> bool:
    """Leave the mounts of everybody else; return whether that took a user namespace."""
    if os.geteuid() == 0:
        with suppress(PermissionError):  # root in a container has not always the right to
            mounts.separate()
            return False
    mounts.separate_as_user()
    return True


def _show(source: str, target: str) -> None:
    mounts.bind(source, target)
    mounts.read_only(target)


def _make(*paths: str) -> None:
    """Make ``paths``, below one directory, directories to mount on; those that are there stay as they are."""
    missing = [path for path in paths if not os.path.isdir(path)]
    if not missing:
        return
    parent = os.path.dirname(missing[0])
    if parent == "/":
        raise OSError(errno.ENOENT, f"this machine has no {missing[0]}")
    _cover(parent, [entry.path for entry in os.scandir(parent)])
    for path in missing:
        os.mkdir(path)


def _show_layers(layers: str, kept: list[str]) -> None:
    """Show ``layers`` at /opt, beside ``kept``, which is below it and needed."""
    if not kept:
        _show(layers, LAYERS)
        return
    entries = os.listdir(layers)
    taken = sorted({path.split("/", 3)[2] for path in kept} & set(entries))
    if taken:
        raise OSError(errno.EEXIST, f"{LAYERS}/{taken[0]} is a layer's, and needed by the interpreter here")
    sources = mounts.opened(f"{layers}/{entry}" for entry in entries)
    _cover(LAYERS, kept)
    for source, descriptor in sources.items():
        target = f"{LAYERS}/{os.path.basename(source)}"
        mounts.place(target, descriptor)
        _show(f"/proc/self/fd/{descriptor}", target)
        os.close(descriptor)


def _cover(directory: str, shown: Iterable[str]) -> None:
    """Cover ``directory`` with a tmpfs in which ``shown``, paths below it, are where they were."""
    links = {path: os.readlink(path) for path in shown if os.path.islink(path)}
    sources = mounts.opened(path for path in shown if path not in links and _mountable(path))
    mounts.tmpfs(directory, _SPARE)
    mounts.show(sources)
    for path, target in links.items():
        os.symlink(target, path)


def _cover_tmp(size_mb: int, kept: Iterable[str]) -> None:
    sources = mounts.opened(kept)
    mounts.tmpfs(TMP, f"mode=1777,size={size_mb}m")
    mounts.show(sources)


def _divide_tmp(size_mb: int, kept: list[str]) -> None:
    """Cover /tmp, which this process shares with its zygote, by one of its own that begins with the same contents."""
    as_user = _separate()
    skeleton = {path.split("/", 3)[2] for path in kept}
    written = [name for name in os.listdir(TMP) if name not in skeleton]
    if written:
        _cover_written(size_mb, kept, written)
    else:
        _cover_tmp(size_mb, kept)
    if as_user:
        for kind in ("user", "mnt"):  # or a larger /tmp would be one namespace away
            mounts.write(f"/proc/sys/user/max_{kind}_namespaces", "0")
        mounts.drop_capabilities()


def _cover_written(size_mb: int, kept: list[str], written: list[str]) -> None:
    lower = os.open(TMP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before, sources = f"/proc/self/fd/{lower}", mounts.opened(kept)
    used = os.fstatvfs(lower)
    free_kb = max(4, size_mb * 1024 - (used.f_blocks - used.f_bfree) * used.f_frsize // 1024)
    try:
        mounts.tmpfs(TMP, f"mode=1777,size={free_kb}k")
        try:
            for name in ("upper", "work"):
                os.mkdir(f"{TMP}/{name}")
            os.chmod(f"{TMP}/upper", 0o1777)  # noqa: S103 - what /tmp is
            mounts.overlay(TMP, lower=before, upper=f"{TMP}/upper", work=f"{TMP}/work")
        except OSError:
            _copy_written(before, size_mb, written)
        mounts.show(sources)
    finally:
        os.close(lower)


def _copy_written(before: str, size_mb: int, written: list[str]) -> None:
    """Where there is no overlay: its own copies, which count towards its size."""
    mounts.tmpfs(TMP, f"mode=1777,size={size_mb}m")
    for name in written:
        source, target = f"{before}/{name}", f"{TMP}/{name}"
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)


def _below(directory: str, paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` that lie below ``directory``, without those inside another."""
    found: list[str] = []
    for path in sorted(path for path in paths if path.startswith(directory + "/")):
        if not any(path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def _mountable(path: str) -> bool:
    """Tell whether ``path`` is one to show: not a socket, which nobody could mount on a file."""
    mode = os.stat(path).st_mode
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _in_tmp(prefix: str) -> list[str]:
    return [f"{TMP}/{name}" for name in os.listdir(TMP) if name.startswith(prefix)]


def _scratch_prefix(pid: int) -> str:
    return f"glowplug-{pid}-"
