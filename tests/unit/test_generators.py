"""Which random generators an author has seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from glowplug.runtime.worker.generators import FOLLOWED_TURNS, Generators

numpy_random: Any = np.random  # its stubs leave out what numpy 2 documents


@pytest.fixture(autouse=True)
def own_generators() -> Iterator[None]:
    """Give each test unseeded generators, and the suite its own back."""
    state, bits, seed = random.getstate(), numpy_random.get_bit_generator(), torch.get_rng_state()
    random.seed()
    numpy_random.set_bit_generator(np.random.MT19937())
    torch.default_generator.seed()
    yield
    random.setstate(state)
    numpy_random.set_bit_generator(bits)
    torch.set_rng_state(seed)


def kept_after(action: Callable[[], object]) -> list[str]:
    generators = Generators()
    action()
    generators.settle()
    return generators.kept()


def numpy_words() -> list[int]:
    return list(numpy_random.get_state()[1])


def draw(numbers: int) -> int:
    for _ in range(numbers):
        random.random()
    np.random.rand(numbers)
    torch.rand(numbers)
    return numbers


@pytest.mark.parametrize("numbers", [0, 1, 5000])
def test_drawing_is_not_seeding(numbers: Any) -> None:
    assert [] == kept_after(lambda: draw(numbers))


def test_drawing_very_much_counts_as_seeding_of_random() -> None:
    assert ["random"] == kept_after(lambda: [random.random() for _ in range(312 * (FOLLOWED_TURNS + 1))])


@pytest.mark.parametrize(
    ("seed", "kept"),
    [
        (lambda: random.seed(42), ["random"]),
        (lambda: np.random.seed(42), ["numpy"]),
        (lambda: numpy_random.set_bit_generator(np.random.MT19937(42)), ["numpy"]),
        (lambda: torch.manual_seed(42), ["torch"]),
    ],
)
def test_seeding_is_noticed_and_drawing_after_it_changes_nothing(seed: Any, kept: Any) -> None:
    assert kept == kept_after(lambda: [seed(), draw(10)])


def test_renew_gives_new_states_that_do_not_look_seeded() -> None:
    generators = Generators()
    generators.settle()
    before = (numpy_words(), torch.get_rng_state().tolist())

    generators.renew()

    assert before[0] != numpy_words()
    assert before[1] != torch.get_rng_state().tolist()
    assert [] == kept_after(lambda: None)


def test_a_seeded_state_survives_renewal_and_restoring() -> None:
    generators = Generators()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    generators.settle()
    expected = (random.getstate(), numpy_words(), torch.get_rng_state().tolist())
    random.seed()  # what Python does in every fork child

    generators.renew()
    generators.restore()

    assert expected == (random.getstate(), numpy_words(), torch.get_rng_state().tolist())
