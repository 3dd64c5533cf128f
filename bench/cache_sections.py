"""The cache's benches by name, and which of them there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import cache_comparison, cache_fetching, cache_index, cache_mapping, cache_reading
from .cache_files import Workspace
from .figures import Figure

CACHE_SECTIONS: Mapping[str, Callable[[Workspace], list[Figure]]] = {
    "map": cache_mapping.figures,
    "read": cache_reading.figures,
    "loaders": cache_comparison.figures,
    "s3": cache_fetching.s3,
    "flight": cache_fetching.flight,
    "blobs": cache_index.figures,
}
