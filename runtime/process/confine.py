"""What a function may reach: its own user where the node is root, Landlock elsewhere.

*Users.* A function's zygote and workers run under an unprivileged user of their own, with ``no_new_privs``. Such a user
must still reach the interpreter, the installed packages and the function's code, which may lie below a directory that
only root enters (``/root``, the state directory). The base zygote therefore takes a mount namespace of its own and lays a
*veil* over each such directory: a tmpfs that holds nothing but the exposed paths, read-only, at their usual places.
Everything else below the directory is out of sight, for every function.

*Landlock.* A node that is not root cannot change users. Where the kernel has Landlock, each function is limited to reading
what it needs and to writing in the temporary directories.

Where neither is to be had, functions on this node trust each other; ``describe`` says so for ``glowplug doctor``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from glowplug.runtime.process import landlock

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 6, 7, 21
_VEIL_OPTIONS = b"mode=755,size=1m"  # holds only directories and symbolic links

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(Exception):
    """Functions cannot be confined as asked; the message names what refused."""


@dataclass(frozen=True, slots=True)
class Veil:
    """A directory to hide, and the paths below it to show again."""

    directory: str
    exposes: tuple[str, ...]


def plan_exposure(paths: Iterable[str], mode_of: Callable[[str], int]) -> list[Veil]:
    """Return the veils that let any user reach ``paths`` (absolute, no symbolic links). Decides; does nothing.

    ``mode_of`` returns the ``st_mode`` of a directory. A path is reached when every directory above it may be traversed
    by others; the topmost one that may not is veiled. A path inside another path that is shown needs no place of its own.
    """
    veils: dict[str, list[str]] = {}
    for path in sorted(set(paths)):
        directory = next((above for above in _ancestors(path) if not mode_of(above) & stat.S_IXOTH), None)
        if directory is None:
            continue
        shown = veils.setdefault(directory, [])
        if not any(path.startswith(outer + "/") for outer in shown):
            shown.append(path)
    return [Veil(directory, tuple(shown)) for directory, shown in sorted(veils.items())]


def apply(veils: Iterable[Veil]) -> None:
    """Lay ``veils`` in a mount namespace of this process's own, which its children inherit.

    Raises ``ConfinementError`` when the kernel refuses (not root, or a container without CAP_SYS_ADMIN).
    """
    _check("unshare(CLONE_NEWNS)", _libc.unshare(_CLONE_NEWNS))
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)  # nothing we mount shows outside
    os.chdir("/")  # a working directory below a veil would look behind it
    for veil in veils:
        _lay(veil)


def _lay(veil: Veil) -> None:
    # Opened before the tmpfs covers them; as a mount source, /proc/self/fd/N still means the file behind the veil.
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in veil.exposes}
    _mount("tmpfs", veil.directory, "tmpfs", _MS_NOSUID | _MS_NODEV, _VEIL_OPTIONS)
    for path, source in sources.items():
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.makedirs(path, mode=0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o444))
        _mount(f"/proc/self/fd/{source}", path, None, _MS_BIND | _MS_REC)
        _mount(None, path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        os.close(source)


@dataclass(frozen=True, slots=True)
class Confinement:
    """How the children of this process are confined. ``users`` and ``landlock`` exclude each other."""

    users: bool
    landlock: landlock.Rules | None

    @classmethod
    def arrange(cls, expose: Iterable[str], *, users: bool = True) -> Confinement:
        """Prepare this process so that its children can be confined; ``expose`` are paths that they must read.

        Does not raise: when the kernel refuses, the reason goes to standard error and functions keep the node's user.
        """
        shown = _needed(expose)
        if os.geteuid() != 0:
            return cls(users=False, landlock=landlock.Rules.of(shown) if landlock.version() else None)
        if not users:
            return cls(users=False, landlock=None)
        try:
            real = sorted({os.path.realpath(path) for path in shown})
            umask = os.umask(0o022)
            try:
                apply(plan_exposure(real, _mode_of))
                _link([path for path in shown if not os.path.exists(path)], dict(zip(shown, map(os.path.realpath, shown))))
            finally:
                os.umask(umask)
        except (ConfinementError, OSError) as error:
            print(f"glowplug: functions keep the node's user: {error}", file=sys.stderr)
            return cls(users=False, landlock=None)
        return cls(users=True, landlock=None)

    def enter(self, uid: int, gid: int) -> None:
        """Confine this process, for good. ``uid`` and ``gid`` of -1 leave the user as it is. Raises ``OSError``."""
        if self.users and uid >= 0:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            # Changing the user made /proc/self root's; a worker writes its own oom_score_adj there.
            _check("prctl(PR_SET_DUMPABLE)", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))
            forbid_new_privileges()
        elif self.landlock is not None:
            forbid_new_privileges()
            self.landlock.restrict()
