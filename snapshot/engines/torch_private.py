"""Everything of torch that this project uses without a promise from torch, in one place.

What and why:

- ``torch._inductor.aot_compile`` makes a bare ``.so``; the public ``aoti_compile_and_package`` makes a zip archive,
  whose public loader takes seconds: it compiles a C++ file to find out what to warn about.
- ``torch._C._aoti.AOTIModelContainerRunnerCpu`` loads that ``.so`` in under a millisecond and takes tensors that the
  caller owns as its constants (``user_managed``), so mapped weights are never copied. ``…RunnerCuda`` does the same for
  a library that was compiled for a GPU and tensors that are on it; a build of torch for CPUs has none.
- ``torch.utils._pytree`` flattens nested inputs and outputs in the order that exported programs use.

``obstacle`` says whether this torch still has all of it in the form used here. Where it does not, the engine that needs
it is reported as unavailable and the model runs eagerly. ``tests/unit/test_torch_private.py`` runs once per supported
torch.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

_METHODS = ("run", "update_constant_buffer", "get_constant_names_to_original_fqns")
_BINDING = ("tensor_map", "use_inactive", "validate_full_updates", "user_managed")


RUNNERS = {"cpu": "AOTIModelContainerRunnerCpu", "cuda": "AOTIModelContainerRunnerCuda"}


@functools.cache
def obstacle(device: str = "cpu") -> str:
    """Return what this torch lacks for ahead-of-time engines on ``cpu`` or ``cuda``, in words; empty when nothing."""
    name = RUNNERS[device]
    runner = getattr(getattr(torch._C, "_aoti", None), name, None)
    if runner is None:
        return f"torch {torch.__version__} has no torch._C._aoti.{name}"
    for method in _METHODS:
        if not hasattr(runner, method):
            return f"torch {torch.__version__}: {name} has no {method}"
    signature = runner.update_constant_buffer.__doc__ or ""  # pybind11 writes the parameters there and nowhere else
    for parameter in _BINDING:
        if parameter not in signature:
            return f"torch {torch.__version__}: update_constant_buffer takes no {parameter}"
    return ""


def compile_library(module: Any, inputs: Mapping[str, Tensor], target: Path, device: str = "cpu") -> None:
    """Compile an exported module without its weights into the shared library ``target``.

    ``cpp.dynamic_threads``: otherwise the compiling process' thread count is baked into the code, and a forked worker
    with another one hangs or oversubscribes. ``precompile_headers`` pays off from the second compile in a cache
    directory, and a bake's is its own. ``embed_kernel_binary``: else the library looks for its GPU kernels in files
    beside it. Raises whatever the compiler raises.
    """
    options: dict[str, Any] = {
        "aot_inductor.output_path": str(target),
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.precompile_headers": False,
        "cpp.dynamic_threads": True,
    }
    if device == "cuda":
        options["aot_inductor.embed_kernel_binary"] = True
    with quiet():
        torch._inductor.aot_compile(module, (), dict(inputs), options=options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings about the use of torch's own insides out of the author's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Library:
    """A loaded engine library. ``constants`` maps the name of each constant it needs to that in the exported module."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        kind, _, number = device.partition(":")
        runner = getattr(torch._C._aoti, RUNNERS[kind])
        self._runner = runner(str(path), 1, device) if number else runner(str(path), 1)
        self._bound: Mapping[str, Tensor] = {}
        self.constants: dict[str, str] = self._runner.get_constant_names_to_original_fqns()

    def bind(self, constants: Mapping[str, Tensor]) -> None:
        """Use ``constants`` in place, without a copy, as the values of the library's constants."""
        self._bound = constants  # user-managed: the library keeps bare pointers into these tensors
        # Positional: use_inactive, validate_full_updates, user_managed. Callers have compared the names already, and
        # the library's own validation only knows which are missing from the names it has itself.
        self._runner.update_constant_buffer(dict(constants), False, False, True)

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Run the engine on flat inputs; returns its flat outputs."""
        outputs: list[Tensor] = self._runner.run(inputs)
        return outputs


def move(program: Any, device: str) -> Any:
    """Return an exported program for another device. The program that is given must not be used any more."""
    from torch.export.passes import move_to_device_pass  # late: torch.export takes 0.1 s to import

    return move_to_device_pass(program, device)


def flatten(value: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested tuples, lists, dicts and registered classes, and their structure."""
    return _pytree.tree_flatten(value)


def leaf_names(value: Any) -> list[str]:
    """Return a readable path for each leaf of ``value``, in the order of ``flatten``: ``ids``, ``states[0]``."""
    names = []
    for path, _ in _pytree.tree_flatten_with_path(value)[0]:
        text = _pytree.keystr(path)
        names.append(text[2:-2] if text.startswith("['") and text.count("[") == 1 else text)
    return names


def unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    """Put leaves back into a structure from ``flatten`` or ``read_structure``."""
    return _pytree.tree_unflatten(leaves, structure)


def write_structure(structure: Any) -> str:
    """Return a structure as JSON text. Raises ``NotImplementedError`` for a class that is not registered by name."""
    return _pytree.treespec_dumps(structure)


def read_structure(text: str) -> Any:
    """Read what ``write_structure`` wrote. Raises ``ValueError``, ``KeyError``, ``NotImplementedError``."""
    return _pytree.treespec_loads(text)
