"""Random generators across a fork: fresh in every instance, unless the author seeded them.

Two instances that draw the same "random" numbers are a fault; an author who wrote ``random.seed(42)`` at module level
and gets other numbers is one too. So each global generator is looked at before and after the handler's import: one that
was merely drawn from is renewed for every fork, one that was seeded keeps its state.

| generator | seeded by the author when |
|---|---|
| ``random`` | its state is not the earlier one, nor one that the earlier one turns into by drawing |
| ``numpy.random`` | its bit generator is another, or has lost the seed sequence it was made with (``seed`` does that) |
| ``torch`` | ``initial_seed`` is another than before the import |

``random`` needs care of its own: Python renews it in every fork child by itself, so a kept state is put back.

Nobody waits for a renewal: the *parent* renews its generators behind each fork, so that the next child inherits a state
that no process had before. Doing it in the child would cost each cold request about 200 page faults, most of a
millisecond.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

FOLLOWED_TURNS = 200
"""How far drawing is followed: 200 turns of 624 draws; further on, ``random`` counts as seeded. Costs 3 ms at most."""

_SEED_BITS = 32
"""A torch that the author's import brought in has no earlier seed to compare with. It seeds itself with 64 random bits;
what people type is shorter than 32."""


class Generators:
    """The global generators of this process; make one before the handler's import."""

    def __init__(self) -> None:
        self._random_before = random.getstate()
        self._numpy_before = _numpy().get_bit_generator() if _numpy() else None
        self._torch_before = _torch().initial_seed() if _torch() else None
        self._random_kept: tuple[Any, ...] | None = None
        self._numpy_kept = False
        self._torch_kept = False

    def __repr__(self) -> str:
        return f"Generators(kept={', '.join(self.kept()) or 'none'})"

    def kept(self) -> list[str]:
        """Return the names of the generators that the author seeded."""
        flags = {"random": self._random_kept is not None, "numpy": self._numpy_kept, "torch": self._torch_kept}
        return [name for name, flag in flags.items() if flag]

    def settle(self) -> None:
        """Decide, after the import, which generators the author seeded."""
        state = random.getstate()
        self._random_kept = state if _was_seeded(self._random_before, state) else None
        numpy, torch = _numpy(), _torch()
        if numpy is not None:
            bits = numpy.get_bit_generator()
            self._numpy_kept = bits.seed_seq is None or (self._numpy_before or bits) is not bits
        if torch is not None:
            seed = torch.initial_seed()
            self._torch_kept = seed < 1 << _SEED_BITS if self._torch_before is None else seed != self._torch_before

    def renew(self) -> None:
        """Give numpy's and torch's generators a new state, where the author did not seed them; in the parent."""
        numpy, torch = _numpy(), _torch()
        if numpy is not None and not self._numpy_kept:
            numpy.set_bit_generator(numpy.MT19937())  # not ``seed``, which would look like the author's
        if torch is not None and not self._torch_kept:
            torch.manual_seed(int.from_bytes(os.urandom(8), "little"))

    def restore(self) -> None:
        """Put back the state of ``random`` if the author seeded it; in the child."""
        if self._random_kept is not None:
            random.setstate(self._random_kept)


def _was_seeded(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    words = now[1][:-1]  # the last element is the position in the words, which drawing moves
    if words == before[1][:-1]:
        return False
    clone = random.Random()  # noqa: S311  (follows another generator)
    clone.setstate(before)
    for _ in range(FOLLOWED_TURNS):
        clone.getrandbits(32 * len(words))
        if clone.getstate()[1][:-1] == words:
            return False
    return True


def _numpy() -> Any:
    return sys.modules.get("numpy.random")


def _torch() -> Any:
    """Return torch's CPU generator: ``torch.manual_seed`` would also ask for CUDA's, which must not be touched."""
    torch = sys.modules.get("torch")
    return torch.default_generator if torch is not None and hasattr(torch, "default_generator") else None
