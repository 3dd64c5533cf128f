"""The Pythons of this machine, by the name that a function's ``Runtime`` has for them.

A function's requirements are installed for the Python that it runs on. Which that is, the node decides alike: the one
that ``Runtime`` names where it is installed, else glowplug's own; always its own for a function with a model.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass

_PATIENCE_S = 10.0
_PROBE = (
    "import json, platform, sys, sysconfig; "
    "print(json.dumps([list(sys.version_info[:2]), platform.python_version(), "
    "f'{sysconfig.get_platform()} {sysconfig.get_config_var(\"SOABI\") or str()}']))"
)


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter. ``runtime`` such as ``python3.12``; ``version`` and ``platform`` decide what is installed for
    it: ``3.12.1``, and ``linux-x86_64 cpython-312-x86_64-linux-gnu``, which also tells the C library."""

    runtime: str
    path: str
    version: str
    platform: str


_PLATFORM = f"{sysconfig.get_platform()} {sysconfig.get_config_var('SOABI') or ''}"


def own() -> Python:
    """Return glowplug's own."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Python(name, sys.executable, platform.python_version(), _PLATFORM)


class Pythons:
    """Looks each up once. ``environ`` has PATH, and in ``GLOWPLUG_PYTHONS`` paths to look at before it."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._search = environ.get("PATH")
        self._configured = [path for path in environ.get("GLOWPLUG_PYTHONS", "").split(":") if path]
        self._known = {own().runtime: own()}

    def __repr__(self) -> str:
        return f"<Pythons {', '.join(sorted(self._known))}>"

    def of(self, runtime: str, *, models: bool = False) -> Python:
        """Return what a function with this ``Runtime`` runs on here."""
        if models:
            return own()
        if runtime not in self._known:
            self._known[runtime] = self._find(runtime) or own()
        return self._known[runtime]

    def _find(self, runtime: str) -> Python | None:
        named = shutil.which(runtime, path=self._search)
        for path in (*self._configured, *([] if named is None else [named])):
            found = _probed(path)
            if found is not None and found.runtime == runtime:
                return found
        return None


def _probed(path: str) -> Python | None:
    """Return what an interpreter says of itself; None where it cannot be run."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _PROBE], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=True
        )
        (major, minor), version, where = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Python(f"python{major}.{minor}", path, version, where)
