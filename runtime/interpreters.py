"""Other Pythons than the node's own, for functions whose ``Runtime`` names one that is installed here.

An interpreter is looked for in ``GLOWPLUG_PYTHONS`` (paths) and then, as ``python3.12`` and its like, on PATH. It is
used when it can import a worker: that needs the standard library and msgpack, whose compiled part is the node's
Python's, so that others run its fallback. For this, and lest the node's own packages get in a function's way, they
import from a directory that holds those two packages alone, as links.

A function on another interpreter starts by exec. Models need torch or ONNX Runtime, which are installed for the node's
own Python, so a function with models runs on that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack

import glowplug

from .spec import FunctionSpec

OWN = f"python{sys.version_info.major}.{sys.version_info.minor}"
"""The node's own Python, as ``Runtime`` calls it."""

_NEWEST = 19
_OLDEST = 10  # what our worker's syntax takes
_PATIENCE_S = 10.0
_PROBE = (
    "import json, sys, glowplug.runtime.worker.__main__\n"
    "print(json.dumps([list(sys.version_info[:2]), sys.prefix, sys.base_prefix]))"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One that is installed here. ``runtime`` such as ``python3.12``; ``exposes`` are the paths that it needs."""

    runtime: str
    path: str
    packages: str
    exposes: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why a function on it is not forked."""
        return f"Runtime {self.runtime} runs on {self.path}"

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs a module."""
        safe = [] if self.runtime == "python3.10" else ["-P"]  # 3.11 was the first to have it
        return [self.path, *safe, "-m", module, *arguments]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return ``base``, the environment of the node's own Python, for this one."""
        own = {name: value for name, value in base.items() if name != "PYTHONHOME"}
        return own | _environment(self.packages)


class Interpreters:
    """Those that were found, by the name that ``Runtime`` has for them."""

    def __init__(self, found: Iterable[Interpreter] = ()) -> None:
        self._found: dict[str, Interpreter] = {}
        for one in found:
            self._found.setdefault(one.runtime, one)

    def __repr__(self) -> str:
        return f"Interpreters({', '.join(sorted(self._found))})"

    @property
    def runtimes(self) -> Collection[str]:
        """What ``Runtime`` may name and have, besides the node's own."""
        return self._found.keys()

    def of(self, spec: FunctionSpec) -> Interpreter | None:
        """Return what ``spec`` runs on; None for the node's own."""
        return None if spec.models else self._found.get(spec.runtime)


def note(name: str, runtime: str, installed: Container[str], *, models: bool) -> str:
    """Return what a function gets in place of the ``runtime`` that it asks for; empty when it gets that."""
    if runtime == OWN or (runtime in installed and not models):
        return ""
    here = OWN.replace("python", "Python ")
    why = ", as every function with a model" if runtime in installed else ""
    return f"{name}: Runtime {runtime} runs on {here} here{why}"


async def find(directory: Path, configured: Iterable[Path], environ: Mapping[str, str]) -> Interpreters:
    """Return the usable ones of ``configured`` and of PATH. ``directory`` is the node's, for what they import.

    One that was configured and cannot be used is a warning; never fails otherwise.
    """
    named = [f"python3.{minor}" for minor in range(_OLDEST, _NEWEST) if f"python3.{minor}" != OWN]
    paths = [path for name in named if (path := shutil.which(name, path=environ.get("PATH"))) is not None]
    candidates = [(str(path), True) for path in configured] + [(path, False) for path in paths]
    if not candidates:
        return Interpreters()
    packages = await asyncio.to_thread(_prepare, directory)
    found = await asyncio.gather(*(_probe(path, packages, told=told) for path, told in candidates))
    interpreters = Interpreters(one for one in found if one is not None)
    if interpreters.runtimes:
        _log.info("functions may run on %s as well", ", ".join(sorted(interpreters.runtimes)))
    return interpreters


async def _probe(path: str, packages: str, *, told: bool) -> Interpreter | None:
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "-c",
            _PROBE,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8", **_environment(packages)},
        )
        async with asyncio.timeout(_PATIENCE_S):
            answer, complaint = await process.communicate()
        if process.returncode == 0:
            (major, minor), *prefixes = json.loads(answer)
            runtime = f"python{major}.{minor}"
            return None if runtime == OWN else Interpreter(runtime, path, packages, (packages, *prefixes))
        why = (complaint.decode(errors="replace").strip().splitlines() or ["it ended"])[-1]
    except (OSError, ValueError, TimeoutError) as error:
        why = str(error) or type(error).__name__
    finally:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    _log.log(logging.WARNING if told else logging.DEBUG, "%s cannot run functions: %s", path, why)
    return None


def _prepare(directory: Path) -> str:
    """Make the directory that other interpreters import our packages from; return it."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.chmod(0o755)
    for package in (glowplug, msgpack):
        source = Path(package.__path__[0]).absolute()
        link = directory / source.name
        if not link.is_symlink() or link.readlink() != source:
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return str(directory)


def _environment(packages: str) -> dict[str, str]:
    # Byte code of ours beside our sources would be root's to write there, at the first start of each version.
    return {"PYTHONPATH": packages, "PYTHONPYCACHEPREFIX": f"{packages}/bytecode"}
