"""From a module and its example to an exported program, and to the digest that names it.

The digest is equal for equal computations in any process, on any day: it is taken over the graph as code, with symbols
renumbered in order of appearance (their names come from hashes of source positions), over the shapes and dtypes of
inputs and outputs, over the bytes of constants, and over which checkpoint tensor feeds which parameter. Weights are not
in it: the source's digest covers them.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

from .architecture import Assembled
from .definition import Example
from .engines import torch_private
from .errors import ExampleInvalid, ExportFailed
from .signature import Input, Signature

_NOT_THE_AUTHORS = ("/torch/", "/glowplug/", "<frozen", "/sympy/")
_SYMBOL = re.compile(r"\b[su]\d+\b")


@dataclass(frozen=True)
class Program:
    """An exported model. ``inputs`` is the example by parameter name; ``dynamic`` as the author gave it."""

    exported: ExportedProgram
    assembled: Assembled
    inputs: Mapping[str, Any]
    dynamic: Mapping[str, tuple[str | int | None, ...]]
    signature: Signature
    digest: str

    def constants(self) -> dict[str, Tensor]:
        """Return the tensors that export lifted out of the code, by name."""
        return {name: value for name, value in self.exported.constants.items() if isinstance(value, Tensor)}

    def tensors(self) -> dict[str, Tensor]:
        """Return what engines are bound to and no file of the source holds, by name."""
        return {**self.constants(), **self.assembled.computed}


def export(assembled: Assembled, example: Example) -> Program:
    """Trace the model. Raises ``ExampleInvalid``, or ``ExportFailed`` saying what cannot be traced or run."""
    inputs = {
        name: value.contiguous() if isinstance(value, Tensor) else value
        for name, value in example.named(assembled.module.forward).items()
    }
    return traced(assembled, inputs, example.dynamic)


def traced(
    assembled: Assembled, inputs: Mapping[str, Any], dynamic: Mapping[str, tuple[str | int | None, ...]]
) -> Program:
    """Trace a module on inputs by parameter name. Raises as ``export``."""
    shapes = {name: _dimensions(dynamic.get(name), value) for name, value in inputs.items()}
    try:
        with torch_private.quiet(), torch.no_grad():
            exported = torch.export.export(assembled.module, (), dict(inputs), dynamic_shapes=shapes)
    except Exception as error:
        raise ExportFailed(f"torch.export: {type(error).__name__}: {_first_lines(error)}{_where(error)}") from error
    _refuse_mutation(exported)
    signature = _signature(exported, inputs)
    return Program(exported, assembled, inputs, dynamic, signature, _digest(exported, assembled, signature))


def _where(error: BaseException) -> str:
    """Return the author's line that tracing stopped at, and what may be done about it; empty when none was."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THE_AUTHORS)]
    if not own:
        return ""
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}"
    branches = "data-dependent" in str(error)
    return f"\nat {at}" + ("\nbranch on values with torch.where or torch.cond, not with if" if branches else "")


def _first_lines(error: Exception) -> str:
    return "\n".join(str(error).strip().splitlines()[:8])


def _dimensions(dimensions: tuple[str | int | None, ...] | None, value: Any) -> Any:
    """Return what ``torch.export`` wants for one input. Ranges and equalities it finds itself: ``Dim.DYNAMIC``."""
    if dimensions is None:
        return None
    if not isinstance(value, Tensor):
        raise ExampleInvalid("dynamic is for inputs that are tensors themselves, not for tensors inside others")
    for position, (dimension, size) in enumerate(zip(dimensions, value.shape, strict=True)):
        if isinstance(dimension, str) and size < 2:
            raise ExampleInvalid(f"dimension {position} ({dimension}) varies but is {size} in the example; make it 2")
        if isinstance(dimension, int) and dimension != size:
            raise ExampleInvalid(f"dimension {position} is {dimension} by dynamic and {size} in the example")
    return {position: Dim.DYNAMIC for position, name in enumerate(dimensions) if isinstance(name, str)}


