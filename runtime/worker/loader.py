"""From a ``Load`` frame to the author's handler: environment, import path, module, attribute.

Handler strings mean what they mean on Lambda: ``module.function``, ``package/module.function`` or
``package.module.function``; beyond it, ``module.Class.method`` names an attribute of an attribute.
"""

from __future__ import annotations

import importlib
import locale
import os
import sys
import tempfile
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from glowplug.runtime.process.wire import Load

from .faults import (
    BuiltInModuleConflict,
    HandlerNotFound,
    ImportModuleError,
    MalformedHandlerName,
    UserCodeSyntaxError,
)

Handler = Callable[[Any, Any], Any]


def enter(load: Load) -> None:
    """Make this process the function's: environment, time zone, locale, working directory and import path.

    Raises ``OSError`` when the task root cannot be entered.
    """
    os.environ.clear()
    os.environ.update(load.environment)
    time.tzset()
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        # LANG names a locale that this machine does not have: Python goes on in "C", as it would at its start.
        locale.setlocale(locale.LC_ALL, "C")
    tempfile.tempdir = None  # forget an answer from before TMPDIR was the function's
    os.chdir(load.task_root)
    roots = roots_of(load)
    sys.path[:] = [*roots, *(path for path in sys.path if path not in roots)]
    sys.argv = [load.handler]
    for root in roots:
        # What was there when somebody last looked. importlib.invalidate_caches would do so for every directory of the
        # interpreter: 4 ms, and 2.5 MB that a parked zygote then has for itself.
        sys.path_importer_cache.pop(root, None)


def roots_of(load: Load) -> list[str]:
    """Return the directories that the function's own modules are imported from, first to last."""
    return load.import_paths if load.task_root in load.import_paths else [load.task_root, *load.import_paths]


def top_level(handler: str) -> str:
    """Return the top-level name of the module that a handler string names."""
    return handler.rpartition(".")[0].replace("/", ".").partition(".")[0]


def find_handler(name: str) -> Handler:
    """Import the module that the handler string ``name`` names and return the attribute.

    Raises a ``HandlerError`` for what Lambda's runtime has an error type for; anything else that the import raises
    passes through.
    """
    module_name, dot, attribute = name.rpartition(".")
    if not dot or not module_name or not attribute:
        raise MalformedHandlerName(f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)")
    dotted = module_name.replace("/", ".")
    if dotted.split(".")[0] in sys.builtin_module_names:
        raise BuiltInModuleConflict(f"Cannot use built-in module {module_name} as a handler module")
    try:
        found: Any = _import(dotted)
    except ImportError as error:
        raise ImportModuleError(f"Unable to import module '{module_name}': {error}") from error
    except SyntaxError as error:
        where = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise UserCodeSyntaxError(f"Syntax error in module '{module_name}': {error}", where) from error
    handler = getattr(found, attribute, None)
    if handler is None:
        raise HandlerNotFound(f"Handler '{attribute}' missing on module '{module_name}'")
    if not callable(handler):
        raise HandlerNotFound(f"Handler '{attribute}' on module '{module_name}' cannot be called")
    return handler  # type: ignore[no-any-return]


def _import(dotted: str) -> ModuleType | Any:
    """Import ``dotted``; where it is not a module but its parent has such an attribute, return that."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        parent, _, name = dotted.rpartition(".")
        if error.name != dotted or not parent:
            raise  # something that the module imports is missing, not the module itself
        found = getattr(sys.modules.get(parent), name, None)
        if found is None:
            raise
        return found
