"""What a failure in a start means: tables, read by ``coldstart``, and the words that callers get.

``LOWER`` maps the trees of the layers below (``cache.errors``, ``snapshot.errors``) to the runtime's own errors, with
what a start does about each; a test walks both trees and fails on a class without a row of its own. An error that a
process met while it bound its models arrives as ``RestoreFailed`` with ``reported_type`` ``Glowplug.<class name>``, and
is looked up by that name.
"""

from __future__ import annotations

import enum

from glowplug.cache import errors as cache
from glowplug.runtime import errors
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import WorkerDied
from glowplug.snapshot import errors as snapshot

LowerError = cache.CacheError | snapshot.SnapshotError

TIMEOUT = "timeout"
MEMORY = "memory"
CANCELLED = "cancelled"
LEFT = "its stream was not ended after its client had gone"
"""Reasons for ``Worker.kill`` that become errors of the invocation; ``process.memory`` gives the second."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 10.0
"""Pause after the first failed start of a revision, doubled by each further one, up to the most. A request that
arrives in the pause waits for its end and then tries again, as Lambda inits again with each invoke: no error is ever
served from memory. A new revision starts with a clean slate."""

CRASHES_FORGIVEN = 5
"""Workers of a revision that may die in a row, without one outcome between them, before starts back off as well."""


class Remedy(enum.Enum):
    """What a start does about an error."""

    EAGER = "give the engine up, start once more with the next best one, with eager in the end"
    FAIL = "fail; who waited gets the error, and the next start backs off"


LOWER: dict[type[Exception], tuple[type[errors.StartError], Remedy]] = {
    cache.CacheError: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceError: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceInvalid: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceForbidden: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceNotFound: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceChanged: (errors.RestoreFailed, Remedy.FAIL),
    cache.SourceUnreachable: (errors.RestoreFailed, Remedy.FAIL),
    cache.PickledWeights: (errors.RestoreFailed, Remedy.FAIL),
    cache.StoreError: (errors.RestoreFailed, Remedy.FAIL),
    cache.StoreFull: (errors.RestoreFailed, Remedy.FAIL),
    cache.StoreUnwritable: (errors.RestoreFailed, Remedy.FAIL),
    cache.DigestMismatch: (errors.RestoreFailed, Remedy.FAIL),
    cache.BlobMissing: (errors.RestoreFailed, Remedy.FAIL),
    cache.WeightsError: (errors.RestoreFailed, Remedy.FAIL),
    cache.WeightsTruncated: (errors.RestoreFailed, Remedy.FAIL),
    cache.WeightsMalformed: (errors.RestoreFailed, Remedy.FAIL),
    cache.DtypeUnsupported: (errors.RestoreFailed, Remedy.FAIL),
    cache.DeviceRefused: (errors.RestoreFailed, Remedy.FAIL),  # eager needs as much of it
    cache.FetchDied: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.SnapshotError: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.ModelError: (errors.RestoreFailed, Remedy.FAIL),  # eager would fail as well
    snapshot.ModelUnknown: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.BuildFailed: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.ExampleInvalid: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.WeightsMissing: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.WeightsMismatch: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.TensorUnbound: (errors.RestoreFailed, Remedy.EAGER),  # maybe only a constant of the engine
    snapshot.OnnxInvalid: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.BakeError: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.ExportFailed: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.CompileFailed: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.EngineError: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.EngineUnavailable: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.FingerprintMismatch: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.SnapshotCorrupt: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.SnapshotMissing: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.EngineFailed: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.InputUnsupported: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.SnapshotFileError: (errors.RestoreFailed, Remedy.EAGER),  # these three meet an import, never a start
    snapshot.SnapshotFileInvalid: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.SignatureRefused: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.DeviceError: (errors.RestoreFailed, Remedy.FAIL),  # eager needs the device as well
    snapshot.DeviceUnavailable: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.DeviceListingInvalid: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.ContextRefused: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.MpsUnavailable: (errors.RestoreFailed, Remedy.FAIL),
    snapshot.SnapshotStoreFailed: (errors.RestoreFailed, Remedy.EAGER),
    snapshot.CheckFailed: (errors.CheckFailed, Remedy.EAGER),
}

PROCESS: dict[type[Exception], Remedy] = {
    errors.RestoreFailed: Remedy.EAGER,
    errors.CheckFailed: Remedy.EAGER,
    errors.WorkerExited: Remedy.EAGER,  # an engine is code: loading it may well end the process
    errors.LoadFailed: Remedy.FAIL,
    errors.DeviceFull: Remedy.FAIL,
    errors.StartTimeout: Remedy.FAIL,
}
"""What processes report; for errors that are met while an engine is in them."""

_BY_REPORT = {f"Glowplug.{kind.__name__}": row for kind, row in LOWER.items()}


def remedy(error: BaseException) -> Remedy:
    """Return what a start that uses an engine does about ``error``; the most specific row wins."""
    reported = getattr(error, "reported_type", "")
    if reported in _BY_REPORT:
        return _BY_REPORT[reported][1]
    for base in type(error).__mro__:
        if base in LOWER:
            return LOWER[base][1]
        if base in PROCESS:
            return PROCESS[base]
    return Remedy.FAIL


def is_engines(error: BaseException) -> bool:
    """Tell whether a process that failed to start blames its engine by name; another engine may do then."""
    return getattr(error, "reported_type", "") in _BY_REPORT and remedy(error) is Remedy.EAGER


def to_runtime(error: LowerError) -> errors.StartError:
    """Return the runtime's error for one of a lower layer; a class without a row counts as its nearest base."""
    kind = next(LOWER[base][0] for base in type(error).__mro__ if base in LOWER)
    return kind(f"{type(error).__name__}: {error}")


def backoff_s(failures: int) -> float:
    """Return the pause before the next start after ``failures`` failed ones in a row, in seconds."""
    return min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 20), BACKOFF_MOST_S) if failures > 0 else 0.0


def died_fault(request_id: str, death: WorkerDied) -> errors.InvocationError:
    """Return Lambda's error for a process that ended before it answered (spec 1.6)."""
    ended = death.exit
    if death.killed_for == MEMORY or ended.code == wire.ExitCode.OUT_OF_MEMORY:
        return errors.OutOfMemory(f"RequestId: {request_id} Error: Runtime exited with error: signal: killed")
    if ended.code == 0 or ended.status is None:
        return errors.WorkerExited(f"RequestId: {request_id} Error: Runtime exited without providing a reason")
    return errors.WorkerExited(f"RequestId: {request_id} Error: Runtime exited with error: {ended.describe()}")


def start_fault(request_id: str, error: errors.GlowplugError) -> errors.GlowplugError:
    """Return what a request gets that waited for a start that failed with ``error``."""
    if isinstance(error, WorkerDied):
        return died_fault(request_id, error)
    if isinstance(error, errors.StartTimeout):
        return errors.StartTimeout(f"RequestId: {request_id} Error: {error}")
    return error
