"""Making a few paths reachable for every user, and nothing around them: veils over directories that only root enters.

A function's user must reach the interpreter, the installed packages and the function's code, which may lie below a
directory that only root enters (``/root``, the state directory). In a mount namespace of its own, the base zygote lays
a *veil* over each such directory: a tmpfs that holds nothing but the exposed paths, read-only, at their usual places.
Everything else below the directory is out of sight, for every function.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_OPTIONS = "mode=755,size=1m"  # holds only directories and symbolic links

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Veil:
    """A directory to hide, and the paths below it to show again."""

    directory: str
    exposes: tuple[str, ...]


def plan_exposure(paths: Iterable[str], mode_of: Callable[[str], int]) -> list[Veil]:
    """Return the veils that let any user reach ``paths`` (absolute, no symbolic links). Decides; does nothing.

    ``mode_of`` returns the ``st_mode`` of a directory. A path is reached when every directory above it may be traversed
    by others; the topmost one that may not is veiled. A path inside another that is shown needs no place of its own.
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


def expose(paths: Iterable[str]) -> None:
    """Let any user reach the existing ``paths``, in a mount namespace that this process and its children have alone.

    Raises ``OSError`` when the kernel refuses (not root, or a container without CAP_SYS_ADMIN).
    """
    real = {path: os.path.realpath(path) for path in paths}
    _must("unshare(CLONE_NEWNS)", _libc.unshare(_CLONE_NEWNS))
    _mount(None, "/", _MS_REC | _MS_PRIVATE)  # nothing that is mounted here shows outside
    os.chdir("/")  # a working directory below a veil would look behind it
    umask = os.umask(0o022)
    try:
        for veil in plan_exposure(real.values(), lambda path: os.stat(path).st_mode):
            _lay(veil)
        for path, target in real.items():
            if not os.path.lexists(path):  # reached through a symbolic link that the veil covers
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.symlink(target, path)
    finally:
        os.umask(umask)


def _lay(veil: Veil) -> None:
    # Opened before the tmpfs covers them; as a mount source, /proc/self/fd/N still means the file behind the veil.
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in veil.exposes}
    _mount("tmpfs", veil.directory, _MS_NOSUID | _MS_NODEV, "tmpfs", _OPTIONS)
    for path, source in sources.items():
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o444))
        _mount(f"/proc/self/fd/{source}", path, _MS_BIND | _MS_REC)
        _mount(None, path, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        os.close(source)


def _ancestors(path: str) -> list[str]:
    """Return the directories above ``path``, topmost first, without the root."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def _mount(source: str | None, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    encoded = [os.fsencode(text) if text is not None else None for text in (source, target, kind, options)]
    status = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _must(f"mount on {target}", status)


def _must(what: str, status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
