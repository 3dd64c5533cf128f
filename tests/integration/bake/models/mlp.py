"""A model that compiles in seconds: two linear layers and a norm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glowplug.handlers import Example, model


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.wide = nn.Linear(32, 64)
        self.narrow = nn.Linear(64, 8)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.narrow(torch.relu(self.wide(self.norm(features))))
        return scores


@model
def mlp(files: Mapping[str, Path]) -> Mlp:
    return Mlp()


@mlp.example
def _example() -> Example:
    return Example(args=(torch.linspace(-1, 1, 64).reshape(2, 32),), dynamic={"features": ("batch", None)})


def handler(event: dict[str, Any], context: object) -> Any:
    return mlp(torch.tensor(event["features"])).tolist()
