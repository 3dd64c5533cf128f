"""Functions whose models are ONNX files, on a real node without torch: served, baked, and told what is wrong."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "tests" / "data" / "speech.wav"
SPEECH = f"""
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {{Runtime: python3.11, Timeout: 30, MemorySize: 512}}
Resources:
  Speech:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug:
        Model: {{Source: "package://silero_vad/data/silero_vad.onnx", Engine: onnxruntime}}
    Properties:
      FunctionName: speech
      Handler: speech.handler
      CodeUri: {ROOT}/handlers/
      FunctionUrlConfig: {{AuthType: NONE}}
"""
BROKEN = """
  {name}:
    Type: AWS::Serverless::Function
    Metadata: {{Glowplug: {{Model: {{Source: "file://{root}/{name}", Engine: onnxruntime}}}}}}
    Properties: {{FunctionName: {name}, Handler: broken.handler, CodeUri: code/}}
"""
CODE = """
from glowplug.handlers import onnx_model

broken = onnx_model("m.onnx")


def handler(event, context):
    return broken(x=[1.0, 2.0])[0].item()
"""


def truncated(directory: Path) -> None:
    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations is not None
    data = Path(package.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes()
    (directory / "m.onnx").write_bytes(data[: len(data) // 2])


def escaping(directory: Path) -> None:
    """Weights that it claims to keep in a file outside its source."""
    weight = numpy_helper.from_array(numpy.ones(2, numpy.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    added(directory, weight)


def unknown(directory: Path) -> None:
    added(directory, numpy_helper.from_array(numpy.ones(2, numpy.float32), "w"), operator="Wobble")


def added(directory: Path, weight: TensorProto, *, operator: str = "Add") -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]), ir_version=8)
    (directory / "m.onnx").write_bytes(model.SerializeToString())


BREAKERS = {"truncated": truncated, "escaping": escaping, "unknown": unknown}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("onnx")
    (root / "code").mkdir()
    (root / "code" / "broken.py").write_text(CODE)
    for name, break_it in BREAKERS.items():
        (root / name).mkdir()
        break_it(root / name)
    broken = "".join(BROKEN.format(name=name, root=root) for name in BREAKERS)
    (root / "template.yaml").write_text(SPEECH + broken)
    environ = {"GLOWPLUG_FILE_ROOTS": str(root), "GLOWPLUG_PRELOAD_TORCH": "0"}
    with serving(root / "template.yaml", root / "state", **environ) as node:
        yield node


def heard(node: Any) -> Any:
    status, _, answer = node.request_raw("POST", "/_url/speech/", RECORDING.read_bytes(), {"Content-Type": "audio/wav"})
    assert 200 == status, answer
    return answer


def libraries(node: Any) -> str:
    """Every file that is mapped by a process of the node."""
    found, waiting = "", [node.pid]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        for task in (process / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has ended has no children
                waiting += map(int, (task / "children").read_text().split())
        found += (process / "maps").read_text()
    return found


def test_speech_is_served_as_it_is_then_baked_and_never_meets_torch(node: Any) -> None:
    before = heard(node)
    node.admin("POST", "functions/speech/bake", {"wait": True})
    assert "onnxruntime" in node.function("speech")["engine"]
    assert before == heard(node)
    mapped = libraries(node)
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped


def test_an_operator_may_overrule_the_verdict(node: Any) -> None:
    said = heard(node)
    node.bake("speech")
    (verdict,) = node.function("speech")["engines"]
    (other,) = {"onnxruntime", "onnxruntime-unpacked"} - {verdict["engine"]}
    (manifest,) = node.state.glob("snapshots/*/manifest.json")
    made = manifest.stat()
    node.bake("speech", other)
    (engine,) = node.function("speech")["engines"]
    assert other == engine["engine"]
    assert verdict["measurements"] != engine["measurements"]
    assert (made.st_ino, made.st_mtime_ns) == (manifest.stat().st_ino, manifest.stat().st_mtime_ns), "not made anew"
    node.admin("POST", "functions/speech/cool", {"to": "stored"})
    assert said == heard(node)
    assert other == node.admin("GET", "starts")["starts"][0]["engine"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", "m.onnx: not an ONNX model: field 7"),
        ("escaping", "m.onnx: wants external data in '../../../../etc/passwd', which is not a file of its source"),
        ("unknown", "Wobble"),
    ],
)
def test_a_file_that_cannot_be_served_says_why(node: Any, name: str, message: str) -> None:
    status, _, answer = node.request("POST", f"/2015-03-31/functions/{name}/invocations", {})
    assert 200 != status or "errorMessage" in answer
    assert "OnnxInvalid" in str(answer)
    assert message in str(answer)
