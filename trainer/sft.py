"""Supervised training on token rows, as fast as a few CPU cores allow.

Owns: batches of about N tokens with little padding, the loss at labelled positions only, learning-rate schedules that
may follow the clock. Refuses: text (rows are ids with a loss mask) and multi-turn rules (the rows' mask carries them).
The loop, mixed precision, clipping and logging are those of transformers' ``Trainer``.
"""

from __future__ import annotations

import math
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.modeling_outputs import CausalLMOutput

from rollout.errors import ConfigError
from trainer.config import SFTConfig
from trainer.muon import muon

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]  # (ids, loss mask), equal lengths
IGNORE = -100
POOL = 50  # batches that are drawn together, so that similar lengths can meet
CHUNK_ELEMENTS = 1 << 27  # logits held at once (512 MiB in fp32)
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def check_rows(rows: Rows, max_length: int) -> None:
    """Raises ``ConfigError`` on the first row that is too long, unlabelled, or whose mask does not fit."""
    if not rows:
        raise ConfigError("sft: no rows to train on")
    for index, (ids, mask) in enumerate(rows):
        if len(ids) != len(mask):
            raise ConfigError(f"sft row {index}: {len(ids)} ids but {len(mask)} mask values")
        if not 2 <= len(ids) <= max_length:
            raise ConfigError(f"sft row {index}: {len(ids)} tokens, allowed are 2 to max_length {max_length}")
        if not any(mask[1:]):
            raise ConfigError(f"sft row {index}: no labelled token after the first")


def token_batches(lengths: Sequence[int], budget: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """One pass over all rows in random order, as batches of at most ``budget`` padded tokens (a longer row goes
    alone). Rows of similar length meet inside pools of about ``POOL`` batches."""
    order = rng.permutation(len(lengths))
    per_pool = max(1, int(POOL * budget / max(1.0, float(np.mean(lengths)))))
    for start in range(0, len(order), per_pool):
        pool = sorted(order[start : start + per_pool], key=lambda i: lengths[i])
        batches: list[list[int]] = []
        current: list[int] = []
        for index in pool:
            if current and lengths[index] * (len(current) + 1) > budget:
                batches.append(current)
                current = []
            current.append(int(index))
        batches.append(current)
        for at in rng.permutation(len(batches)):
            yield batches[at]


def collate(rows: Rows, batch: Sequence[int], pad_id: int) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` (B, L), right-padded. No attention mask: padding comes after every real token, so
    causal attention never sees it, and the fast causal kernel applies."""
    width = max(len(rows[i][0]) for i in batch)
    ids = np.full((len(batch), width), pad_id, np.int64)
    labels = np.full((len(batch), width), IGNORE, np.int64)
    for b, index in enumerate(batch):
        row, mask = np.asarray(rows[index][0], np.int64), np.asarray(rows[index][1], bool)
        ids[b, : len(row)] = row
        labels[b, : len(row)] = np.where(mask, row, IGNORE)
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


class TokenStream(IterableDataset):  # type: ignore[misc]
    """Endless passes of batches; each rank gets every ``world``-th one."""

    def __init__(self, rows: Rows, pad_id: int, config: SFTConfig, rank: int = 0, world: int = 1) -> None:
        self.rows, self.pad_id, self.config, self.rank, self.world = rows, pad_id, config, rank, world
        self.lengths = [len(ids) for ids, _ in rows]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch = count = 0
        while True:
            rng = np.random.default_rng([self.config.seed, epoch])
            for batch in token_batches(self.lengths, self.config.tokens_per_batch, rng):
                if count % self.world == self.rank:
                    yield collate(self.rows, batch, self.pad_id)
                count += 1
            epoch += 1

    def steps_per_epoch(self) -> float:
        """Optimiser steps of one pass (of the first one; later passes differ by a batch or so)."""
        rng = np.random.default_rng([self.config.seed, 0])
        batches = sum(1 for _ in token_batches(self.lengths, self.config.tokens_per_batch, rng))
        return batches / (self.world * self.config.accumulate)


def labelled_loss_forward(
    self: Any, input_ids: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = None, **kwargs: Any
) -> CausalLMOutput:
    """Forward of a causal LM that projects labelled positions only. Loss: summed cross-entropy over
    ``num_items_in_batch`` (default: the labelled tokens here)."""
    hidden = self.base_model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    hidden, targets = hidden[chosen], targets[chosen]
    head = self.get_output_embeddings()
    size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])

    def nll(h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(h).float(), t, reduction="sum")

    if len(targets) <= size:
        total = nll(hidden, targets)
    else:
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        total = torch.stack([checkpoint(nll, h, t, use_reentrant=False) for h, t in parts]).sum()
    count = num_items_in_batch if num_items_in_batch is not None else max(1, len(targets))
    return CausalLMOutput(loss=total / count)


def project_labelled_only(model: Any) -> Callable[[], None]:
    """Patch ``model.forward`` where its logits are a plain projection; returns the function that undoes it."""
    config = model.config.get_text_config()
    if not any(getattr(config, name, None) for name in _SCALED_LOGITS):
        model.forward = types.MethodType(labelled_loss_forward, model)

    def restore() -> None:
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)

    return restore


def compile_blocks(model: Any) -> None:
    """Compile every block of ``model`` for any batch and length. Attention is written out, so that it is compiled
    too: at a few hundred tokens that is faster on a CPU than the fused kernel. All blocks share one function, so that
    torch must be told to keep more variants of it than its default of 8."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    model.set_attn_implementation("eager")
    for block in model.base_model.layers:
        block.compile(dynamic=True)


class Clock:
    """Share of the run that is done: by wall clock where ``max_seconds`` is set, by optimiser steps otherwise."""

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps, self.seconds = steps, seconds
        self.began = time.monotonic()

    def __call__(self, step: int) -> float:
        if self.seconds is not None:
            return min(1.0, (time.monotonic() - self.began) / self.seconds)
        return min(1.0, step / self.steps)


def learning_rate_factor(config: SFTConfig, progress: float) -> float:
    """Warm-up, then constant, or down to zero linearly or along a half cosine."""
    if progress < config.warmup:
        return max(progress / config.warmup, 1e-2)
    if config.schedule == "constant":
        return 1.0
    rest = (1.0 - progress) / (1.0 - config.warmup)
    return rest if config.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * rest))


class StopByClock(TrainerCallback):
    """Ends training when the time is up; rank 0's clock decides for all."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        over = [self.clock(state.global_step) >= 1.0]
        if args.world_size > 1:
            broadcast_object_list(over, from_process=0)
        control.should_training_stop = control.should_training_stop or over[0]


class TokenTrainer(Trainer):
    """transformers' Trainer over a ``TokenStream``, with a schedule that reads a ``Clock``."""

    def __init__(self, *, stream: TokenStream, sft: SFTConfig, clock: Clock, **kwargs: Any) -> None:
        self.stream, self.sft, self.clock = stream, sft, clock
        self.tokens = self.labelled = 0
        super().__init__(train_dataset=stream, **kwargs)
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.stream, batch_size=None)

    def create_optimizer(self, model: Any = None) -> Any:
        if self.sft.optimizer == "muon" and self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = muon(self.model, self.sft)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: learning_rate_factor(self.sft, self.clock(step))
        )
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self.tokens += int(inputs["input_ids"].numel())
        self.labelled += int((inputs["labels"] != IGNORE).sum())
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        elapsed = time.monotonic() - self.clock.began
        logs |= {"tokens": self.tokens, "labelled_tokens": self.labelled, "tokens_per_s": self.tokens / elapsed}
        super().log(logs, *args, **kwargs)
