"""The training stages, each a short function: ``sft`` (policy warm-up, world model) and ``policy_rl``.

Owns: putting model, rows or rollouts, options and output folder together. Refuses: knowing where rows or rollouts
come from. Both write ``metrics.jsonl`` and end in an ordinary Hugging Face model folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from rollout.errors import ConfigError
from rollout.protocols import BatchSource, WeightSink
from trainer.adapters import is_adapted, plain_model
from trainer.config import SFTConfig, TrainerConfig, build_grpo_config
from trainer.grpo import WorldModelGRPOTrainer
from trainer.metrics import MetricsCallback
from trainer.sft import (
    Clock,
    Rows,
    StopByClock,
    TokenStream,
    TokenTrainer,
    check_rows,
    compile_blocks,
    project_labelled_only,
)
from trainer.weights import named_tensors, to_torch

if TYPE_CHECKING:
    from peft import PeftModel

Path_ = str | os.PathLike[str]
FOREVER = 10**9  # optimiser steps, where the clock ends the run


@dataclass(frozen=True, slots=True)
class SFTResult:
    """``loss`` is the mean over the last logged steps; tokens include padding, ``labelled`` are those in the loss."""

    path: Path
    steps: int
    loss: float
    tokens: int
    labelled: int
    seconds: float


def sft(
    model: Path_ | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    out_dir: Path_,
    config: SFTConfig,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> SFTResult:
    """Train on ``rows`` of (ids, loss mask) and save model and tokenizer to ``out_dir``.

    A token is in the loss where its mask is 1 (never the first of a row). A given model object is trained in place.
    Raises ``ConfigError`` on bad rows before anything is written.
    """
    check_rows(rows, config.max_length)
    set_seed(config.seed)
    if not isinstance(model, PreTrainedModel):
        model = load_model(model)
    out = Path(out_dir).resolve()
    args = _sft_arguments(config, out)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    stream = TokenStream(rows, pad_id, config, args.process_index, args.world_size)
    if config.max_seconds is not None:
        args.max_steps = FOREVER
    else:
        args.max_steps = config.max_steps or max(1, math.ceil((config.epochs or 1.0) * stream.steps_per_epoch()))
    clock = Clock(args.max_steps, config.max_seconds)
    restore = project_labelled_only(model)
    if config.compile:
        compile_blocks(model)
    try:
        trainer = TokenTrainer(
            model=model,
            args=args,
            stream=stream,
            sft=config,
            clock=clock,
            processing_class=tokenizer,
            callbacks=[StopByClock(clock), MetricsCallback(out / "metrics.jsonl"), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
    finally:
        restore()
    trainer.save_model(str(out))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return SFTResult(
        path=out,
        steps=trainer.state.global_step,
        loss=float(losses[-1]) if losses else float(result.training_loss),
        tokens=trainer.tokens,
        labelled=trainer.labelled,
        seconds=float(result.metrics["train_runtime"]),
    )


def _sft_arguments(config: SFTConfig, out: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=config.bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_steps=config.log_every,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
    )


def store_as(folder: Path_, dtype: str) -> None:
    """Write the model in ``folder`` again with weights of ``dtype``: what inference reads, at half the size."""
    load_model(folder, dtype).save_pretrained(str(folder))


def load_model(path: Path_, dtype: str = "float32") -> PreTrainedModel:
    """A causal LM from a folder on disk. Raises ``ConfigError`` in one line."""
    if not Path(path).is_dir():
        raise ConfigError(f"model: no folder {path}")
    try:
        return AutoModelForCausalLM.from_pretrained(str(path), dtype=getattr(torch, dtype), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model {path}: {' '.join(str(error).split())}") from error


def policy_rl(
    model: Path_ | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    out_dir: Path_,
    config: TrainerConfig,
    source: BatchSource | None,
    sink: WeightSink | None,
    *,
    attempt: int = 0,
    world_size: int = 1,
    resume_from: Path_ | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    on_ready: Callable[[WorldModelGRPOTrainer], None] | None = None,
    **fixed: Any,
) -> Path:
    """GRPO on groups from ``source``, weights to ``sink``; returns the folder of the final model.

    Every rank calls it; only rank 0 needs ``source`` and ``sink``. ``fixed``: options of ``GRPOConfig`` that the
    experiment decides (``max_steps``, ``seed``, ``num_generations``, ``deepspeed``). ``on_ready`` sees the trainer
    before it starts. Raises ``ConfigError`` if the ranks that came up are not ``world_size`` (a launcher may silently
    start fewer), ``RolloutFailed`` and ``BatchRefused`` on all ranks alike.
    """
    out = Path(out_dir).resolve()
    args = build_grpo_config(config, out, **fixed)
    if args.world_size != world_size:
        raise ConfigError(f"trainer: {args.world_size} processes came up, {world_size} were asked for")
    if isinstance(model, str | os.PathLike):
        model = load_model(model)
    trainer = WorldModelGRPOTrainer(
        model,
        args,
        source,
        sink,
        tokenizer,
        config,
        attempt=attempt,
        callbacks=[MetricsCallback(out / "metrics.jsonl", attempt), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if on_ready is not None:
        on_ready(trainer)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from is not None else None)
    final = out / "final"
    save_plain(trainer, final)
    return final


def save_plain(trainer: WorldModelGRPOTrainer, folder: Path) -> None:
    """An ordinary Hugging Face model folder; of LoRA the merged model, and the adapter beside it in ``adapter/``.
    Every rank calls it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_adapted(model):
        trainer.save_model(str(folder))
        return
    main = trainer.accelerator.is_main_process
    gather = trainer._dist.gather_params if trainer._dist.is_zero3 else None
    merged = {name: to_torch(raw) for name, raw in named_tensors(model, gather=gather, sender=main)}
    trainer.save_model(str(folder / "adapter"))
    if main:
        plain_model(model).save_pretrained(str(folder), state_dict=merged)
        trainer.processing_class.save_pretrained(str(folder))
