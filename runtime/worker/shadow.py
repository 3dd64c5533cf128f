"""Modules that a function's code brings although this process has loaded others of the same name.

Python hands out what is in ``sys.modules``, so such a function would get the process's copy without a word. It gets
its own instead:

- a *forked* process has what its base zygote preloaded, and other preloaded modules hold on to it. It does not import
  the handler at all; the function is started by exec.
- an *exec'ed* worker has loaded the standard library modules that it needs itself, and msgpack. Everything else is
  imported after the function's directories went to the front of ``sys.path``; msgpack is forgotten (the worker keeps
  the reference it has), so that the function's import finds the function's copy.

What no process gives up, as on Lambda: standard library modules that the runtime's own programs have loaded, unless
one is the handler's module itself. The log says so. Builtin and frozen modules win over any path in plain Python too,
and so does ``glowplug``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

_NEVER = frozenset(("__main__", "glowplug"))

_runtime: frozenset[str] = frozenset()


def settle() -> None:
    """Remember which standard library modules are the runtime's own; what is loaded from here on is for functions."""
    global _runtime
    _runtime = frozenset(sys.modules.keys() & sys.stdlib_module_names)


def brought(roots: Sequence[str]) -> list[str]:
    """Return the loaded top-level modules, sorted, of which ``roots`` hold copies that a fresh Python would import."""
    names: set[str] = set()
    for root in roots:
        try:
            names.update(entry.partition(".")[0] for entry in os.listdir(root))
        except OSError:
            continue  # not a directory: nothing is imported from it by name
    return sorted(name for name in names & sys.modules.keys() if name not in _NEVER and _differs(name, roots))


def obstacle(roots: Sequence[str], handler: str) -> str:
    """Return why a forked process must not run this code, in words for its author; empty when it may.

    ``handler`` is the top-level name of the handler's module.
    """
    found = brought(roots)
    names = [name for name in found if name == handler or name not in _runtime]
    if names:
        listed = " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
        return f"its code brings its own {listed}, which the zygote has loaded already"
    _tell(found)
    return ""


def claim(roots: Sequence[str], handler: str) -> None:
    """Make the next import of what ``roots`` bring find it there: forget the exec'ed worker's own copies."""
    found = brought(roots)
    kept = [name for name in found if name != handler and name in sys.stdlib_module_names]
    for name in found:
        if name not in kept:
            forget(name)
    _tell(kept)


def forget(name: str) -> None:
    """Take a top-level module and what is below it out of ``sys.modules``; whoever has a reference keeps it."""
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        del sys.modules[loaded]


def _differs(name: str, roots: Sequence[str]) -> bool:
    if BuiltinImporter.find_spec(name) is not None or FrozenImporter.find_spec(name) is not None:
        return False
    spec = PathFinder.find_spec(name, list(roots))
    if spec is None or spec.origin is None:
        return False  # a directory without __init__.py: any module further on in sys.path goes before it
    return getattr(sys.modules[name], "__file__", None) != spec.origin


def _tell(names: Sequence[str]) -> None:
    for name in names:
        print(f"glowplug: {name} is the standard library's, not the code's own: the runtime needs it", file=sys.stderr)
