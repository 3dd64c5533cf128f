"""Requirements become layers: pip runs here, once per key, between translating a template and uploading its code.

    CACHE/requirements/<key>.zip    the layer, as it is uploaded; not used for 30 days, it goes with the next build

``CACHE`` is ``XDG_CACHE_HOME/glowplug``, else ``~/.cache/glowplug``. Packages lie below ``python/`` in a layer, as pip
installs them but for byte code, with what describes them (``*.dist-info``). Packages' own tests stay in as well, since
there are packages that import theirs, unless the layer would be over Lambda's limit with them. The function lists the
layer first, so that its own layers hide what is also in theirs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wanted import REQUIREMENTS

from .archive import MAX_UNPACKED_BYTES, Archive, given, pack_below
from .errors import ArchiveError, RequirementsError
from .layers import PREFIX, content_path
from .pythons import Python, Pythons
from .requirements import Requirements, requirements_of
from .translate import Stack

Progress = Callable[[Mapping[str, Any]], None]

_KEPT_S = 30 * 86400.0
_TOLD_LINES = 12
_TESTS = "tests"
_QUIET = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off",
    "PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1",
}  # fmt: skip
_NOT_PIPS = frozenset({"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_REQUIREMENT"})


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where layers are kept between deploys."""
    base = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '/var')}/.cache"
    return Path(base) / "glowplug"


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes layers of requirements. ``environ`` is what pip runs with (``PIP_INDEX_URL``, proxies, PATH)."""

    cache: Path
    environ: Mapping[str, str] = field(repr=False)
    pythons: Pythons

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Builder:
        """Return the one that the command line uses."""
        return cls(cache_directory(environ), environ, Pythons(environ))

    def layer(self, requirements: Requirements, report: Progress) -> Archive:
        """Return the layer of requirements: from the cache, or made by pip now.

        Raises ``RequirementsError`` when pip cannot install them, ``ArchiveError`` when the result cannot be packed.
        """
        kept = self.cache / "requirements" / f"{requirements.key}.zip"
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            found = _cached(kept, requirements)
            if found is not None:
                return found
            _forget_old(kept.parent)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=kept.parent) as directory:
                target = Path(directory) / PREFIX
                self._install(requirements, target, report)
                if _size(target) > MAX_UNPACKED_BYTES:
                    report({**_about(requirements), "message": "over Lambda's limit: packages' own tests are left out"})
                    _leave_tests_out(target)
                made = _packed(target, requirements)
                packed = Path(directory) / "layer.zip"
                packed.write_bytes(made.data)
                packed.replace(kept)
        except OSError as error:
            raise ArchiveError(f"{error.filename or kept}: {error.strerror}") from error
        return made

    def content(self, directory: Path, runtime: str, report: Progress) -> Archive:
        """Return the layer of a directory with ``BuildMethod: <runtime>``: its files, and what they require, below
        ``python/``. Raises as ``layer``."""
        requirements = requirements_of(directory, self.pythons.of(runtime))
        if requirements is None:
            return pack_below(PREFIX, directory, origin=str(directory))
        return pack_below(PREFIX, directory, origin=str(directory), over=self.layer(requirements, report))

    def _install(self, requirements: Requirements, target: Path, report: Progress) -> None:
        target.mkdir()
        command = [
            *_pip(requirements.python), "install", "--target", str(target), "--no-compile", "--no-warn-conflicts",
            "--requirement", requirements.file.name,
        ]  # fmt: skip
        environ = {name: value for name, value in self.environ.items() if name not in _NOT_PIPS}
        about = _about(requirements)
        report({**about, "message": f"for {requirements.python.runtime}"})
        last: deque[str] = deque(maxlen=_TOLD_LINES)
        with subprocess.Popen(
            command,
            cwd=requirements.file.parent,
            env={**environ, **_QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    if line.strip():
                        last.append(line.rstrip())
                        report({**about, "message": line.strip()})
            except BaseException:  # Ctrl-C, or whoever listens: pip must not go on alone
                process.kill()
                raise
        if process.returncode != 0:
            told = "\n  ".join(last) or f"pip ended with {process.returncode}"
            raise RequirementsError(f"{requirements.file}: pip could not install it:\n  {told}")


def built(stack: Stack, builder: Builder, report: Progress) -> Stack:
    """Return the stack with a layer for each function whose local code has requirements, and with the layers built that
    are to be built.

    Raises ``TemplateError`` at the code, or the layer's content, whose requirements cannot be installed.
    """
    stack = _with_layers(stack, builder, report)
    made: dict[str, Archive] = {}
    functions, layers = dict(stack.definitions.functions), dict(stack.definitions.layers)
    archives = dict(stack.archives)
    for logical_id, definition in stack.definitions.functions.items():
        archive = stack.archives.get(definition["CodeSha256"])
        if archive is None or archive.path is None or _says_skip(stack, logical_id):
            continue
        python = builder.pythons.of(definition["Runtime"], models="Model" in (definition.get("Glowplug") or {}))
        try:
            requirements = requirements_of(archive.path, python)
            if requirements is None:
                continue
            if requirements.key not in made:
                made[requirements.key] = builder.layer(requirements, report)
        except ArchiveError as error:
            raise stack.error(logical_id, DefinitionError("CodeSha256", str(error))) from error
        if not made[requirements.key].names:
            continue  # everything that is asked for is for other machines
        layer, name = made[requirements.key], _free_id(stack, f"{logical_id}{REQUIREMENTS}")
        archives[layer.digest] = layer
        layers[name] = {
            "LayerName": f"{definition['FunctionName']}-requirements",
            "CodeSha256": layer.digest,
            "Description": f"requirements.txt of {logical_id}",
            "CompatibleRuntimes": [definition["Runtime"]],
        }
        functions[logical_id] = {**definition, "Layers": [{"Ref": name}, *definition.get("Layers", ())]}
    definitions = replace(stack.definitions, functions=functions, layers=layers)
    return replace(stack, definitions=definitions, archives=archives)


def _with_layers(stack: Stack, builder: Builder, report: Progress) -> Stack:
    """Return the stack with what its layers' requirements ask for in them."""
    layers, archives = dict(stack.definitions.layers), dict(stack.archives)
    for logical_id, build in stack.builds.items():
        try:
            archive = builder.content(build.directory, build.runtime, report)
        except ArchiveError as error:
            raise stack.template.error(content_path(stack.template, logical_id), str(error)) from error
        layers[logical_id] = {**layers[logical_id], "CodeSha256": archive.digest}
        archives[archive.digest] = archive
    named = {str(one["CodeSha256"]) for one in (*stack.definitions.functions.values(), *layers.values())}
    kept = {key: value for key, value in archives.items() if key in named}
    return replace(stack, definitions=replace(stack.definitions, layers=layers), archives=kept)


