"""Muon for a language model: the matrices of its blocks by Muon, everything else by AdamW, as one optimiser.

Owns: which parameter goes where, and the pair. The updates are torch's own (``torch.optim.Muon``, Jordan et al. 2024),
scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
Refuses: sharded parameters (Muon needs whole matrices).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainer.config import SFTConfig


class Pair(torch.optim.Optimizer):
    """Two optimisers behind one interface; schedulers see the parameter groups of both."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        # the very dicts of the parts, so that a scheduler's learning rate reaches them
        self.param_groups = [*first.param_groups, *second.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("a closure is not supported")
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon(model: nn.Module, config: SFTConfig) -> Pair:
    """The optimiser of ``model``. Embeddings, heads, norms, biases and convolution kernels go to AdamW."""
    apart = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        apart.add(id(head.weight))
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in apart]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in chosen]
    return Pair(
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            rest,
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        ),
    )
