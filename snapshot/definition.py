"""What an author says about a model: how to build it, what to try it with, how its weights are called.

Torch-free on purpose: a handler without a model may import this through ``glowplug.handlers``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExampleInvalid

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[Mapping[str, Path]], "nn.Module"]
"""Gets file name -> path of the model's source and returns the module, with any values in its parameters."""

Rename = Callable[[str], str | None]
"""Gets the name of a tensor in the checkpoint and returns its name in the module; None leaves it out."""


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs of the kind the model will see: what to compile for and to warm up with.

    ``dynamic`` maps a parameter of ``forward`` to one entry per dimension of its tensor: a name for a size that varies,
    None or a number for one that does not. Parameters that are left out do not vary. Sizes that vary should be at
    least 2 in the example: ``torch.export`` treats 0 and 1 as constants.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic: Mapping[str, tuple[str | int | None, ...]] = field(default_factory=dict)

    def named(self, forward: Callable[..., Any]) -> dict[str, Any]:
        """Return the inputs by parameter name, in the order of ``forward``.

        Raises ``ExampleInvalid`` where they do not fit, or where ``dynamic`` names something that is not an input.
        """
        parameters = inspect.signature(forward).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ExampleInvalid(f"forward takes any number of {parameter.name}; engines need inputs with names")
        try:
            bound = inspect.signature(forward).bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise ExampleInvalid(f"the example does not fit forward: {error}") from error
        named = dict(bound.arguments)
        for name, dimensions in self.dynamic.items():
            if name not in named:
                raise ExampleInvalid(f"dynamic names {name!r}; the example's inputs are {', '.join(named) or 'none'}")
            rank = len(getattr(named[name], "shape", ()))
            if rank != len(dimensions):
                raise ExampleInvalid(f"dynamic gives {len(dimensions)} dimensions for {name!r}, which has {rank}")
        return named


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """A model as its author described it. ``name`` is for messages."""

    name: str
    build: Build
    example: Callable[[], Example] | None = None
    rename: Rename | None = None

    @property
    def identity(self) -> str:
        """What tells this model from another of the same module."""
        return self.build.__qualname__

    def make_example(self) -> Example:
        """Call the author's example. Raises ``ExampleInvalid`` when there is none, or it is not an ``Example``."""
        return _made_example(self.name, self.example)


@dataclass(frozen=True, slots=True)
class OnnxDefinition:
    """A model that is an ONNX file. ``name`` is for messages, ``file`` its name in the source (empty: the only one)."""

    name: str
    file: str = ""
    example: Callable[[], Example] | None = None

    @property
    def identity(self) -> str:
        """What tells this model from another of the same module."""
        return f"{self.name} {self.file}"

    def make_example(self) -> Example:
        """Call the author's example. Raises ``ExampleInvalid`` when there is none, or it is not an ``Example``."""
        return _made_example(self.name, self.example)


def _made_example(name: str, make: Callable[[], Example] | None) -> Example:
    if make is None:
        raise ExampleInvalid(f"model {name}: no example; add one with @{name}.example")
    try:
        example = make()
    except Exception as error:
        raise ExampleInvalid(f"model {name}: the example raised {type(error).__name__}: {error}") from error
    if not isinstance(example, Example):
        raise ExampleInvalid(f"model {name}: the example returned {type(example).__name__}, not an Example")
    return example