def _says_skip(stack: Stack, logical_id: str) -> bool:
    metadata = stack.template.get(("Resources", logical_id, "Metadata")) or {}
    return str(metadata.get("SkipBuild", False)).lower() == "true"


def _free_id(stack: Stack, wanted: str) -> str:
    """Return a logical id that the template does not use, ending in the same word."""
    while wanted in stack.template.document["Resources"]:
        wanted = f"Own{wanted}"
    return wanted


def _pip(python: Python) -> list[str]:
    """Return the command of pip for an interpreter: its own where glowplug's Python has none."""
    if python.path == sys.executable:
        return [sys.executable, "-m", "pip"]
    if _has_pip():
        return [sys.executable, "-m", "pip", "--python", python.path]
    return [python.path, "-m", "pip"]


def _has_pip() -> bool:
    return find_spec("pip") is not None


def _about(requirements: Requirements) -> dict[str, str]:
    return {"step": "install", "file": f"{requirements.file.parent.name}/{requirements.file.name}"}


def _cached(kept: Path, requirements: Requirements) -> Archive | None:
    try:
        found = given(kept)
        os.utime(kept)
    except (FileNotFoundError, ArchiveError):  # never made, or torn by a machine that lost its power
        return None
    return replace(found, origin=str(requirements.file))


def _forget_old(directory: Path) -> None:
    """Delete what has not been used for a long time, and what a build that was killed has left."""
    now = time.time()
    for entry in directory.iterdir():
        if now - entry.stat().st_mtime > _KEPT_S:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _packed(target: Path, requirements: Requirements) -> Archive:
    try:
        return pack_below(PREFIX, target, origin=str(requirements.file))
    except ArchiveError as error:
        raise RequirementsError(
            f"{error}; for packages that the node has installed anyway, say `SkipBuild: true` in the function's "
            "Metadata, or --no-build"
        ) from error


def _size(target: Path) -> int:
    return sum(
        os.stat(os.path.join(directory, name)).st_size for directory, _, names in os.walk(target) for name in names
    )


def _leave_tests_out(target: Path) -> None:
    for directory, names, _ in os.walk(target):
        if _TESTS in names:
            shutil.rmtree(Path(directory) / _TESTS)
            names.remove(_TESTS)
