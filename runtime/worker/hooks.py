"""SnapStart's hooks, as the author registered them with ``snapshot_restore_py``.

They keep their meaning: *before snapshot* runs before a process is parked (in reverse order of registration), *after
restore* in each instance that was forked from it (in order). The package is the author's choice: it is looked up among
the imported modules, never imported from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

_MODULE = "snapshot_restore_py"

Hook = tuple[Callable[..., object], Sequence[Any], dict[str, Any]]


def run_before_snapshot() -> None:
    """Call the before-snapshot hooks, last registered first. Raises whatever a hook raises."""
    for function, positional, named in reversed(_registered("get_before_snapshot")):
        function(*positional, **named)


def run_after_restore() -> None:
    """Call the after-restore hooks in the order of registration. Raises whatever a hook raises."""
    for function, positional, named in _registered("get_after_restore"):
        function(*positional, **named)


def _registered(getter: str) -> list[Hook]:
    module = sys.modules.get(_MODULE)
    return list(getattr(module, getter)()) if module is not None else []
