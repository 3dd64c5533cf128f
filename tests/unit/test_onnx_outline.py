"""What is read of an ONNX file without running it: inputs, outputs, external data, and no trust in any byte."""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from glowplug.snapshot.errors import OnnxInvalid
from glowplug.snapshot.onnx.outline import MAX_DEPTH, Value, parse, read, refuse_escapes


def external(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(numpy.ones(4, numpy.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def addition(*weights: TensorProto, nested: int = 0) -> ModelProto:
    """``y = x + b``, with further initialisers in a graph within ``nested`` others."""
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["c"])], "inner", [], [], list(weights))
    for _ in range(nested):
        node = helper.make_node("If", ["a"], ["c"], then_branch=graph)
        graph = helper.make_graph([node], "outer", [], [])
    nodes = [
        helper.make_node("Add", ["x", "b"], ["y"]),
        *([helper.make_node("If", ["x"], ["z"], then_branch=graph)] if weights else []),
    ]
    bias = numpy_helper.from_array(numpy.ones(3, numpy.float32), "b")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, None])
    b = helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])  # before IR 4 initialisers are inputs as well
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [])
    return helper.make_model(helper.make_graph(nodes, "g", [x, b], [y], [bias]))


def field(number: int, data: bytes) -> bytes:
    """One field of protobuf, with data shorter than 16 kB."""
    return bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def test_inputs_and_outputs_without_the_initialisers() -> None:
    outline = parse(memoryview(addition().SerializeToString()), "m.onnx")
    assert (Value("x", "float32", ("rows", 3, None)),) == outline.inputs
    assert (Value("y", "float64", ()),) == outline.outputs
    assert frozenset() == outline.external


@pytest.mark.parametrize("nested", [0, 3])
def test_external_data_is_found_in_graphs_within_graphs(nested: int) -> None:
    data = addition(external("a", "../../etc/passwd"), external("b2", "a.bin"), nested=nested).SerializeToString()
    assert {"../../etc/passwd", "a.bin"} == parse(memoryview(data), "m.onnx").external


def test_external_data_is_found_in_attributes_and_functions() -> None:
    model = addition()
    constant = helper.make_node("Constant", [], ["k"], value=external("k", "/attribute"))
    sparse = helper.make_sparse_tensor(external("v", "/sparse"), external("i", "/indices"), [4])
    model.graph.node.append(constant)
    model.graph.node.append(helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(external("v", "/w"), external("i", "/wi"), [4]))
    function = helper.make_node("Constant", [], ["k"], value=external("k", "/function"))
    model.functions.append(helper.make_function("d", "f", [], ["k"], [function], []))
    default = helper.make_attribute("value", external("k", "/default"))
    model.functions[0].attribute_proto.append(default)
    found = parse(memoryview(model.SerializeToString()), "m.onnx").external
    assert {"/attribute", "/sparse", "/indices", "/w", "/wi", "/function", "/default"} == found


def test_a_second_graph_is_refused_since_others_would_merge_the_two() -> None:
    hidden = addition()
    hidden.graph.initializer.append(external("b2", "/etc/passwd"))
    data = hidden.SerializeToString() + addition().SerializeToString()
    merged = ModelProto.FromString(data)
    assert "b2" in [tensor.name for tensor in merged.graph.initializer]
    with pytest.raises(OnnxInvalid, match="it has 2 graphs"):
        parse(memoryview(data), "m.onnx")


def test_a_field_number_beyond_the_formats_is_refused() -> None:
    """Its upper bits are dropped by some readers: to them this is an initialiser."""
    key = bytes([5 << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x10])
    tensor = external("a", "/etc/passwd").SerializeToString()
    graph = key + bytes([len(tensor)]) + tensor + addition().graph.SerializeToString()
    with pytest.raises(OnnxInvalid, match="a field of number"):
        parse(memoryview(field(7, graph)), "m.onnx")


def test_every_location_of_a_tensor_counts() -> None:
    tensor = external("a", "/etc/passwd")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    assert {"/etc/passwd", "weights.bin"} == parse(memoryview(addition(tensor).SerializeToString()), "m.onnx").external


def test_a_location_without_the_flag_counts_too() -> None:
    tensor = external("a", "x.bin")
    tensor.ClearField("data_location")
    assert {"x.bin"} == parse(memoryview(addition(tensor).SerializeToString()), "m.onnx").external


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "./weights.bin", "", "a/../weights.bin", "x\0y"])
def test_external_data_outside_the_source_is_refused(location: str) -> None:
    outline = parse(memoryview(addition(external("a", location)).SerializeToString()), "m.onnx")
    with pytest.raises(OnnxInvalid, match=r"m.onnx: wants external data in .* not a file of its source"):
        refuse_escapes(outline, "m.onnx", {"m.onnx": Path(), "weights.bin": Path()})


def test_external_data_of_the_source_is_allowed() -> None:
    outline = parse(memoryview(addition(external("a", "weights.bin")).SerializeToString()), "m.onnx")
    refuse_escapes(outline, "m.onnx", {"m.onnx", "weights.bin"})


def test_graphs_nested_without_end_are_refused() -> None:
    data = b""  # by hand: protobuf itself refuses to write that
    for _ in range(MAX_DEPTH + 2):
        data = field(1, field(5, field(6, data)))  # a graph's node's attribute, which is a graph
    data = field(7, data)
    with pytest.raises(OnnxInvalid, match="nested more than"):
        parse(memoryview(data), "m.onnx")


def test_a_file_that_ends_early_is_refused_or_says_less() -> None:
    data = addition(external("a", "x.bin")).SerializeToString()
    whole = parse(memoryview(data), "m.onnx")
    refused = 0
    for length in range(len(data)):
        try:
            found = parse(memoryview(data[:length]), "m.onnx")
        except OnnxInvalid:
            refused += 1
        else:
            assert whole == found  # only the operator set and the version come after the graph
    assert refused > len(data) * 0.8


def test_any_byte_may_be_wrong() -> None:
    data = addition(external("a", "x.bin"), nested=2).SerializeToString()
    generator = random.Random(0)
    refused = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] = generator.randrange(256)
        try:
            parse(memoryview(bytes(changed)), "m.onnx")
        except OnnxInvalid:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip archive",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a graph of 2^63 bytes
        b"\x3a" + b"\xff" * 11,
        b"\x3a\x00",
        b"\x00" * 100,
    ],
)
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(OnnxInvalid, match=r"^m.onnx: "):
        read(tmp_path / "m.onnx", "m.onnx")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match="No such file"):
        read(tmp_path / "m.onnx", "m.onnx")


def test_a_type_without_an_array_is_refused() -> None:
    model = addition()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(OnnxInvalid, match="input 'x' is of a type that numpy does not have"):
        parse(memoryview(model.SerializeToString()), "m.onnx")