def _signature(exported: ExportedProgram, inputs: Mapping[str, Any]) -> Signature:
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    symbols: dict[str, str] = {}
    leaves: list[Input] = []
    flat_names = torch_private.leaf_names(dict(inputs))
    given = [spec.arg for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    for name, argument in zip(flat_names, given, strict=True):
        value = values.get(getattr(argument, "name", ""))
        if isinstance(argument, ConstantArgument):
            leaves.append(Input(name, value=argument.value))
        elif isinstance(argument, TensorArgument) and isinstance(value, Tensor):
            leaves.append(Input(name, value.dtype, tuple(_size(name, size, symbols) for size in value.shape)))
        else:
            raise ExportFailed(f"input {name} is neither a tensor nor a constant")
    for output in exported.graph_signature.output_specs:
        if not isinstance(output.arg, TensorArgument):
            raise ExportFailed("the model returns something that is not a tensor, which no engine passes through")
    bounds = {str(symbol): bound for symbol, bound in exported.range_constraints.items()}
    out_structure = exported.call_spec.out_spec
    return Signature(
        names=tuple(inputs),
        inputs=tuple(leaves),
        ranges={ours: _range(bounds.get(theirs)) for theirs, ours in symbols.items()},
        in_structure=torch_private.flatten(dict(inputs))[1],
        out_structure=out_structure,
    )


def _refuse_mutation(exported: ExportedProgram) -> None:
    """Refuse a model that changes its inputs or itself: instances share what they are bound to."""
    operators = (node.target for node in exported.graph.nodes if node.op == "call_function")
    if not any(operator._schema.is_mutable for operator in operators if isinstance(operator, torch._ops.OpOverload)):
        return
    # In-place operations on intermediate values are harmless; only the functional form tells those apart.
    with torch_private.quiet():
        signature = exported.run_decompositions({}).graph_signature
    for changed in (*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()):
        raise ExportFailed(f"the model changes {changed} in place; instances share an engine, so it may not")


def _size(name: str, size: Any, symbols: dict[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    text = str(size)
    if not _SYMBOL.fullmatch(text):
        raise ExportFailed(f"input {name} has a dimension that must be {text}; only equal sizes can be related")
    return symbols.setdefault(text, f"d{len(symbols)}")


def _range(bound: Any) -> tuple[int, int | None]:
    """Return (least, most). Export reasons about sizes from 2 up and promises 1 too; the bake's check tries it."""
    if bound is None:
        return 1, None
    low, high = int(bound.lower), str(bound.upper)  # no upper bound is written as a symbol or as a huge number
    return (1 if low <= 2 else low), (int(high) if high.isdigit() and int(high) < 2**62 else None)


def _digest(exported: ExportedProgram, assembled: Assembled, signature: Signature) -> str:
    digest = hashlib.sha256()
    symbols: dict[str, str] = {}

    def add(kind: str, text: str) -> None:
        stable = _SYMBOL.sub(lambda found: symbols.setdefault(found[0], f"S{len(symbols)}"), text)
        digest.update(f"{kind}\0{stable}\0".encode())

    graphs = [module for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for module in graphs for node in module.graph.nodes):
        value = node.meta.get("val")
        shape = f"{value.dtype}{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        add("node", f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {shape}")
    for spec in (*exported.graph_signature.input_specs, *exported.graph_signature.output_specs):
        add("spec", f"{spec.kind} {spec.target} {spec.arg}")
    for name, item in sorted(signature.to_json().items()):
        add(name, str(item))
    for name, origin in sorted(assembled.origins.items()):
        add("origin", f"{name} {origin.tensor} {origin.file}")
    lifted = {name: value for name, value in exported.constants.items() if isinstance(value, Tensor)}
    for name, tensor in sorted({**lifted, **assembled.computed}.items()):
        digest.update(f"constant\0{name}\0{tensor.dtype}{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
