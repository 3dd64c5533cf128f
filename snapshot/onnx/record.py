"""The part of an engine's record that says which ONNX Runtime its files are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .session import version

VERSION = "onnxruntime"


def unusable(options: Mapping[str, Any]) -> str:
    """Return why a record's files cannot be used with the ONNX Runtime that is here; empty when they can.

    An optimised graph holds operators that are ONNX Runtime's own, and layouts that are one processor's: the
    manifest's fingerprint covers the processor.
    """
    made, here = options.get(VERSION), version()
    return "" if made == here else f"made by onnxruntime {made}, here is {here or 'none'}"
