"""Attention of one new id a row on a CPU in half precision, where torch's kernel takes two to three times as long.

Owns: the attention function that ``HFSampler`` gives to its model, under the name ``NAME``. Refuses: everything but
one query a row, on a CPU, in bfloat16 or float16; that goes to transformers' own ``sdpa`` unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "agentworld_one_query"
HALVES = (torch.bfloat16, torch.float16)
PIECE = 2**20  # keys' elements at a time, so that what is made of them stays in cache


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As ``sdpa_attention_forward``: query [B, heads, new, width], key and value [B, key heads, seen, width], additive
    or boolean mask [B, 1, new, seen]; returns [B, new, heads, width]."""
    ours = query.shape[2] == 1 and query.device.type == "cpu" and query.dtype in HALVES
    if not ours or dropout or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    return one_query(query, key, value, attention_mask, scaling).transpose(1, 2), None


def one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None) -> Tensor:
    """Attention of query [B, heads, 1, width] over key and value [B, key heads, seen, width]; softmax in float32.
    ``mask`` [B or 1, 1, 1, seen], added to the scores or, if boolean, False where a column is hidden."""
    batch, heads, _, width = query.shape
    shared = heads // key.shape[1]  # query heads of one key head
    grouped = (query * (width**-0.5 if scaling is None else scaling)).reshape(batch, key.shape[1], shared, width)
    rows = max(1, PIECE // key[0].numel())
    masks = [None] * batch if mask is None else mask[..., : key.shape[2]].expand(batch, -1, -1, -1).split(rows)
    parts = zip(grouped.split(rows), key.split(rows), value.split(rows), masks, strict=False)
    return torch.cat([_attended(*part) for part in parts]).reshape(batch, heads, 1, -1)


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Of query [rows, key heads, shared, width], scaled; [rows, key heads, shared, width]."""
    # A product and a sum stream the keys once, where a matrix product with one row does not.
    scores = (key * query).sum(-1)[:, :, None] if query.shape[2] == 1 else query @ key.transpose(2, 3)
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).to(value.dtype) @ value


def use(model: Any) -> None:
    """Lets ``model`` attend with ``attend`` where it would use ``sdpa``; other implementations stay as they are."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
