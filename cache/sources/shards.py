"""Sharded checkpoints named by their index: a URL of ``model.safetensors.index.json`` means that file and its shards.

The index is JSON: ``{"metadata": {...}, "weight_map": {tensor name: shard's file name, ...}}``. The format is that of
https://huggingface.co/docs/transformers/big_models; shard names are relative to the index.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from glowplug.cache.errors import SourceInvalid

from .listing import ListedFile, checked_name, select

MAX_INDEX_BYTES = 64 * 1024 * 1024
"""An index has some 100 bytes a tensor; the largest published models have 100,000 tensors."""

_SUFFIX = ".safetensors.index.json"


def one_file(file: ListedFile, beside: Callable[[str], ListedFile], url: str) -> tuple[ListedFile, ...]:
    """Return what a URL that names one file lists: the file, and the shards where it is a checkpoint's index.

    ``beside`` lists the file of a checked name in the directory of ``file``; it raises ``SourceNotFound``. Raises as
    ``select`` does, and ``SourceInvalid`` for an index that cannot be read or names anything unsafe.
    """
    if not file.name.endswith(_SUFFIX):
        return select([file], url)
    return select([file, *map(beside, shard_names(file, url))], url)


def shard_names(index: ListedFile, url: str) -> tuple[str, ...]:
    """Read an index and return its shards' names, each once, in order. Raises ``SourceError`` subclasses."""
    if index.size is not None and index.size > MAX_INDEX_BYTES:
        raise SourceInvalid(f"{url}: an index of {index.size} bytes; {MAX_INDEX_BYTES} are read")
    with index.open() as stream:
        text = bytearray()
        while chunk := stream.read(MAX_INDEX_BYTES + 1 - len(text)):
            text += chunk
    if len(text) > MAX_INDEX_BYTES:
        raise SourceInvalid(f"{url}: an index of more than {MAX_INDEX_BYTES} bytes")
    try:
        named = set(json.loads(text)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceInvalid(f"{url}: not an index of shards: {type(error).__name__}: {error}") from error
    for name in named:
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise SourceInvalid(f"{url}: the index names {name!r} as a shard, which is not a safetensors file")
        checked_name(name, url)
    return tuple(sorted(named))
