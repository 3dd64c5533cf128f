"""What a base zygote imports, so that no start has to.

*lean*: the standard library modules that handlers and the worker use. *torch*: torch, numpy, safetensors, and what the
first use of the meta device drags in (1.7 s once, 12 ms the second time). Nothing here may start a thread or ask for
CUDA: OPENBLAS_NUM_THREADS=1 is set before the exec, and torch is held to one thread before it runs anything.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from typing import Literal

Preload = Literal["lean", "torch"]
CHOICES: tuple[Preload, ...] = ("lean", "torch")

_LEAN = (
    "base64", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "functools",
    "hashlib", "inspect", "io", "itertools", "json", "locale", "logging", "math", "msgpack", "os", "pathlib", "random",
    "re", "string", "struct", "tempfile", "threading", "time", "traceback", "typing", "urllib.parse", "uuid", "zlib",
)  # fmt: skip
_TORCH = ("numpy", "numpy.random", "torch", "torch.nn", "safetensors", "safetensors.torch")

_malloc_trim = getattr(ctypes.PyDLL(None), "malloc_trim", None)  # glibc only


def load(preload: Preload) -> None:
    """Import everything that ``preload`` names. Raises ``ImportError``."""
    # Nothing that is imported here is garbage: collecting meanwhile would only look for some.
    gc.disable()
    for name in _LEAN:
        importlib.import_module(name)
    if preload == "torch":
        for name in _TORCH:
            importlib.import_module(name)
        _build_on_meta()
    gc.enable()


def top_level_modules() -> list[str]:
    """Return the names of the top-level modules that this process has imported, sorted."""
    return sorted({name.partition(".")[0] for name in sys.modules if not name.startswith("_")})


def trim_heap() -> None:
    """Give unused heap back to the kernel: a parked zygote keeps for an hour what it holds now."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _build_on_meta() -> None:
    import torch  # late on purpose: only the torch zygote has it

    torch.set_num_threads(1)
    with torch.device("meta"):
        torch.nn.Linear(2, 2)
