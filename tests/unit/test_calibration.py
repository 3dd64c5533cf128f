"""int8 for TensorRT: where Quantize nodes are put, and that the graph still computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from glowplug.snapshot.errors import CompileFailed
from glowplug.snapshot.tensorrt.calibration import quantise


def saved(directory: Path) -> Path:
    """Two matrix products, and one of single values, which stays as it is."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal((64, 4)).astype(np.float32), name) for name in ("u", "v")
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 64]) for name in ("even", "spiky")]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["even", "u"], ["a"], "even_product"),
            helper.make_node("Neg", ["spiky"], ["turned"], "neg"),
            helper.make_node("MatMul", ["turned", "v"], ["b"], "spiky_product"),
            helper.make_node("Mul", ["a", "b"], ["sum"], "sum"),
        ],
        "products",
        inputs,
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows", 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(directory / "model.onnx"))
    return directory / "model.onnx"


def calls() -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for rows in (2, 100, 7):
        even, spiky = (torch.randn(rows, 64, generator=generator) for _ in range(2))
        spiky[0, 0] = 500.0 if rows == 100 else 1.0
        found.append([even, spiky])
    return found


def test_products_are_quantised_but_for_one_whose_input_has_outliers(tmp_path: Path) -> None:
    source, target = saved(tmp_path), tmp_path / "int8.onnx"
    quantise(source, target, calls())
    graph = onnx.load(str(target)).graph
    made_by = {output: node for node in graph.node for output in node.output}
    inputs = {node.name: list(node.input) for node in graph.node}
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= kinds
    assert ["DequantizeLinear", "DequantizeLinear"] == [made_by[name].op_type for name in inputs["even_product"]]
    assert ["turned", "v"] == inputs["spiky_product"]
    assert all(name not in made_by or made_by[name].op_type == "MatMul" for name in inputs["sum"])
    zero_points = [item for item in graph.initializer if item.name.endswith("zero_point")]
    assert zero_points
    assert all(not numpy_helper.to_array(item).any() for item in zero_points)  # symmetric, as TensorRT's kernels are
    for feed in ({"even": even.numpy(), "spiky": spiky.numpy()} for even, spiky in calls()):
        plain, eight = (
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0]
            for path in (source, target)
        )
        assert 0 < np.abs(plain - eight).max() < 0.05 * np.abs(plain).max()


def test_what_cannot_be_run_cannot_be_calibrated(tmp_path: Path) -> None:
    with pytest.raises(CompileFailed, match="int8: "):
        quantise(saved(tmp_path), tmp_path / "int8.onnx", [[torch.ones(2, 3), torch.ones(2, 64)]])


def test_calibration_needs_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(CompileFailed, match="int8 is calibrated by onnxruntime, which is not installed"):
        quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", [])
