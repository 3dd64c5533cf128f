"""A model in another precision: weights converted once, at bake; inputs and outputs as the author's module has them.

``bf16`` and ``fp16`` convert parameters, buffers and floating inputs, and convert the outputs back. ``int8`` keeps
activations in fp32 and quantises them per row as they come; weights of linear layers become 8-bit integers with a
scale per row (torchao's ``Int8DynamicActivationInt8WeightConfig``; it quantises ``nn.Linear`` alone, so a model without
any is refused). Converted weights are a file of the snapshot, ``weights-<precision>.safetensors``, which every process
maps, as it maps the checkpoint.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Assembled
from .engines import torch_private
from .errors import EngineUnavailable, ExportFailed
from .program import Program, traced

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def weights_file(precision: str) -> str:
    """Return the name of the snapshot's file with the weights of one precision."""
    return f"weights-{precision}.safetensors"


def converted(program: Program, precision: str) -> Program:
    """Return the program in another precision, traced anew. Its tensors are all ``computed``: no file has them yet.

    Raises ``EngineUnavailable`` where a library is missing, ``ExportFailed`` where what it becomes cannot be traced.
    """
    if precision == "fp32":
        return program
    outputs = [tensor.dtype for tensor in _outputs(program)]
    dtype = _HALF.get(precision)
    module = copy.deepcopy(program.assembled.module)
    module = _quantised(module) if dtype is None else module.to(dtype)
    wrapped = _Converted(module, dtype, outputs).eval().requires_grad_(False)
    fresh = traced(Assembled(wrapped), program.inputs, program.dynamic)
    fresh.assembled.computed.update(fresh.exported.state_dict)
    return fresh


class _Converted(nn.Module):
    """Converts floating inputs on the way in and outputs on the way out."""

    def __init__(self, module: nn.Module, dtype: torch.dtype | None, outputs: list[torch.dtype]) -> None:
        super().__init__()
        self.module = module
        self._dtype = dtype
        self._outputs = outputs
        self.forward = _named_like(module.forward, self._run)

    def _run(self, inputs: Mapping[str, Any]) -> Any:
        given = inputs if self._dtype is None else _cast(inputs, self._dtype)
        leaves, structure = torch_private.flatten(self.module(**given))
        return torch_private.unflatten(
            [leaf.to(dtype) for leaf, dtype in zip(leaves, self._outputs, strict=True)], structure
        )


def _named_like(forward: Callable[..., Any], run: Callable[[Mapping[str, Any]], Any]) -> Callable[..., Any]:
    """Return ``run`` with the parameters of ``forward``: tracing goes by their names."""
    signature = inspect.signature(forward)

    def named(*args: Any, **kwargs: Any) -> Any:
        return run(signature.bind(*args, **kwargs).arguments)

    named.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks at first
    return named


def _cast(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    leaves, structure = torch_private.flatten(dict(inputs))
    cast = [leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf for leaf in leaves]
    return dict(torch_private.unflatten(cast, structure))


def _outputs(program: Program) -> list[Tensor]:
    with torch.inference_mode():
        return torch_private.flatten(program.assembled.module(**program.inputs))[0]


def _quantised(module: nn.Module) -> nn.Module:
    if importlib.util.find_spec("torchao") is None:
        raise EngineUnavailable("int8 needs torchao (install glowplug[quantize])")
    if not any(isinstance(part, nn.Linear) for part in module.modules()):
        raise ExportFailed("int8 quantises linear layers, and the model has none")
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it tells at import which CUDA kernels it lacks
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_  # late: seconds, and optional
    from torchao.utils import unwrap_tensor_subclass

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    unwrap_tensor_subclass(module)  # plain tensors under names of their own, which export and a file can hold
    return module
