"""From an ONNX file to a serialised plan.

Networks are strongly typed, which 11.x always does and 10.x when asked: what a layer computes in is written in the ONNX
graph (``typed``, ``calibration``), and no flag says otherwise. So precision means one thing on both versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CompileFailed
from .bindings import Log
from .profiles import Profile


@dataclass(frozen=True, slots=True)
class Options:
    """How to build. ``tf32``: let fp32 products be rounded to 10 bits of mantissa, which costs more error than the
    check of fp32 engines allows. ``stripped``: leave the weights out; they come back by ``refit``.
    ``version_compatible``: for later versions of TensorRT too, with fewer kernels to choose from."""

    tf32: bool = False
    stripped: bool = False
    version_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised plan, and the timing cache after it was built."""

    plan: bytes
    cache: bytes


def build(
    trt: Any, log: Log, onnx: Path, made: Sequence[Profile], options: Options = Options(), cache: bytes = b""
) -> Built:
    """Build the plan for a model; seconds to many minutes, less with the ``cache`` of an earlier build on this GPU.

    Raises ``CompileFailed`` with TensorRT's words.
    """
    try:
        return _build(trt, log, onnx, made, options, cache)
    except (RuntimeError, TypeError) as error:  # how its bindings say that an object was not made, or a shape is wrong
        raise CompileFailed(f"TensorRT: {error}\n{log.words()}") from error


def _build(trt: Any, log: Log, onnx: Path, made: Sequence[Profile], options: Options, cache: bytes) -> Built:
    builder = trt.Builder(log.logger)
    builder.error_recorder = log.recorder
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx)):
        said = [_parser_error(parser.get_error(number)) for number in range(parser.num_errors)]
        raise CompileFailed("TensorRT cannot read the exported model: " + ("\n".join(said) or log.words()))
    config = builder.create_builder_config()
    _set_flags(trt, config, options)
    _add_profiles(builder, config, network, made)
    timing = config.create_timing_cache(cache)
    if timing is None or not config.set_timing_cache(timing, False):
        timing = config.create_timing_cache(b"")  # of another GPU or version: start again
        config.set_timing_cache(timing, False)
    log.words()  # what it said about an old cache is not about this build
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise CompileFailed(f"TensorRT built no plan: {log.words()}")
    return Built(bytes(memoryview(serialized)), bytes(memoryview(config.get_timing_cache().serialize())))


def _set_flags(trt: Any, config: Any, options: Options) -> None:
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # The weights that come back are the ones that are built with, so nothing has to be left unfused for others.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _add_profiles(builder: Any, config: Any, network: Any, made: Sequence[Profile]) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor:
            raise CompileFailed(f"input {tensor.name} decides the shape of others; profiles here are for data")
    for profile in made:
        if len(profile) != len(inputs):
            names = ", ".join(tensor.name for tensor in inputs) or "none"
            raise CompileFailed(f"the exported model's inputs are {names}; its signature has {len(profile)}")
        shapes = builder.create_optimization_profile()
        for tensor, span in zip(inputs, profile, strict=True):
            shapes.set_shape(tensor.name, span.least, span.usual, span.most)
        if config.add_optimization_profile(shapes) < 0:
            raise CompileFailed(f"TensorRT does not take the profile {profile}")


def _parser_error(error: Any) -> str:
    where = f"{error.node_operator()} {error.node_name()}".strip() or f"node {error.node()}"
    return f"{where}: {error.desc()}"
