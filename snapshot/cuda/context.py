"""A CUDA context ahead of its use: what a process of the pool makes before it knows its function.

The driver's initialisation, the context and torch's own bookkeeping take some hundred milliseconds, the same for every
function. The first allocation and the first stream belong to it: torch sets up its allocator with the one and the
driver its work queues with the other.
"""

from __future__ import annotations

from ..errors import ContextRefused

_CAUSES = (  # from the driver's and torch's wording, lower case; the first that matches
    ("out of memory", "the device has no memory left for a context"),
    ("busy or unavailable", "the device is busy: another process has it in exclusive mode"),
    ("mps", "the MPS server takes no client"),
    ("no nvidia driver", "there is no NVIDIA driver"),
    ("not compiled with cuda", "this torch was built without CUDA"),
    ("driver version is insufficient", "the NVIDIA driver is too old for this torch"),
    ("no cuda-capable device", "there is no device"),
)


def make(device: str) -> None:
    """Make the context of ``device`` (``cuda:0``) in this process. Raises ``ContextRefused`` with the cause."""
    import torch  # late: a worker without a context never gets here

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.inference_mode():
            torch.empty(256, dtype=torch.uint8, device=device).zero_()
            torch.cuda.Stream(device=device).synchronize()  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)
    # AcceleratorError and OutOfMemoryError are RuntimeErrors; "not compiled with CUDA" is an assertion
    except (RuntimeError, AssertionError) as error:
        raise ContextRefused(f"{device}: {cause(str(error))}") from error


def cause(said: str) -> str:
    """Return what the driver's or torch's message means, with its own first line."""
    first = said.strip().partition("\n")[0][:300]
    meaning = next((words for sign, words in _CAUSES if sign in said.lower()), "")
    return f"{meaning} ({first})" if meaning else first or "it says nothing"
