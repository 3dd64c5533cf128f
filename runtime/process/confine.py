"""What a function may reach: its own user where the node is root, Landlock elsewhere.

*Users.* A function's zygote and workers run under an unprivileged user of their own, with ``no_new_privs``; ``veil``
makes the interpreter and the function's code reachable for it. *Landlock.* A node that is not root cannot change users;
where the kernel has Landlock, each function is limited to reading what it needs and to writing in the temporary
directories.
Where neither is to be had, functions on this node trust each other; ``describe`` says so for ``glowplug doctor``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import glowplug

from . import landlock, veil

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_NEEDED_CAPABILITIES = (6, 7, 21)  # CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN (linux/capability.h)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Confinement:
    """How the children of this process are confined: by ``users``, by ``rules`` of Landlock, or not at all.

    ``exposed`` are the paths that they need where they are, as named and as they are really called.
    """

    users: bool
    rules: landlock.Rules | None
    exposed: tuple[str, ...] = ()

    @classmethod
    def arrange(cls, expose: Iterable[str], *, users: bool = True) -> Confinement:
        """Prepare this process so that its children can be confined; they will be able to read the paths ``expose``.

        Never fails: what is refused is said on standard error, and functions then keep the node's user.
        """
        needed = [path for path in (*_installation(), *expose) if os.path.exists(path)]
        exposed = tuple(dict.fromkeys((*needed, *map(os.path.realpath, needed))))
        if os.geteuid() != 0:
            return cls(False, landlock.Rules.of(exposed) if landlock.version() else None, exposed)
        if not users:
            return cls(False, None, exposed)
        try:
            veil.expose(needed)
        except OSError as error:
            print(f"glowplug: functions keep the node's user: {error.strerror}", file=sys.stderr)
            return cls(False, None, exposed)
        for path in needed:
            if not os.stat(path).st_mode & stat.S_IROTH:
                print(f"glowplug: functions cannot read {path}: its mode does not let others in", file=sys.stderr)
        return cls(True, None, exposed)

    def renounce(self) -> None:
        """Give up what holds for a thread and those it starts, while there is one: what ``enter`` does but the user.

        For a process that learns its user later, when it has more threads. Raises ``OSError``.
        """
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if not self.users:
            self.enter(-1, -1)

    def enter(self, uid: int, gid: int) -> None:
        """Confine this process, for good. ``uid`` and ``gid`` of -1 leave the user as it is. Raises ``OSError``."""
        if self.users and uid >= 0:
            for stream in (1, 2):
                os.fchown(stream, uid, gid)  # so that /dev/stdout can be opened by name
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            # Changing the user made /proc/self root's, and a worker writes its own oom_score_adj there.
            _prctl(_PR_SET_DUMPABLE, 1)
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        elif self.rules is not None:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            self.rules.restrict()


def describe() -> str:
    """Return how functions are kept apart on this machine, for ``glowplug doctor``."""
    if _may_change_users():
        return "users"
    if os.geteuid() != 0 and landlock.version():
        return "landlock"
    return "none: functions on this node trust each other"


def is_confined() -> bool:
    """Return whether this process has given up its privileges for good, here or before it was exec'ed."""
    return _prctl(_PR_GET_NO_NEW_PRIVS, 0) == 1


def become_subreaper() -> None:
    """Become the parent of whatever descendants lose theirs."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _installation() -> list[str]:
    """Return what Python itself reads: the interpreter, the import path, and our sources where they are linked to."""
    package = list(glowplug.__path__)
    linked = [os.path.join(root, name) for root in package for name in os.listdir(root)]
    return [sys.prefix, sys.exec_prefix, sys.base_prefix, *filter(os.path.isabs, sys.path), *package, *linked]


def _may_change_users() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        mask = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return os.geteuid() == 0 and all(mask >> capability & 1 for capability in _NEEDED_CAPABILITIES)


def _prctl(option: int, value: int) -> int:
    zero = ctypes.c_ulong(0)
    answer = int(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    return answer
