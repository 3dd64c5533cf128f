"""A small decoder with what real ones have: tied weights, rotary buffers, prefixed checkpoint keys, half-precision
weights in a module that computes in fp32. Returns the logits of every position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from glowplug.handlers import Example, model

WIDTH, HEADS, WORDS, LAYERS = 32, 4, 50, 2
THETA = 10000.0


class Rotary(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        frequencies = THETA ** (-torch.arange(0, size, 2).float() / size)
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        angles = torch.arange(states.shape[-2]).float()[:, None] * self.frequencies
        even, odd = states[..., ::2], states[..., 1::2]
        turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
        return torch.stack(turned, -1).flatten(-2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.rotary = Rotary(WIDTH // HEADS)

    def forward(self, states: Tensor) -> Tensor:
        mixed = self.attention(self.norm(states)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
        query, key, value = mixed.unbind(2)
        attended = functional.scaled_dot_product_attention(self.rotary(query), self.rotary(key), value, is_causal=True)
        return states + self.out(attended.transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("bias", torch.zeros(WORDS))

    def forward(self, ids: Tensor, temperature: float = 1.0) -> dict[str, Tensor]:
        states = self.embed(ids)
        for block in self.blocks:
            states = block(states)
        logits = (self.head(states) + self.bias) / temperature
        return {"logits": logits, "choice": logits.argmax(-1)}


@model
def decoder(files: Any) -> Decoder:
    return Decoder()


@decoder.example
def _example() -> Example:
    return Example(args=(torch.arange(2 * 8).reshape(2, 8),), dynamic={"ids": ("batch", "tokens")})


@decoder.weights
def _weights(key: str) -> str | None:
    return None if key.endswith("position_ids") else key.removeprefix("model.")


def handler(event: Any, context: Any) -> Any:
    return decoder(torch.tensor(event["ids"]))["choice"].tolist()
