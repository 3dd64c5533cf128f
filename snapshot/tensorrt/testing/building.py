"""Building: network, parser, configuration, and the plan as bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx

from .kinds import ILogger, Kind, initialised

if TYPE_CHECKING:
    from .module import FakeTensorRt

MAGIC = b"ftrt"


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
        self.shapes[input] = [list(min), list(opt), list(max)]


class Network:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.model.graph.input[index].name, is_shape_tensor=False)


class Config:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.flags = {trt.BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self._cache = b""

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        if self._trt.refuses("add_optimization_profile", self._logger):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return serialized_timing_cache

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        if cache and not cache.startswith(b"timing"):
            self._logger.log(ILogger.ERROR, "timing cache of another device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self._cache + b"timing")


class Builder:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.error_recorder: Any = None

    def create_network(self, flags: int = 0) -> Network:
        if not flags & 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED):
            raise AssertionError("a weakly typed network, which 11.x does not have")
        return Network()

    def create_builder_config(self) -> Config:
        return Config(self._trt, self._logger)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if self._trt.refuses("build_serialized_network", self._logger, "Error Code 10: no implementation for node"):
            initialised(self.error_recorder).report_error(
                SimpleNamespace(name="INTERNAL_ERROR"), "Could not find any tactic"
            )
            return None
        flags = self._trt.BuilderFlag
        stripped = []
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        if flags.STRIP_PLAN in config.flags:
            if self._trt.refuses("strip", self._logger):
                return None
            for item in model.graph.initializer:
                if item.data_type in (Kind.FLOAT, Kind.HALF, Kind.BF16) and len(item.dims) > 0:
                    stripped.append(item.name)
                    item.ClearField("raw_data")
        head = {
            "profiles": [profile.shapes for profile in config.profiles],
            "stripped": stripped,
            "host_code": flags.VERSION_COMPATIBLE in config.flags,
        }
        text = json.dumps(head).encode()
        return MAGIC + len(text).to_bytes(8, "little") + text + bytes(model.SerializeToString())


class Parser:
    def __init__(self, trt: FakeTensorRt, network: Network, logger: Any) -> None:
        self._trt, self._network, self._logger = trt, network, logger
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        if self._trt.refuses("parse_from_file", self._logger):
            self.num_errors = 1
            return False
        self._network.model.CopyFrom(onnx.load(model))
        return True

    def get_error(self, index: int) -> Any:
        said = {"desc": "no importer for it", "node": 7, "node_name": "node_7", "node_operator": "NonZero"}
        return SimpleNamespace(**{name: lambda value=value: value for name, value in said.items()})
