"""Read-ahead as a node does it: in another process than the one that maps the weights.

``python -m bench.cache_readahead``: one JSON object a line, ``{"path"}``; answers when the file is in the page cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from glowplug.cache.disk import read_profile
from glowplug.cache.prefetch import available_memory_bytes, file_order, read_ahead


def main() -> None:
    """Read files ahead until standard input ends, by the profile that is kept beside each of them."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        path = Path(json.loads(line)["path"])
        done = read_ahead(file_order([path]), read_profile(path.parent), limit_bytes=available_memory_bytes())
        print(json.dumps({"read_bytes": done.read_bytes, "resident_bytes": done.resident_bytes}), flush=True)


if __name__ == "__main__":
    main()
