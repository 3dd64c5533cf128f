"""Write an exported program as an ONNX file, for the engines that read one.

The exporter works on the program that every engine is made of, so that all engines compute one graph. Inputs and
outputs keep the signature's order; values that were compiled in are no inputs. Weights go beside the file, since a
protobuf ends at 2 GB.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import ExportFailed

if TYPE_CHECKING:
    from ..program import Program  # only to name it, as in the engines

_OPERATOR = re.compile(r"OpOverload\(op='([^']+)'")


def export_onnx(program: Program, target: Path) -> list[str]:
    """Write ``target`` and its weights, ``target`` with ``.data`` appended; return the names of the graph's inputs.

    Raises ``ExportFailed`` naming the operator that ONNX lacks, or saying that the exporter is not installed.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that it could export from and that are not here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(program.exported, dynamo=True, verbose=False, optimize=True)
    except Exception as error:  # the exporter's own errors have no common base but Exception
        raise ExportFailed(f"torch.onnx: {_why(error)}") from error
    finally:
        logger.setLevel(level)
    if exported is None:
        raise ExportFailed("torch.onnx: no program came of it")
    names = [str(value.name) for value in exported.model.graph.inputs]
    wanted = sum(item.dtype is not None for item in program.signature.inputs)
    if len(names) != wanted:
        raise ExportFailed(f"torch.onnx: a graph of {len(names)} inputs, of a model of {wanted}")
    exported.save(target, external_data=True)
    return names


def _why(error: BaseException) -> str:
    """Return the innermost reason; for an operator that ONNX has no counterpart of, its name."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    if operator := _OPERATOR.search(text):
        return f"ONNX has no counterpart of the operator {operator[1]}"
    return f"{type(error).__name__}: {text[:600]}"
