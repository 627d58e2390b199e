"""Importance weights between the sampler's distribution and the trainer's, and their figures.

Owns: the decoupled weight ``exp(proximal - behaviour)`` of AReaL (arXiv 2505.24298, section 5.2), clipped or masked,
per token or per sequence: what TRL calls ``token_truncate``, ``token_mask``, ``sequence_truncate`` and
``sequence_mask``, operation by operation. Refuses: deciding when to correct (``trainer.grpo``).

TRL multiplies the loss by its ratio only beside its own vLLM engine. Every loss but ``vespo`` is positively homogeneous
in the advantage, so the weight goes into a (B, T) advantage instead, with the same result for any sampler. ``vespo``
reads the weight under TRL's own key whatever the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trainer.config import Weighting

if TYPE_CHECKING:
    from accelerate import Accelerator


def importance_weight(difference: torch.Tensor, mask: torch.Tensor, how: Weighting) -> torch.Tensor:
    """Weights (B, T), or (B, 1) per sequence, of ``difference`` (B, T) = proximal - behaviour logprobs.

    ``mask`` (B, T) is 1 on sampled tokens; the others count as equal.
    """
    difference = difference * mask
    if how.sequence:
        difference = difference.sum(dim=-1, keepdim=True)
    weight = torch.exp(difference)
    if how.mask:
        low = -torch.inf if how.low is None else how.low
        return weight.masked_fill((weight < low) | (weight > how.high), 0.0)
    return weight.clamp(min=how.low, max=how.high)


def weighted(advantages: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Advantages (B,) or (B, T) times weights (B, T) or (B, 1)."""
    return (advantages.unsqueeze(1) if advantages.ndim == 1 else advantages) * weight


def correction_figures(
    accelerator: Accelerator, difference: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor
) -> dict[str, float]:
    """TRL's ``sampling/*`` figures over all ranks, of sampled tokens (weights per sequence: of rows that have any)."""
    counted = mask.bool() if weight.shape == mask.shape else mask.bool().any(dim=1, keepdim=True)
    apart, mask = difference.abs() * mask, mask.bool()
    sums = torch.stack([mask.sum(), apart.sum(), counted.sum(), (weight * counted).sum()]).double()
    total = accelerator.reduce(sums, reduction="sum").clamp(min=1e-12)
    top = torch.stack([apart.max(), weight.masked_fill(~counted, 0).max()])
    low = weight.masked_fill(~counted, torch.inf).min().reshape(1)
    top, low = accelerator.gather(top).view(-1, 2), accelerator.gather(low)
    return {
        "sampling/sampling_logp_difference/mean": (total[1] / total[0]).item(),
        "sampling/sampling_logp_difference/max": top[:, 0].max().item(),
        "sampling/importance_sampling_ratio/min": low.min().item(),
        "sampling/importance_sampling_ratio/mean": (total[3] / total[2]).item(),
        "sampling/importance_sampling_ratio/max": top[:, 1].max().item(),
    }
