"""Every error of the cache, as one tree.

    CacheError
    ├── SourceError             the model source cannot be used as it is written or as it is; the deployer can mend it
    │   ├── SourceInvalid       not a URL this cache reads, or it names files in a way that is not safe
    │   ├── SourceForbidden     outside the file roots, or the far side refused
    │   ├── SourceNotFound      nothing there
    │   ├── SourceChanged       a file is no longer what was pinned (the message has both digests) or listed
    │   ├── SourceUnreachable   network or server fault; the same fetch may succeed later
    │   └── PickledWeights      weights in a format that runs code when it is read
    ├── StoreError              the local store
    │   ├── StoreFull           no space left, quota or file size limit
    │   ├── StoreUnwritable     read-only or not ours
    │   ├── DigestMismatch      the bytes are not those of the digest they were announced with
    │   └── BlobMissing         no such blob, or not all of it
    ├── WeightsError            a weights file that cannot be mapped
    │   ├── WeightsTruncated    shorter than its own header says
    │   ├── WeightsMalformed    not safetensors, or a header that breaks the format's rules
    │   ├── DtypeUnsupported    a known dtype that torch has no counterpart for
    │   └── DeviceRefused       an accelerator had no memory left or failed; the message has the driver's words
    └── FetchDied               the fetching process ended without saying why; the message has its status

Every class takes one message and nothing else, so that the fetching process can name its error on a line of JSON and
the node can raise the same class again (``named``).
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of all errors that the cache raises on purpose. ``retryable``: the same call may succeed later."""

    retryable = False


class SourceError(CacheError):
    """A model source cannot be used."""


class SourceInvalid(SourceError):
    """The URL is not one the cache reads, or the source names a file in a way that is not safe."""


class SourceForbidden(SourceError):
    """A local path outside the file roots, or the far side refused access."""


class SourceNotFound(SourceError):
    """There is nothing at the URL."""


class SourceChanged(SourceError):
    """A file is not what a revision has pinned, and the message has both digests; or it changed while it was read."""


class SourceUnreachable(SourceError):
    """The source could not be read for now. ``retry_after_s``: how long the far side asks to be left alone, if it says.

    It is set by whoever read the answer and stays in this process: ``named`` carries the message alone.
    """

    retryable = True
    retry_after_s: float | None = None


class PickledWeights(SourceError):
    """The weights are pickled; the message has the reason and the command that converts them."""


class StoreError(CacheError):
    """The local store cannot do what was asked."""


class StoreFull(StoreError):
    """No space left on the store's disk (or a quota or file size limit); nothing was published."""

    retryable = True


class StoreUnwritable(StoreError):
    """The store's directory is read-only or belongs to somebody else."""


class DigestMismatch(StoreError):
    """Bytes that are not those of the digest or size they were announced with; nothing was published."""


class BlobMissing(StoreError):
    """The store has no complete blob of that digest."""


class WeightsError(CacheError):
    """A weights file that cannot be mapped."""


class WeightsTruncated(WeightsError):
    """The file is shorter than its header says."""


class WeightsMalformed(WeightsError):
    """The file is not safetensors or breaks one of its rules."""


class DtypeUnsupported(WeightsError):
    """A dtype of the format that torch cannot hold."""


class DeviceRefused(WeightsError):
    """An accelerator (or the page-locked memory of its host) had no room, or failed while weights were copied to it."""


class FetchDied(CacheError):
    """The fetching process was killed or crashed."""

    retryable = True


_BY_NAME: dict[str, type[CacheError]] = {
    cls.__name__: cls
    for cls in (
        *(CacheError, SourceError, SourceInvalid, SourceForbidden, SourceNotFound, SourceChanged, SourceUnreachable),
        *(PickledWeights, StoreError, StoreFull, StoreUnwritable, DigestMismatch, BlobMissing),
        *(WeightsError, WeightsTruncated, WeightsMalformed, DtypeUnsupported, DeviceRefused, FetchDied),
    )
}


def named(name: str, message: str) -> CacheError:
    """Return the error that another process reported by its class name."""
    cls = _BY_NAME.get(name)
    return cls(message) if cls is not None else CacheError(f"{name}: {message}")
