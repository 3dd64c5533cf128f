from __future__ import annotations

import re
import uuid

from glowplug.runtime.identifiers import new_request_id, new_trace_id


def test_request_ids_are_random_uuids_of_version_4_across_many_draws() -> None:
    ids = [new_request_id() for _ in range(2000)]  # eight draws of entropy
    assert 2000 == len(set(ids))
    assert all(uuid.UUID(one).version == 4 and str(uuid.UUID(one)) == one for one in ids)


def test_trace_ids_carry_the_time_and_never_repeat() -> None:
    ids = [new_trace_id(0x65000000 + 0.5) for _ in range(500)]
    assert 500 == len(set(ids))
    assert all(re.fullmatch(r"Root=1-65000000-[0-9a-f]{24}", one) for one in ids)
