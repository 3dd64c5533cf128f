"""Mount and user namespaces by the C library's calls: what ``veil`` and ``view`` are made of. Each raises ``OSError``.

Constants: include/uapi/linux/mount.h, sched.h, capability.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_RDONLY, NOSUID, NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_NOATIME, _NODIRATIME, _RELATIME = 1 << 10, 1 << 11, 1 << 21
_ST_RELATIME = 4096  # statvfs has another bit for it; the others are the same
# Made here and not at their use, which a fork must not pay for. The version of the call is the third.
_THIS_PROCESS = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()

_libc = ctypes.CDLL(None, use_errno=True)


def separate() -> None:
    """Give this process mounts of its own: nothing that is mounted from here on shows outside."""
    _must("unshare(CLONE_NEWNS)", _libc.unshare(_CLONE_NEWNS))
    _mount(None, "/", _REC | _PRIVATE)


def separate_as_user() -> None:
    """As ``separate``, for a process without privileges: in a user namespace in which it has them, until
    ``drop_capabilities``. Its user and group keep their numbers; all others look like nobody's from then on."""
    uid, gid = os.geteuid(), os.getegid()
    _must("unshare(CLONE_NEWUSER)", _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
    for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
        write(f"/proc/self/{name}", text)


def write(path: str, text: str) -> None:
    """Write ``text`` to a file of the kernel's, in one piece."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def drop_capabilities() -> None:
    """Give up every capability: what has been mounted stays as it is."""
    _must("capset", _libc.capset(_THIS_PROCESS, _NO_CAPABILITIES))


def tmpfs(directory: str, options: str) -> None:
    """Cover ``directory`` with an empty file system in memory. ``options`` such as ``mode=755,size=1m``."""
    _mount("tmpfs", directory, NOSUID | NODEV, "tmpfs", options)


def overlay(directory: str, *, lower: str, upper: str, work: str) -> None:
    """Cover ``directory`` with ``lower``, of which every change goes to ``upper``."""
    _mount("overlay", directory, NOSUID | NODEV, "overlay", f"lowerdir={lower},upperdir={upper},workdir={work}")


def bind(source: str, target: str) -> None:
    """Show ``source``, with what is mounted below it, at ``target`` too, which exists."""
    _mount(source, target, _BIND | _REC)


def read_only(path: str) -> None:
    """Let nobody write through the mount at ``path``. What else restricts it stays, as user namespaces demand."""
    found = os.statvfs(path).f_flag
    kept = found & (NOSUID | NODEV | _NOEXEC | _NOATIME | _NODIRATIME)
    _mount(None, path, _BIND | _REMOUNT | _RDONLY | kept | (_RELATIME if found & _ST_RELATIME else 0))


def place(path: str, like: int) -> None:
    """Make what can be mounted on: a directory or a file at ``path``, as ``like``, a descriptor, is one."""
    if stat.S_ISDIR(os.fstat(like).st_mode):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o444))


def opened(paths: Iterable[str]) -> dict[str, int]:
    """Return a descriptor of each path: as a mount source, ``/proc/self/fd/N`` is the file even once it is covered."""
    return {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}


def show(sources: dict[str, int]) -> None:
    """Show what ``opened`` returned at its place again, which may be covered by now; closes the descriptors."""
    for path, source in sources.items():
        place(path, source)
        bind(f"/proc/self/fd/{source}", path)
        os.close(source)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    encoded = [os.fsencode(text) if text is not None else None for text in (source, target, kind, options)]
    status = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _must(f"mount on {target}", status)


def _must(what: str, status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
