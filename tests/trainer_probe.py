"""The trainer's loss, differentiated by the logprob of every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trainer_toys import ToySource, make_trainer

from rollout.types import Batch, Version

NOW = Version(0, 0)


class Probe:
    """A trainer whose per-token logprobs are leaves, so that the loss can be differentiated by them."""

    def __init__(self, out: Path) -> None:
        self.source = ToySource({})
        self.trainer = make_trainer(out, self.source)
        self.trainer.model.train()
        self.trainer._get_per_token_logps_and_entropies = self.logps
        self.leaf: Any = None

    def logps(self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **_: Any) -> Any:
        ids = input_ids[:, -logits_to_keep:]
        value = -0.5 - (ids.float() * 0.37).sin().abs()  # a function of the token, so rows keep theirs when padded
        entropy = 1.0 + (ids.float() * 0.11).cos()
        if torch.is_grad_enabled():
            self.leaf = (value * 1.1).requires_grad_()
            return self.leaf, entropy, None
        return value, entropy, None

    def gradient(
        self, made: Batch, rows: int, micro: int, now: Version = NOW, **attributes: Any
    ) -> tuple[dict[str, Any], Any, float]:
        """(batch dict, d loss / d logprob (B, T), loss), summed over micro-batches as the loop would."""
        trainer = self.trainer
        trainer.args.generation_batch_size = rows
        trainer.args.per_device_train_batch_size = micro
        trainer.args.steps_per_generation = trainer.args.gradient_accumulation_steps = rows // micro
        trainer.current_gradient_accumulation_steps = rows // micro
        trainer.version = now
        before = {name: getattr(trainer, name) for name in attributes}
        for name, value in attributes.items():
            setattr(trainer, name, value)
        try:
            self.source.batches = {0: made}
            data = trainer._generate_and_score_completions([{"prompt": ""}] * rows)
            parts, total = [], 0.0
            for start in range(0, rows, micro):
                part = {k: v[start : start + micro] if v.ndim else v for k, v in data.items()}
                loss = trainer._compute_loss(trainer.model, part)
                loss.backward()
                parts.append(self.leaf.grad)
                total += loss.item()
            return data, torch.cat(parts), total
        finally:
            for name, value in before.items():
                setattr(trainer, name, value)
