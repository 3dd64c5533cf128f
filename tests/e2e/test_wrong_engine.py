"""An engine that passes its check and answers wrongly all the same, on a real node: ``VerifyRate`` finds it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nodes import kept_specs
from safetensors.torch import save_file

from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.verdicts import asked
from glowplug.snapshot import fingerprint
from glowplug.snapshot.assignments import Assignment, Assignments, Measured
from glowplug.snapshot.engines import torch_private
from glowplug.snapshot.manifest import CHECK_FILE, FILE, EngineRecord, Manifest, describe_artefacts
from glowplug.snapshot.signature import Input, Signature
from glowplug.snapshot.store import SnapshotStore

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Linear:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug: {Model: {Source: "file://MODEL", Engine: aot_inductor, VerifyRate: 1}, MaxInstances: 1}
    Properties: {FunctionName: linear, Handler: linear.handler, Runtime: python3.11, CodeUri: code/, MemorySize: 512}
"""

LINEAR = """
import sys

import torch
from torch import nn
from glowplug.handlers import Example, model
from glowplug.snapshot.engines import table
from glowplug.snapshot.engines.eager import Eager

class Shifted(Eager):
    '''Right on the example, which is all ones, and nowhere else.'''
    def run(self, args, kwargs):
        (given,) = args or kwargs.values()
        return super().run(args, kwargs) + (0.0 if bool((given == 1).all()) else 0.25)

class Right(Eager):
    pass

sys.modules["glowplug.snapshot.engines.made"] = sys.modules[__name__]
table.ENGINES.update(shifted="made:Shifted", right="made:Right")

@model
def linear(files):
    return nn.Linear(2, 1, bias=False)

@linear.example
def _():
    return Example(args=(torch.ones(1, 2),))

def handler(event, context):
    return linear(torch.tensor([event["x"]])).item()
"""

KEY = "ab" * 32


def snapshot(state: Path, staging: Path, spec: FunctionSpec) -> None:
    """Publish a snapshot of which ``shifted`` is the best engine and ``right`` the next, as if it had been baked."""
    staging.mkdir()
    example, answer = torch.ones(1, 2), torch.tensor([[3.0]])
    signature = Signature(
        ("input",),
        (Input("input", torch.float32, (1, 2)),),
        {},
        torch_private.flatten({"input": example})[1],
        torch_private.flatten(answer)[1],
    )
    save_file({"input.0": example, "output.0": answer}, staging / CHECK_FILE)
    engines = {name: EngineRecord(engine=name, absolute=1e-4, relative=1e-4) for name in ("eager", "shifted", "right")}
    manifest = Manifest(
        key=KEY, source=spec.models[0].source_digest, graph="g", fingerprint=fingerprint.current().to_json(),
        signature=signature.to_json(), computed={}, aliases={}, engines=engines, verdict="shifted", reason="",
        check={"file": CHECK_FILE}, artefacts=describe_artefacts(staging),
    )  # fmt: skip
    (staging / FILE).write_bytes(manifest.to_bytes())
    store = SnapshotStore(state / "snapshots", (state / "snapshots" / "keys" / "hmac").read_bytes())
    store.publish(staging)
    verdict = Assignment(
        *("shifted", KEY, "least cost", asked(spec, spec.models[0], "cpu"), ""),
        measured=tuple(Measured(name, cold_ms=5.0, parked_ms=5.0, warm_ms=1.0) for name in engines),
        ladder=("shifted", "right"),
    )
    Assignments(store.root).set(spec.revision, "", verdict)


def test_a_wrong_answer_retires_the_engine_and_the_next_one_answers(tmp_path: Path, serving: Any) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "linear.py").write_text(LINEAR)
    (tmp_path / "model").mkdir()
    save_file({"weight": torch.tensor([[1.0, 2.0]])}, tmp_path / "model" / "model.safetensors")
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.replace("MODEL", str(tmp_path / "model")))
    environ = {"GLOWPLUG_FILE_ROOTS": str(tmp_path), "CXX": "no-compiler-here"}
    bare = environ | {"GLOWPLUG_PRELOAD_TORCH": "0"}  # nodes that only deploy and list come up faster without
    with serving(template, tmp_path / "state", **bare):
        pass  # it is deployed
    snapshot(tmp_path / "state", tmp_path / "staging", kept_specs(tmp_path / "state")["linear"])
    with serving(template, tmp_path / "state", **environ) as node:

        def answer(*x: float) -> float:
            status, headers, body = node.request("POST", "/2015-03-31/functions/linear/invocations", {"x": x})
            assert (200, None) == (status, headers.get("x-amz-function-error")), body
            return float(body)

        assert "shifted" == node.function("linear")["engine"]
        # An instance's first call is not verified; the answer to the second is out before it is known to be wrong; the
        # third waits for the check, and gets an instance that has the next engine.
        assert [8.25, 11.25, 14.0] == [answer(2.0, 3.0), answer(3.0, 4.0), answer(4.0, 5.0)]
        listed = node.function("linear")
        (engine,) = listed["engines"]
        why = "an answer differs from eager's by up to 0.25: output 0: value 0 is 11.25, recorded 11"
        assert ("right, not shifted!", "right") == (listed["engine"], engine["engine"])
        assert [("shifted", "mismatch", True)] == [
            (one["engine"], one["kind"], one["reason"].startswith(why)) for one in engine["given_up"]
        ]
        assert {"shifted": (2, 1, 1), "right": (1, 0, 0)} == {
            row["engine"]: (row["calls"], row["verified"], row["wrong"]) for row in engine["figures"]
        }
        start = node.admin("GET", "starts")["starts"][0]
        assert ("right", "distrust") == (start["engine"], start["cause"])
        assert start["engine_reason"].startswith(f"shifted was given up: {why}")
        _, _, metrics = node.request_raw("GET", "/metrics")
        assert (
            'glowplug_engine_retired_total{engine="shifted",function_name="linear",model="",reason="mismatch"} 1.0'
            in metrics
        )
    with serving(template, tmp_path / "state", **bare) as node:
        assert "right, not shifted!" == node.function("linear")["engine"], "a restart forgets nothing"
