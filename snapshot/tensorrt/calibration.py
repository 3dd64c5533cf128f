"""int8 by explicit quantisation: the ranges of activations are measured at bake and written into the ONNX graph.

TensorRT 11 has no calibrator any more, and 10 marks its own deprecated: both want a graph with Quantize and Dequantize
nodes. They are placed by ONNX Runtime's quantiser, symmetric and in 8 bits as TensorRT's kernels need them, weights per
channel. It measures the ranges by running the model on the CPU, on the author's example and on inputs of other sizes.
A range that no input reached is cut off, so the example should be typical.

One scale for a whole tensor cannot hold values a hundred times the usual ones: what is usual gets lost between two
steps. Activations behind a GELU are like that. A product of such a tensor stays as it was (``OUTLIERS``); for a small
sentence encoder that takes the worst error from 20 % of the largest output to 3 %.
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


OUTLIERS = 40.0
"""How many times a tensor's root mean square its largest value may be: 127 steps then leave 3 for the usual one."""


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
            peaks = _peaks(plain, feeds)
            quantization.quantize_static(
                str(plain),
                str(target),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=[name for name, peak in peaks.items() if peak > OUTLIERS],
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=True,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": list(
                        OPERATORS
                    ),  # the accumulator is wider; no need to lose it
                    "QuantizeBias": False,  # TensorRT adds biases in the accumulator's type
                },
            )
    except Exception as error:  # the quantiser's own errors have no common base but Exception
        raise CompileFailed(f"int8: {type(error).__name__}: {str(error).strip()[:500]}") from error


def _peaks(model: Path, feeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return for each product the largest value of its first input, over its root mean square, in the worst call."""
    import numpy
    import onnx
    import onnxruntime

    proto = onnx.load(str(model))
    read = {node.name: node.input[0] for node in proto.graph.node if node.op_type in OPERATORS}
    computed = sorted(set(read.values()) & {name for node in proto.graph.node for name in node.output})
    given = {item.name for item in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed if name not in given)
    onnx.save(proto, str(model.with_name("shown.onnx")), save_as_external_data=True)
    session = onnxruntime.InferenceSession(str(model.with_name("shown.onnx")), providers=["CPUExecutionProvider"])
    peaks: dict[str, float] = {}
    for feed in feeds:
        values = dict(feed)
        if computed:
            values |= zip(computed, session.run(computed, dict(feed)), strict=True)
        for name in set(read.values()) & set(values):
            usual = float(numpy.sqrt(numpy.mean(numpy.square(values[name], dtype=numpy.float64))))
            if usual > 0:  # nan for an empty tensor is not
                peaks[name] = max(peaks.get(name, 0.0), float(numpy.abs(values[name]).max()) / usual)
    return {node: peaks.get(name, 0.0) for node, name in read.items()}


class _Reader:
    """Gives the quantiser one call after the other."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self._left: Iterator[Mapping[str, Any]] = iter(feeds)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self._left, None)
