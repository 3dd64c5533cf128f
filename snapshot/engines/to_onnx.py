"""Write an exported program as an ONNX file.

The exporter works on the program that every engine is made of, so that all engines compute one graph. Inputs and
outputs keep the signature's order; values that were compiled in are no inputs. Weights go beside the file, since a
protobuf ends at 2 GB.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import ExportFailed

if TYPE_CHECKING:
    from ..program import Program  # only to name it: see ``aot_inductor``


def export_onnx(program: Program, target: Path) -> list[str]:
    """Write ``target`` and its weights, ``target`` with ``.data`` appended; return the names of its inputs, which are
    the signature's tensors in order.

    Raises ``ExportFailed`` naming the operator that ONNX lacks, or saying that the exporter is not installed.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that would only matter for models that use them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(program.exported, dynamo=True, verbose=False)
            if made is None:
                raise ExportFailed("torch.onnx made no program")
            names = [str(value.name) for value in made.model.graph.inputs]
            tensors = [item.name for item in program.signature.inputs if item.dtype is not None]
            if len(names) != len(tensors):
                raise ExportFailed(f"torch.onnx made a graph of {len(names)} inputs, the model has {len(tensors)}")
            made.save(target, external_data=True)
            return names
    except ExportFailed:
        raise
    except Exception as error:  # the exporter's own errors have no common base but Exception
        raise ExportFailed(f"torch.onnx: {type(error).__name__}: {_first_lines(error)}") from error
    finally:
        logger.setLevel(level)


def _first_lines(error: Exception) -> str:
    return "\n".join(str(error).strip().splitlines()[:8])
