"""A TensorRT and a CUDA stream in host memory, for tests of everything around them.

The plan that this TensorRT builds holds the ONNX model, and an execution context computes it with ONNX's reference
evaluator: so outputs are right or wrong, weights that were not refitted are missed, and memory is read and written at
the addresses that were set. It refuses what the real one is documented to refuse, in the same way: ``None``, false or
-1, and a line in the log. ``FakeTensorRt(fault=…)`` makes one call refuse what it would have done.

The stream is as asynchronous as it can be: nothing happens before ``synchronize``. Names and parameters are held to
the real bindings by tests/contract/test_tensorrt_contract.py.
"""

from __future__ import annotations

from .module import FakeTensorRt
from .stream import HostDevice, HostStream

__all__ = ["FakeTensorRt", "HostDevice", "HostStream"]
