"""Two models in one function, over checkpoints of their own. Answers with both, and with who mapped their weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glowplug.handlers import model


class Table(nn.Module):
    """One large matrix: a row per id."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2048, 1024))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


@model("left")
def left(files: Mapping[str, Path]) -> nn.Module:
    return Table()


@model("right")
def right(files: Mapping[str, Path]) -> nn.Module:
    return Table()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Read every page of both matrices, and return a row's first value of each."""
    ids = torch.arange(2048)
    sums = [float(table(ids).sum()) for table in (left, right)]
    return {
        "sums": sums,
        "pid": os.getpid(),
        "files": [str(table.files["model.safetensors"]) for table in (left, right)],
    }
