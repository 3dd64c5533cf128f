"""A small residual network for pictures, as a function to bench: 3 x 96 x 96 pixels in, ten classes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glowplug.handlers import Example, model

_WIDTHS = (32, 64, 128, 256)


class Block(nn.Module):
    """Two convolutions around which the input is added; the first halves the picture."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.short = nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of the next stage."""
        features = torch.relu(self.first_norm(self.first(pixels)))
        return torch.relu(self.second_norm(self.second(features)) + self.short(pixels))


class ConvNet(nn.Module):
    """Four blocks, a mean over what is left of the picture, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(*pair) for pair in zip((3, *_WIDTHS), _WIDTHS, strict=False)))
        self.classes = nn.Linear(_WIDTHS[-1], 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ten scores per picture."""
        scores: Tensor = self.classes(self.blocks(pixels).mean((2, 3)))
        return scores


@model
def convnet(files: Mapping[str, Path]) -> ConvNet:
    """Build the network."""
    return ConvNet()


@convnet.example
def _example() -> Example:
    return Example(
        args=(torch.linspace(0, 1, 2 * 3 * 96 * 96).reshape(2, 3, 96, 96),),
        dynamic={"pixels": ("batch", None, None, None)},
    )


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Score a grey picture."""
    return {"scores": convnet(torch.full((1, 3, 96, 96), float(event.get("grey", 0.5))))[0].tolist()}
