"""The trainer's own options, and the way TRL's go through one checked ``trl:`` map.

Owns: ``TrainerConfig``, ``SFTConfig``, their validation, ``build_grpo_config``. Refuses unknown and refused TRL
options (``trainer.options``). Loads without torch; only ``build_grpo_config`` imports TRL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rollout.errors import ConfigError
from trainer.options import OWNED, SAMPLER, check_trl_options

if TYPE_CHECKING:
    from trl import GRPOConfig


class TrainerConfig(BaseModel):
    """Policy RL. Everything TRL already names (learning_rate, loss_type, num_generations, ...) lives in ``trl``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_row_length: int = Field(
        default=4096, ge=2, description="tokens of prompt + completion; longer rows are refused"
    )
    take_deadline: float = Field(default=1800.0, gt=0, description="seconds to wait for one batch of rollouts")
    heartbeat: float = Field(default=30.0, gt=0, description="seconds between signs of life to the other ranks")
    correction: Literal["decoupled", "coupled"] = Field(
        default="decoupled", description="stale tokens: recomputed logprobs + clipped weight, or the sampler's logprobs"
    )
    correct_when: Literal["stale", "always"] = Field(
        default="stale", description="always: also correct the sampler/trainer mismatch of fresh tokens"
    )
    weight_cap: float = Field(default=2.0, gt=0, description="upper clip of the decoupled importance weight")
    sync_dtype: Literal["model", "float32", "bfloat16"] = Field(
        default="model", description="dtype of published weights"
    )
    trl: dict[str, Any] = Field(default_factory=dict, description="options of trl.GRPOConfig")

    @field_validator("trl")
    @classmethod
    def _known_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_trl_options(value)
        return value


class SFTConfig(BaseModel):
    """Supervised training on token rows (policy warm-up, world model)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(default=0.02, ge=0, lt=1, description="share of the run with a rising learning rate")
    max_steps: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(
        default=None, gt=0, description="stop by wall clock; the schedule follows the clock"
    )
    epochs: float | None = Field(default=None, gt=0)
    tokens_per_batch: int = Field(default=8192, ge=1, description="padded tokens of one forward pass")
    accumulate: int = Field(default=1, ge=1, description="forward passes per optimiser step")
    max_length: int = Field(default=2048, ge=2, description="longer rows are refused")
    weight_decay: float = Field(default=0.0, ge=0)
    beta2: float = Field(default=0.95, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: for the matrices of the blocks, at AdamW's update size; AdamW for the rest"
    )
    compile: bool = Field(default=False, description="compile each block: pays off after a minute of training")
    bf16: bool = Field(default=True, description="bf16 autocast; fp32 otherwise")
    seed: int = 0
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _one_end(self) -> SFTConfig:
        if sum(end is not None for end in (self.max_steps, self.max_seconds, self.epochs)) != 1:
            raise ValueError("give exactly one of max_steps, max_seconds, epochs")
        return self


def build_grpo_config(config: TrainerConfig, out_dir: str | os.PathLike[str], **fixed: Any) -> GRPOConfig:
    """``GRPOConfig`` from the ``trl`` map, our defaults and ``fixed`` (values other parts of the experiment decide,
    e.g. ``max_steps``, ``seed``, ``num_generations``).

    Defaults that differ from TRL's: a log every step, no tqdm, no activation checkpointing and no bf16 on the CPU,
    ``max_completion_length`` = ``max_row_length``. Raises ``ConfigError`` on a contradiction or what TRL refuses.
    """
    import torch
    from trl import GRPOConfig

    check_trl_options(fixed)
    for name, value in fixed.items():
        if name in config.trl and config.trl[name] != value:
            raise ConfigError(f"trainer.trl.{name} is {config.trl[name]!r}, but the experiment says {value!r}")
    cuda = torch.cuda.is_available()
    values: dict[str, Any] = {
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": cuda,
        "max_completion_length": config.max_row_length,
        **{name: value for name, value in config.trl.items() if name not in SAMPLER},
        **fixed,
        **OWNED,
        "output_dir": str(Path(out_dir).resolve()),
    }
    if not {"gradient_checkpointing", "activation_checkpointing"} & values.keys():
        values["activation_checkpointing"] = cuda
    offline_without_key(values["report_to"])
    try:
        args = GRPOConfig(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer.trl: {' '.join(str(error).split())}") from error
    check_shape(args)
    return args


def check_shape(args: GRPOConfig) -> int:
    """Optimiser steps that use one generation batch. Raises ``ConfigError`` where batches, steps and saves do not
    meet on generation boundaries (decision 16)."""
    every = args.steps_per_generation * args.num_iterations
    if every % args.gradient_accumulation_steps:
        raise ConfigError(
            f"trainer.trl: steps_per_generation x num_iterations = {every} is not a multiple of"
            f" gradient_accumulation_steps {args.gradient_accumulation_steps}"
        )
    period = every // args.gradient_accumulation_steps
    if args.max_steps <= 0 or args.max_steps % period:
        raise ConfigError(f"trainer.trl.max_steps {args.max_steps} must be a positive multiple of {period}")
    if args.save_strategy != "no" and (args.save_steps < 1 or args.save_steps % period):
        raise ConfigError(
            f"trainer.trl.save_steps {args.save_steps} must be a multiple of the {period} optimiser steps of one"
            " generation batch"
        )
    return int(period)


def offline_without_key(report_to: str | list[str] | None) -> None:
    """Weights & Biases without a key waits for minutes; run it offline instead."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    netrc = Path(os.environ.get("NETRC", str(Path.home() / ".netrc")))
    known = os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    if "wandb" in names and not known:
        os.environ.setdefault("WANDB_MODE", "offline")
