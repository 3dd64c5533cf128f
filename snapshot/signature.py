"""What an exported model takes and gives: the names, dtypes and shapes of its inputs, the structure of its outputs.

A compiled engine checks nothing: an ``int32`` tensor where it expects ``int64``, or two inputs of different lengths
where it expects equal ones, would be read past their ends. So every call is compared with the signature first, which
costs a few microseconds. What does not fit raises ``InputUnsupported``; the model then runs eagerly.

JSON form, in a manifest under ``signature``:

    {"names": ["ids", "mask"],                            parameters of forward, in order
     "inputs": [{"name": "ids", "dtype": "int64", "shape": ["d0", "d1"]},       a leaf that is a tensor
                {"name": "scale", "value": 2}],                                 a leaf that was compiled in
     "ranges": {"d0": [1, null], "d1": [1, 512]},         sizes that vary; null: no bound
     "in_structure": "…", "out_structure": "…"}           pytree structures of {name: input} and of the output
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .engines import torch_private
from .errors import InputUnsupported, SnapshotCorrupt


@dataclass(frozen=True, slots=True)
class Input:
    """One leaf of the inputs. ``dtype`` is None for a value that was compiled in; sizes are numbers or range names."""

    name: str
    dtype: torch.dtype | None = None
    shape: tuple[int | str, ...] = ()
    value: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return the leaf as the module docstring shows it."""
        if self.dtype is None:
            return {"name": self.name, "value": self.value}
        return {"name": self.name, "dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape)}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of an engine. Both structures are pytree structures."""

    names: tuple[str, ...]
    inputs: tuple[Input, ...]
    ranges: Mapping[str, tuple[int, int | None]]
    in_structure: Any
    out_structure: Any

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors of a call in the engine's order, contiguous. Raises ``InputUnsupported``."""
        if len(args) > len(self.names):
            raise InputUnsupported(f"{len(args)} inputs; the engine was compiled for {', '.join(self.names)}")
        named = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in named or name not in self.names:
                raise InputUnsupported(f"input {name}; the engine was compiled for {', '.join(self.names)}")
            named[name] = value
        if len(named) != len(self.names):
            absent = next(name for name in self.names if name not in named)
            raise InputUnsupported(f"no input {absent}; the engine was compiled with one")
        leaves: list[Any] = [named[name] for name in self.names]
        if len(self.inputs) != len(leaves) or not all(isinstance(leaf, Tensor) for leaf in leaves):
            leaves, structure = torch_private.flatten({name: named[name] for name in self.names})
            if structure != self.in_structure:
                raise InputUnsupported("inputs nested in another way than the engine was compiled for")
        sizes: dict[str, int] = {}
        return [
            leaf for want, given in zip(self.inputs, leaves, strict=True) for leaf in _leaf(want, given, sizes, self)
        ]

    def unflatten_inputs(self, tensors: Sequence[Tensor]) -> dict[str, Any]:
        """Return the inputs by name from the tensors of ``flatten``."""
        given = iter(tensors)
        leaves = [item.value if item.dtype is None else next(given) for item in self.inputs]
        return dict(torch_private.unflatten(leaves, self.in_structure))

    def unflatten(self, outputs: Sequence[Tensor]) -> Any:
        """Return the engine's flat outputs in the structure that the model returns."""
        return torch_private.unflatten(outputs, self.out_structure)

    def to_json(self) -> dict[str, Any]:
        """Return the signature as JSON-able values."""
        return {
            "names": list(self.names),
            "inputs": [item.to_json() for item in self.inputs],
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
            "in_structure": torch_private.write_structure(self.in_structure),
            "out_structure": torch_private.write_structure(self.out_structure),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Signature:
        """Read what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
        try:
            return cls(
                names=tuple(value["names"]),
                inputs=tuple(_read_input(item) for item in value["inputs"]),
                ranges={name: (low, high) for name, (low, high) in value["ranges"].items()},
                in_structure=torch_private.read_structure(value["in_structure"]),
                out_structure=torch_private.read_structure(value["out_structure"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            raise SnapshotCorrupt(f"signature: {type(error).__name__}: {error}") from error


def _read_input(item: Mapping[str, Any]) -> Input:
    if "dtype" not in item:
        return Input(item["name"], value=item["value"])
    dtype = getattr(torch, item["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{item['dtype']!r} is not a dtype")
    return Input(item["name"], dtype, tuple(item["shape"]))


def _leaf(want: Input, given: Any, sizes: dict[str, int], signature: Signature) -> tuple[Tensor, ...]:
    """Check one leaf; ``sizes`` collects what the named dimensions are in this call."""
    if want.dtype is None:
        if isinstance(given, Tensor) or type(given) is not type(want.value) or given != want.value:
            raise InputUnsupported(f"{want.name}: {given!r:.50}; the engine was compiled for {want.value!r}")
        return ()
    if not isinstance(given, Tensor):
        raise InputUnsupported(f"{want.name}: {type(given).__name__}, not a tensor")
    if given.dtype is not want.dtype or given.device.type != "cpu" or given.dim() != len(want.shape):
        kind = f"{given.dtype} with {given.dim()} dimensions on {given.device}"
        raise InputUnsupported(f"{want.name}: {kind}; the engine takes {want.dtype} with {len(want.shape)} on cpu")
    for position, size in enumerate(given.shape):
        wanted = want.shape[position]
        if isinstance(wanted, str):
            low, high = signature.ranges[wanted]
            if size < low or (high is not None and size > high):
                raise InputUnsupported(f"{want.name}: dimension {position} is {size}, outside {low} to {high or '…'}")
            wanted = sizes.setdefault(wanted, size)
        if size != wanted:
            raise InputUnsupported(f"{want.name}: dimension {position} is {size}; the engine needs {wanted}")
    return (given.contiguous(),)
