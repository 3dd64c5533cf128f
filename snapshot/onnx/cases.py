"""What candidates for an ONNX file are compared and timed on: ``snapshot.cases`` for arrays, in the same files.

Only the author's ``dynamic`` says which sizes may vary; a file that leaves a size open often takes one all the same
(a window of 512 samples). Where the file as it is refuses a case, or gives values that are not finite, the case is left
out: nobody promised it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from ..definition import Example, OnnxDefinition
from ..errors import CheckFailed, ExampleInvalid
from ..manifest import CHECK_FILE
from ..recorded import BATCH, CASES_FILE, LARGEST, RANDOM, SIZES, named
from . import calls, outputs
from .outline import Outline

Array = numpy.ndarray[Any, Any]
Inputs = dict[str, Array]


def write(
    definition: OnnxDefinition, outline: Outline, engine: Any, batches: Sequence[int], staging: Path
) -> list[Array]:
    """Write the example with its outputs, and every other case; return the example's outputs.

    ``engine`` is the file as it is, open. Raises ``ExampleInvalid``; ``CheckFailed`` where its outputs are not finite,
    or differ from call to call.
    """
    example = definition.make_example()
    try:
        inputs = calls.feeds(outline.inputs, example.args, example.kwargs)
        given, again = (outputs.listed(engine.run((), inputs)) for _ in range(2))
    except (TypeError, ValueError) as error:
        raise ExampleInvalid(f"model {definition.name}: the example: {error}") from error
    try:
        outputs.finite(given)
    except CheckFailed as error:
        raise CheckFailed(f"model {definition.name}: its own output on the example is unusable: {error}") from error
    if not all(numpy.array_equal(first, second) for first, second in zip(given, again, strict=True)):
        raise CheckFailed(f"model {definition.name}: two calls with the example differ; nothing could be compared")
    save(named("", list(inputs.values()), given), staging / CHECK_FILE)
    others: dict[str, Array] = {}
    for name, case in _cases(example, inputs, batches):
        try:
            said = outputs.listed(engine.run((), case))
            outputs.finite(said)
        except (CheckFailed, ValueError) as error:
            if name.startswith("batch"):
                raise ExampleInvalid(f"Objective.BatchSizes: {name.partition('.')[2]}: {error}") from error
            continue
        others |= named(f"{name}.", list(case.values()), said)
    save(others, staging / CASES_FILE)
    return given


def save(arrays: Mapping[str, Array], path: Path) -> None:
    """Write arrays as safetensors."""
    save_file({name: numpy.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _cases(example: Example, inputs: Inputs, batches: Sequence[int]) -> Iterator[tuple[str, Inputs]]:
    generator = numpy.random.default_rng(0)
    names = dict.fromkeys(size for sizes in example.dynamic.values() for size in sizes if isinstance(size, str))
    if unknown := [name for name in example.dynamic if name not in inputs]:
        raise ExampleInvalid(f"dynamic names {unknown[0]!r}; the model's inputs are {', '.join(inputs)}")
    for number in range(SIZES if names else 0):
        sizes = {name: 1 if number == 0 else int(generator.integers(1, LARGEST)) for name in names}
        yield f"size.{number}", _resized(example, inputs, sizes)
    for number in range(RANDOM):
        yield f"random.{number}", {name: _drawn(array, generator) for name, array in inputs.items()}
    for size in batches:
        name = BATCH if BATCH in names else next(iter(names), "")
        if not name:
            raise ExampleInvalid(f"Objective.BatchSizes: {size}: no dimension of the example's inputs varies")
        yield f"batch.{size}", _resized(example, inputs, {name: size})


def _resized(example: Example, inputs: Inputs, sizes: Mapping[str, int]) -> Inputs:
    """Return the example with the named dimensions at other sizes, made of its own values."""
    resized = dict(inputs)
    for parameter, dimensions in example.dynamic.items():
        array = resized[parameter]
        if len(dimensions) != array.ndim:
            raise ExampleInvalid(f"dynamic gives {parameter!r} {len(dimensions)} dimensions; it has {array.ndim}")
        for axis, name in enumerate(dimensions):
            if isinstance(name, str) and name in sizes:
                array = array.take(numpy.arange(sizes[name]) % array.shape[axis], axis)
        resized[parameter] = array
    return resized


def _drawn(array: Array, generator: numpy.random.Generator) -> Array:
    """Return values like the example's: numbers between its least and its largest. Other kinds stay as they are, and
    so do single values: they are switches (a sampling rate), not data."""
    if array.dtype.kind != "f" or array.size < 2:
        return array
    low, high = float(array.min()), float(array.max())
    drawn = numpy.asarray(generator.uniform(low, high, array.shape))
    return drawn.astype(array.dtype)
