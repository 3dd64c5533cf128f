"""What ``glowplug bake --report`` prints of an engine: measured, live, given up, refused. Pure but for stdout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from glowplug.deploy.cli.bake import show_report
from glowplug.deploy.cli.output import WIDTH
from glowplug.runtime.control import EngineListing, GivenUpListing
from glowplug.runtime.routing.enginefigures import EngineRow
from glowplug.snapshot.assignments import Measured


def measured(label: str, refused: str = "") -> Measured:
    return Measured(
        label,
        parked_ms=1234.5,
        cold_ms=987.6,
        warm_ms=123.4,
        private_bytes=123_400_000,
        shared_bytes=91_000_000,
        worst_error=1e-5,
        refused=refused,
    )


def listing(**more: Any) -> dict[str, Any]:
    rows = (measured("onnxruntime-unpacked"), measured("aot_inductor"), measured("eager", "it is NaN\nat 0"))
    return asdict(EngineListing("text", "onnxruntime-unpacked", "ready", "", 0.0, "least", rows, **more))


def printed(capsys: pytest.CaptureFixture[str], engine: dict[str, Any]) -> list[str]:
    show_report("embed", [engine])
    return capsys.readouterr().out.splitlines()


def test_before_a_call_there_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, listing())
    assert "embed text is served by onnxruntime-unpacked (least)" == lines[0]
    starts = ["embed", "ENGINE", "aot_inductor", "onnxruntime-unpacked", "eager", "eager:"]
    assert starts == [line.split()[0] for line in lines]
    assert "eager: it is NaN" == lines[-1]


def test_live_figures_and_engines_that_were_given_up_are_told_within_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    live = (
        EngineRow("text", "aot_inductor", 3, 1, None, 2.0, 1, None, 0),
        EngineRow("text", "onnxruntime-unpacked", 123_456_789, 0, 131.0, 11.5, 40, 1030.0, 9),
    )
    lost = (GivenUpListing("aot_inductor", "mismatch", "an answer differs\nby 3"),)
    lines = printed(capsys, listing(figures=live, given_up=lost))
    assert ["LIVE", "PARKED", "COLD", "WARM", "CALLS", "FAILED"] == lines[5].split()
    assert ["aot_inductor!", "2.0", "ms", "-", "-", "3", "1"] == lines[6].split()
    figures = ["11.5", "ms", "1.0", "s", "131", "ms", "123456789", "0"]
    assert ["onnxruntime-unpacked", "*", *figures] == lines[7].split()
    assert "aot_inductor! was given up (mismatch): an answer differs" == lines[8]
    assert "aot_inductor!" == lines[2].split()[0]
    assert WIDTH >= max(len(line) for line in lines)
