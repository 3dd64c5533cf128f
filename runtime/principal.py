"""Who calls: the identity behind a signature, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Right = Literal["control", "invoke", "queue"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose signature was verified. ``rights`` is what the credentials were given, within their own account.

    ``arn`` and ``user_id`` are as AWS shows them to a function, which may log them; ``organization_id`` is empty where
    none was configured. The right ``control`` includes the others: who may deploy a function may call it.
    """

    access_key_id: str
    account_id: str
    arn: str
    user_id: str
    name: str
    rights: frozenset[Right] = frozenset()
    organization_id: str = ""

    def may(self, right: Right) -> bool:
        """Return whether its credentials were given ``right``."""
        return right in self.rights or "control" in self.rights
