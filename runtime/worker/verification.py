"""The served calls of one model that eager makes again: drawn, copied at the call, compared when the node says so.

Nothing here may cost a caller an answer: whatever goes wrong ends the verification of this model in this process, with
a line in the log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import kinds

if TYPE_CHECKING:
    from glowplug.snapshot.recheck import Sample, Verdict

    from .kinds import Definition, Restored


class Verification:
    """``share`` is the part of the warm calls that is to be verified, 0 once none can be; ``sample`` the call that
    waits for it."""

    __slots__ = ("sample", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self.sample: Sample | None = None

    def __repr__(self) -> str:
        return f"Verification(share={self.share}, waits={self.sample is not None})"

    def keep(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """Copy a call that was answered."""
        from glowplug.snapshot.recheck import sample  # late: most functions verify nothing

        try:
            self.sample = sample(args, kwargs, outputs, kinds.judge(definition))
        except Exception as error:  # whatever cannot be copied: the call was answered, and must stay so
            self._no_more(definition, f"a call cannot be copied: {type(error).__name__}: {error}")

    def verify(self, restored: Restored, plain: Callable[[], Restored]) -> Verdict:
        """Run the call that waits again with ``plain``, the eager engine, and compare. Never raises for what the model
        does.

        Where nothing can be compared, no further call of this process is tried.
        """
        from glowplug.snapshot.recheck import Verdict, recheck  # late, as in ``keep``

        taken, self.sample = self.sample, None
        assert taken is not None  # noqa: S101 - only asked where a call waits
        try:
            engine, bounds = plain().engine, kinds.tolerance(restored)
        except Exception as error:  # the author's builder; the call was answered, only its check is lost
            found = Verdict("unknown", problem=f"no eager engine: {type(error).__name__}: {error}")
        else:
            found = recheck(taken, engine.run, bounds, kinds.judge(restored.definition))
        if found.verdict == "unknown":
            self._no_more(restored.definition, found.problem)
        return found

    def _no_more(self, definition: Definition, why: str) -> None:
        self.share = 0.0
        print(f"glowplug: model {definition.name}: calls are not verified: {why}", file=sys.stderr)
