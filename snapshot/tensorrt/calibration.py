"""int8 by explicit quantisation: the ranges of activations are measured at bake and written into the ONNX graph.

TensorRT 11 has no calibrator any more, and 10 marks its own deprecated: both want a graph with Quantize and Dequantize
nodes. They are placed by ONNX Runtime's quantiser, symmetric and in 8 bits as TensorRT's kernels need them, weights per
channel. It measures the ranges by running the model on the CPU, on the author's example and on inputs of other sizes.
A range that no input reached is cut off, so the example should be typical.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CompileFailed

OPERATORS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""What is computed in 8 bits: the products. The rest gains little and loses most."""


def quantise(source: Path, target: Path, calls: Iterable[Sequence[Tensor]]) -> None:
    """Write ``source`` with Quantize and Dequantize nodes to ``target``; weights beside it.

    ``calls`` are the input tensors of calls to measure with, in the model's order. Raises ``CompileFailed``.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise CompileFailed(f"int8 is calibrated by onnxruntime, which is not installed: {error}") from error
    names = [item.name for item in onnx.load(str(source), load_external_data=False).graph.input]
    feeds = [{name: tensor.numpy() for name, tensor in zip(names, call, strict=True)} for call in calls]
    reader = type("Reader", (_Reader, quantization.CalibrationDataReader), {})(feeds)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="int8-") as scratch:
            warnings.simplefilter("ignore")
            plain = Path(scratch, "plain.onnx")
            quant_pre_process(str(source), str(plain), skip_symbolic_shape=True, save_as_external_data=True)
            quantization.quantize_static(
                str(plain),
                str(target),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=True,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,  # TensorRT adds biases in the accumulator's type
                },
            )
    except Exception as error:  # the quantiser's own errors have no common base but Exception
        raise CompileFailed(f"int8: {type(error).__name__}: {str(error).strip()[:500]}") from error


class _Reader:
    """Gives the quantiser one call after the other."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self._left: Iterator[Mapping[str, Any]] = iter(feeds)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self._left, None)
