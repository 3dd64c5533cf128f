"""What an author says about a model: examples that fit, and what is said of those that do not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.errors import ExampleInvalid

IDS = torch.ones(2, 3, dtype=torch.long)


def forward(ids: Any, mask: Any = None, *, scale: float = 1.0) -> None:
    """Stand for a module's forward."""


def test_inputs_are_named_in_the_order_of_forward() -> None:
    example = Example(args=(IDS,), kwargs={"scale": 2.0, "mask": IDS})
    assert ["ids", "mask", "scale"] == list(example.named(forward))


def test_defaults_that_the_example_leaves_out_stay_out() -> None:
    assert ["ids"] == list(Example(args=(IDS,)).named(forward))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(args=(IDS, IDS, IDS)), "does not fit forward"),
        (Example(kwargs={"mask": IDS}), "missing a required argument: 'ids'"),
        (Example(args=(IDS,), dynamic={"ids_": ("batch", "tokens")}), "'ids_'; the example's inputs are ids"),
        (Example(args=(IDS,), dynamic={"ids": ("batch",)}), "1 dimensions for 'ids', which has 2"),
    ],
)
def test_an_example_that_does_not_fit_says_where(example: Example, message: str) -> None:
    with pytest.raises(ExampleInvalid, match=message):
        example.named(forward)


def test_a_forward_that_takes_anything_is_refused() -> None:
    with pytest.raises(ExampleInvalid, match="any number of inputs"):
        Example(args=(IDS,)).named(lambda *inputs: None)


def test_a_model_without_an_example_says_how_to_add_one() -> None:
    with pytest.raises(ExampleInvalid, match=r"add one with @tiny\.example"):
        ModelDefinition("tiny", lambda files: torch.nn.Identity()).make_example()


def test_an_example_that_raises_names_the_model_and_the_error() -> None:
    def broken() -> Example:
        raise KeyError("config")

    with pytest.raises(ExampleInvalid, match="model tiny: the example raised KeyError: 'config'"):
        ModelDefinition("tiny", lambda files: torch.nn.Identity(), example=broken).make_example()


def test_an_example_that_is_something_else_is_refused() -> None:
    definition = ModelDefinition("tiny", lambda files: torch.nn.Identity(), example=lambda: (IDS,))  # type: ignore[arg-type, return-value]
    with pytest.raises(ExampleInvalid, match="returned tuple, not an Example"):
        definition.make_example()


def test_authors_can_import_handlers_without_torch() -> None:
    code = "import sys, glowplug.handlers, glowplug.runtime.worker.models; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
