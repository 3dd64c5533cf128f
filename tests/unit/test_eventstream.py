"""The frames of an AWS event stream, read by botocore's parser."""

from __future__ import annotations

from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.http.eventstream import event


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.binary(max_size=300)), max_size=5), st.integers(1, 50))
def test_botocore_reads_what_was_written(events: list[tuple[str, bytes]], size: int) -> None:
    """Checksums, lengths and headers, however the bytes arrive."""
    data = b"".join(event(kind, "application/json", payload) for kind, payload in events)
    buffer, found = EventStreamBuffer(), []
    for start in range(0, len(data), size):
        buffer.add_data(data[start : start + size])
        found += [(message.headers, message.payload) for message in buffer]
    common = {":content-type": "application/json", ":message-type": "event"}
    assert found == [({":event-type": kind, **common}, payload) for kind, payload in events]
