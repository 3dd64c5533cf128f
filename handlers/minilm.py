"""The architecture of all-MiniLM-L6-v2: a six-layer BERT encoder with mean pooling, in plain PyTorch.

Module names follow the checkpoint (``encoder.layer.0.attention.self.query.weight`` …), so no key needs a new name.
The pooling is part of the model, not of the handler: what leaves the engine is the answer, and an ahead-of-time engine
fuses it with the last layer.

Sources: Devlin et al., "BERT" (arXiv:1810.04805), for the encoder; the model card of
sentence-transformers/all-MiniLM-L6-v2 for the pooling (mean over the tokens that the mask keeps, then L2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class Shape:
    """The sizes of a BERT encoder, as its ``config.json`` names them.

    ``config`` is the parsed file. Raises ``KeyError`` naming a size that is missing. A plain class: what a dataclass
    imports and generates would stay behind in every parked zygote, and that is a megabyte.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    def __init__(self, config: Mapping[str, Any]) -> None:
        for name in Shape.__annotations__:
            setattr(self, name, config[name])


class Embeddings(nn.Module):
    """Sum of word, position and segment embeddings; every token is in segment 0."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (batch, tokens, hidden) for ``ids`` of shape (batch, tokens)."""
        # A slice of the tables instead of a lookup by arange: no index tensor, no bounds check per row.
        positions = self.position_embeddings.weight[: ids.shape[1]]
        summed = self.word_embeddings(ids) + (positions + self.token_type_embeddings.weight[0])
        return self.LayerNorm(summed)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Scaled dot-product attention over all heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        """Return the attended states; ``keep`` is true where a token may be attended to, (batch, 1, 1, tokens)."""
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=keep)
        return attended.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """A projection added to what went in, then normalised."""

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Return the normalised sum."""
        return self.LayerNorm(self.dense(hidden) + residual)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention, then a feed-forward network, each with its residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(shape), "output": Residual(shape.hidden_size, shape)},
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = Residual(shape.intermediate_size, shape)

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        """Return the layer's output, same shape as ``hidden``."""
        attended = self.attention["output"](self.attention["self"](hidden, keep), hidden)
        widened = functional.gelu(self.intermediate["dense"](attended))
        return self.output(widened, attended)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        """Return the last layer's output."""
        for layer in self.layer:
            hidden = layer(hidden, keep)
        return hidden


class MiniLM(nn.Module):
    """Token ids and their mask to one unit vector per text."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, hidden), L2-normalised. ``mask`` is 1 for a token and 0 for padding, (batch, tokens)."""
        keep = mask.bool()[:, None, None, :]
        hidden = self.encoder(self.embeddings(ids), keep)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return functional.normalize(pooled, dim=1)
