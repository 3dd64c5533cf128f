"""Comparing outputs: what passes, and what is said of what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import tensor

from glowplug.snapshot.errors import CheckFailed
from glowplug.snapshot.tolerance import Tolerance
from glowplug.snapshot.verify import compare, finite, tolerance_for

CLOSE = Tolerance(1e-4, 1e-4)


def test_equal_outputs_differ_by_nothing() -> None:
    assert 0.0 == compare({"a": tensor([1.0])}, {"a": tensor([1.0])}, CLOSE)


def test_the_worst_difference_is_returned() -> None:
    outputs, expected = (tensor([1.0, 2.0]), tensor([[3.0]])), (tensor([1.0, 2.00005]), tensor([[3.00002]]))
    assert pytest.approx(5e-5, rel=0.02) == compare(outputs, expected, CLOSE)


@pytest.mark.parametrize(
    ("outputs", "expected", "message"),
    [
        (tensor([1.0, 2.0]), tensor([1.0, 2.1]), r"output 0: value 1 is 2, recorded 2.1"),
        (tensor([1.0]), tensor([[1.0]]), r"torch.float32 \(1,\), recorded torch.float32 \(1, 1\)"),
        (tensor([1.0]), tensor([1.0]).double(), "recorded torch.float64"),
        (tensor([1, 2]), tensor([1, 3]), "1 of 2 values are not the recorded ones"),
        ((tensor([1.0]),), tensor([1.0]), "nested in another way"),
        (tensor([float("nan")]), tensor([1.0]), r"1 of 1 values are not finite \(NaN\)"),
        ([tensor([1.0]), 3], [tensor([1.0]), 4], "output 1: 3, recorded 4"),
    ],
)
def test_a_difference_is_named(outputs: Any, expected: Any, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        compare(outputs, expected, CLOSE)


def test_a_large_value_may_be_off_by_its_share() -> None:
    assert 0.5 == compare(tensor([10000.5]), tensor([10000.0]), CLOSE)


def test_empty_outputs_are_equal() -> None:
    assert 0.0 == compare(torch.empty(0, 3), torch.empty(0, 3), CLOSE)


@pytest.mark.parametrize("outputs", [tensor([1.0]), {"a": tensor([1]), "b": None}, (tensor([True]), tensor([0.0]))])
def test_finite_passes(outputs: Any) -> None:
    finite(outputs)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((tensor([1.0]), tensor([float("nan"), 1.0])), r"output 1: 1 of 2 values are not finite \(NaN\)"),
        (tensor([float("inf")]), "infinite"),
        (None, "no tensor but NoneType"),
    ],
)
def test_finite_refuses(outputs: Any, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        finite(outputs)


def test_the_coarsest_type_decides_the_tolerance() -> None:
    assert tolerance_for([torch.bfloat16]) == tolerance_for([torch.float32, torch.bfloat16, torch.int64])
    assert tolerance_for([torch.float32]) == tolerance_for([])
    assert tolerance_for([torch.float16]).absolute > tolerance_for([torch.float32]).absolute
