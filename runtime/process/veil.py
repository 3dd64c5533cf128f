"""Making a few paths reachable for every user, and nothing around them: veils over directories that only root enters.

A function's user must reach the interpreter, the installed packages and the function's code, which may lie below a
directory that only root enters (``/root``, the state directory). In a mount namespace of its own, the base zygote lays
a *veil* over each such directory: a tmpfs that holds nothing but the exposed paths, read-only, at their usual places.
Everything else below the directory is out of sight, for every function.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import mounts

_OPTIONS = "mode=755,size=1m"  # holds only directories and symbolic links


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
    mounts.separate()
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
    sources = mounts.opened(veil.exposes)
    mounts.tmpfs(veil.directory, _OPTIONS)
    mounts.show(sources)
    for path in sources:
        mounts.read_only(path)


def _ancestors(path: str) -> list[str]:
    """Return the directories above ``path``, topmost first, without the root."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
