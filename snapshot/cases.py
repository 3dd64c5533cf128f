"""What candidates are compared and timed on: the example, inputs of other sizes, random inputs, batches.

The example and its outputs stay with the snapshot, for every later start. The other cases serve the bake alone; each
holds inputs and the outputs that eager gave for them in fp32, flat, in one safetensors file:

    size.0.input.0, size.0.output.0, …     other sizes, made of the example's own values; sizes of 1 first, since export
                                           never tried those
    random.0.…                             the example's sizes, values drawn from the range of the example's
    batch.8.…                              a batch size that the template names: timed as well

An author promises the example, not random values: where eager itself raises on them or gives values that are not
finite, the case is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import verify
from .engines import torch_private
from .errors import CheckFailed, ExampleInvalid
from .manifest import CHECK_FILE
from .program import Program
from .recorded import BATCH, CASES_FILE, LARGEST, RANDOM, SIZES, named

_UNFIT = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)  # what torch operations raise


def eager(program: Program, inputs: Mapping[str, Any]) -> Any:
    """Return what the author's module says, in fp32 as it is."""
    with torch.inference_mode():
        return program.assembled.module(**inputs)


def expected(name: str, program: Program) -> Any:
    """Return eager's outputs on the example. Raises ``CheckFailed`` when they are not finite, or differ between two
    calls: nothing could be compared with them then."""
    outputs, again = eager(program, program.inputs), eager(program, program.inputs)
    try:
        verify.finite(outputs)
    except CheckFailed as error:
        raise CheckFailed(f"model {name}: eager's own output on the example is unusable: {error}") from error
    leaves = zip(torch_private.flatten(outputs)[0], torch_private.flatten(again)[0], strict=True)
    if not all(torch.equal(first, second) for first, second in leaves):
        raise CheckFailed(
            f"model {name}: two calls with the same example gave different outputs; a model that draws random numbers "
            "is served by eager"
        )
    return outputs


def write_check(program: Program, outputs: Any, staging: Path) -> dict[str, Any]:
    """Write the example with its outputs; return the manifest's ``check``."""
    inputs = program.signature.flatten((), program.inputs)
    save(named("", inputs, torch_private.flatten(outputs)[0]), staging / CHECK_FILE)
    return {"file": CHECK_FILE}


def write_cases(program: Program, batch_sizes: Sequence[int], staging: Path) -> None:
    """Write every other case. Raises ``ExampleInvalid`` for a batch size that the model does not take."""
    tensors: dict[str, Tensor] = {}
    for name, inputs in _cases(program, batch_sizes):
        try:
            outputs = eager(program, inputs)
            verify.finite(outputs)
        except (CheckFailed, *_UNFIT):
            if not name.startswith("random"):
                raise
            continue
        flat = program.signature.flatten((), inputs)
        tensors |= named(f"{name}.", flat, torch_private.flatten(outputs)[0])
    save(tensors, staging / CASES_FILE)


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    # clone: the format stores each tensor by itself and refuses two that share memory
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def _cases(program: Program, batch_sizes: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    bounds = _bounds(program)
    generator = random.Random(0)  # noqa: S311 - sizes of test inputs
    for number in range(SIZES if bounds else 0):
        sizes = {name: low if number == 0 else generator.randint(low, high) for name, (low, high) in bounds.items()}
        yield f"size.{number}", _resized(program, sizes)
    torch_generator = torch.Generator().manual_seed(0)
    for number in range(RANDOM):
        yield f"random.{number}", {name: _drawn(value, torch_generator) for name, value in program.inputs.items()}
    for size in batch_sizes:
        name = BATCH if BATCH in bounds else next(iter(bounds), "")
        if not name or not bounds[name][0] <= size:
            raise ExampleInvalid(f"Objective.BatchSizes: {size}: no dimension of the example's inputs takes that size")
        yield f"batch.{size}", _resized(program, {name: size})


def _resized(program: Program, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the example with the named dimensions at other sizes, made of its own values."""
    sample = dict(program.inputs)
    for parameter, dimensions in program.dynamic.items():
        tensor = sample[parameter]
        for position, name in enumerate(dimensions):
            if isinstance(name, str) and name in sizes:
                tensor = tensor.index_select(position, torch.arange(sizes[name]) % tensor.shape[position])
        sample[parameter] = tensor.contiguous()
    return sample


def _drawn(value: Any, generator: torch.Generator) -> Any:
    """Return values like the example's: numbers between its least and its largest; indices from 0 on."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return value
    if value.is_floating_point():
        least, most = value.min(), value.max()
        return (torch.rand(value.shape, generator=generator) * (most - least) + least).to(value.dtype)
    if value.dtype is torch.bool:
        return value
    low, high = min(0, int(value.min())), int(value.max())
    return torch.randint(low, high + 1, value.shape, generator=generator).to(value.dtype)


def _bounds(program: Program) -> dict[str, tuple[int, int]]:
    """Return the author's dimension name -> sizes that every input with that dimension allows."""
    bounds: dict[str, tuple[int, int]] = {}
    for item in program.signature.inputs:
        for name, size in zip(program.dynamic.get(item.name, ()), item.shape, strict=False):
            if not isinstance(name, str):
                continue
            if not isinstance(size, str):
                raise ExampleInvalid(f"{item.name}: dimension {name!r} does not vary: the model needs {size}")
            low, high = program.signature.ranges[size]
            before = bounds.get(name, (1, LARGEST))
            bounds[name] = (max(low, before[0]), max(low, min(before[1], high or LARGEST)))
    return bounds
