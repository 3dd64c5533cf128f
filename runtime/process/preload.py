"""What a base zygote imports, so that no start has to.

*lean*: the standard library modules that handlers and the worker use. *torch*: torch, numpy, safetensors, tokenizers,
our own model code, and what the first use of the meta device drags in (1.7 s once, 12 ms the second time). Whatever is
imported here is also memory that parked functions share: the last three would be 10 MB of each otherwise.

Nothing here may start a thread or ask for CUDA: OPENBLAS_NUM_THREADS=1 is set before the exec, and torch is held to one
thread before it runs anything.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from typing import Literal

from . import heap, hugepages

Preload = Literal["lean", "torch"]
CHOICES: tuple[Preload, ...] = ("lean", "torch")

_LEAN = (
    "base64", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "functools",
    "hashlib", "inspect", "io", "itertools", "json", "locale", "logging", "math", "msgpack", "os", "pathlib", "random",
    "re", "string", "struct", "tempfile", "threading", "time", "traceback", "typing", "urllib.parse", "uuid", "zlib",
)  # fmt: skip
_TORCH = (
    "numpy", "numpy.random", "torch", "torch.nn", "safetensors", "safetensors.torch", "tokenizers",
    "tokenizers.models", "glowplug.runtime.worker.models", "glowplug.snapshot.restore", "glowplug.handlers",
    "glowplug.handlers.author",
)  # fmt: skip

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
        importlib.import_module("glowplug.snapshot.engines.table").preload()
        _use_torch_once()
        _use_tokenizers_once()
        gc.collect()
        heap.fill_holes()
        hugepages.collapse()
    gc.enable()


def top_level_modules() -> list[str]:
    """Return the names of the top-level modules that this process has imported, sorted."""
    return sorted({name.partition(".")[0] for name in sys.modules if not name.startswith("_")})


def trim_heap() -> None:
    """Give unused heap back to the kernel: a parked zygote keeps for an hour what it holds now."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _use_torch_once() -> None:
    """Pay here for what torch and MKL set up at the first use of an operation: 2 ms of each function's first answer.

    With one thread an operation runs in the calling thread and starts no pool, so this stays forkable.
    """
    import torch  # late on purpose: only the torch zygote has it

    torch.set_num_threads(1)
    with torch.device("meta"):
        torch.nn.Embedding(2, 2)  # its normal_() imports torch._dynamo and sympy (1.1 s); a Linear alone does not
    with torch.inference_mode():
        hidden = torch.nn.functional.gelu(torch.nn.Linear(16, 32)(torch.zeros(2, 8, 16)))
        torch.nn.LayerNorm(32)(hidden).softmax(-1).mean(1).tanh().tolist()
        heads = hidden.view(2, 8, 4, 8).transpose(1, 2)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        torch.bmm(hidden, hidden.transpose(1, 2))
        torch.nn.Embedding(4, 8)(torch.zeros(1, 3, dtype=torch.long))


def _use_tokenizers_once() -> None:
    """Touch the code of tokenizers here, so that its pages are shared: 1.9 MB that each parked function would map."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # late, as torch above

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    Tokenizer.from_str(tokenizer.to_str()).encode("a b")
