"""What a bake makes of several timings."""

from __future__ import annotations

import pytest

from glowplug.snapshot.rounds import lower_quartile


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([0.1, 9.0], 0.1), ([5.0, 1.0, 3.0, 2.0], 2.0), ([float(n) for n in range(20)], 5.0)],
)
def test_the_lower_quartile_is_one_of_the_values(values: list[float], expected: float) -> None:
    assert expected == lower_quartile(values)
