"""Landlock, by its three system calls: a process gives up, for good, access to all files but those it names.

Constants and structures: include/uapi/linux/landlock.h. No library is needed and no privilege either.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGE_DIR = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10) | (1 << 12)  # no device nodes
_DEVICE_NODES = (1 << 6) | (1 << 11)
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # from versions 2 and 3
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2  # from version 6

READ = _EXECUTE | _READ_FILE | _READ_DIR
WRITE_FILES = READ | _WRITE_FILE | _TRUNCATE
WRITE = WRITE_FILES | _CHANGE_DIR | _REFER
_ON_A_FILE = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def version() -> int:
    """Return the version of Landlock that this kernel speaks; 0 when it has none or it is switched off."""
    answer = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))
    return max(0, answer)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be read (and executed), what may be written in place, and where files may be made."""

    read: tuple[str, ...]
    write_files: tuple[str, ...]
    write: tuple[str, ...]

    @classmethod
    def of(cls, needed: Iterable[str]) -> Rules:
        """Return the rules of a function that needs to read ``needed`` besides the system's own directories."""
        system = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/run", "/sys", "/var/task")
        return cls(
            read=(*system, *needed),
            write_files=("/proc", "/dev"),  # its own oom_score_adj; devices such as null, tty, nvidia0
            write=("/tmp", "/var/tmp", "/dev/shm"),
        )

    def restrict(self) -> None:
        """Restrict this process and all it will ever start to these rules. Needs ``no_new_privs``. Raises ``OSError``.

        From version 6 on, signals to processes outside (the node runs as the same user) are refused too.
        """
        known = version()
        handled = WRITE | _DEVICE_NODES
        handled &= ~(_REFER if known < 2 else 0) & ~(_TRUNCATE if known < 3 else 0)
        attributes = struct.pack("=QQQ", handled, 0, _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL)
        size = 24 if known >= 6 else 8
        ruleset = _call("landlock_create_ruleset", _CREATE_RULESET, attributes[:size], ctypes.c_size_t(size), 0)
        try:
            for paths, access in ((self.read, READ), (self.write_files, WRITE_FILES), (self.write, WRITE)):
                for path in paths:
                    _allow(ruleset, path, access & handled)
            _call("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # not every system has every directory
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                access &= _ON_A_FILE
            rule = struct.pack("=Qi", access, parent)
            _call("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(parent)


def _call(name: str, number: int, *arguments: object) -> int:
    answer = int(_libc.syscall(number, *arguments))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return answer
