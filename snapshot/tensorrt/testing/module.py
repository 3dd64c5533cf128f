"""The module: its classes, enumerations, and which call is to refuse."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from . import building, refitting, running
from .building import Network
from .kinds import ILogger, Kind, Native, initialised
from .running import Engine


class FakeTensorRt:
    """Stands for the module ``tensorrt``. ``fault`` names a call that refuses: ``parse_from_file``, ``Builder``,
    ``build_serialized_network``, ``deserialize_cuda_engine``, ``create_execution_context``, ``set_named_weights``,
    ``refit_cuda_engine_async``, ``execute_async_v3``, ``capture``, ``get_max_output_size``, …"""

    ILogger = ILogger
    IErrorRecorder = type("IErrorRecorder", (Native,), {})
    IStreamReaderV2 = type("IStreamReaderV2", (Native,), {})
    DataType = Kind
    BuilderFlag = enum.IntEnum("BuilderFlag", "TF32 STRIP_PLAN REFIT_IDENTICAL VERSION_COMPATIBLE", start=0)
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    TensorIOMode = enum.IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
    TensorLocation = enum.IntEnum("TensorLocation", "DEVICE HOST", start=0)
    SeekPosition = enum.IntEnum("SeekPosition", "SET CUR END", start=0)
    ExecutionContextAllocationStrategy = enum.IntEnum(
        "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0
    )

    def __init__(self, *, fault: str = "", version: str = "11.4.0.106") -> None:
        self.__version__ = version
        self.fault = fault
        self.calls: list[str] = []

    def refuses(self, call: str, logger: Any, words: str = "") -> bool:
        """Note a call; when it is the one that should refuse, say so in the log."""
        self.calls.append(call)
        if self.fault == call:
            logger.log(ILogger.ERROR, words or f"[{call}] refused")
        return self.fault == call

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - a class of the bindings
        """Make a builder."""
        if self.refuses("Builder", initialised(logger)):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return building.Builder(self, logger)

    def OnnxParser(self, network: Network, logger: Any) -> Any:  # noqa: N802
        """Make a parser."""
        return building.Parser(self, network, initialised(logger))

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        """Make a runtime."""
        return running.Runtime(self, initialised(logger))

    def Refitter(self, engine: Engine, logger: Any) -> Any:  # noqa: N802
        """Make a refitter."""
        return refitting.Refitter(self, engine, initialised(logger))

    def Weights(self, type: Any, ptr: int, count: int) -> Any:  # noqa: A002, N802
        """Describe weights in memory."""
        return SimpleNamespace(dtype=type, ptr=ptr, size=count)
