"""The trainer's own options, and the way TRL's go through one checked ``trl:`` map.

Owns: ``TrainerConfig``, ``SFTConfig``, their validation, ``build_grpo_config``, ``build_lora_config``. Refuses unknown
and refused TRL options (``trainer.options``). Loads without torch; only the two builders import TRL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rollout.errors import ConfigError
from trainer.credit import NAMED, Term, check_credit, parse_credit
from trainer.options import LORA, OWNED, SAMPLER, check_trl_options

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig

Correction = Literal["coupled", "decoupled", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class TrainerConfig(BaseModel):
    """Policy RL. Everything TRL already names (learning_rate, loss_type, num_generations, ...) lives in ``trl``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_row_length: int = Field(
        default=4096, ge=2, description="tokens of prompt + completion; longer rows are refused"
    )
    take_deadline: float = Field(default=1800.0, gt=0, description="seconds to wait for one batch of rollouts")
    credit: dict[Term, float] = Field(
        default_factory=lambda: dict(NAMED["trajectory"]),
        description="trajectory, turn, step, or the weights of the three and the discount per turn (trainer.credit)",
    )
    correction: Correction = Field(
        default="decoupled",
        description="stale tokens: recomputed logprobs and a weight per token or sequence, truncated or masked"
        " (decoupled: token_truncate); coupled: the sampler's logprobs in the loss's own ratio",
    )
    correct_when: Literal["stale", "always"] = Field(
        default="stale", description="always: also correct the sampler/trainer mismatch of fresh tokens"
    )
    weight_cap: float | tuple[float, float] = Field(
        default=2.0, description="highest importance weight, or [lowest, highest]: clipped to it, or masked beyond it"
    )
    sync_dtype: Literal["model", "float32", "bfloat16"] = Field(
        default="model", description="dtype of published weights"
    )
    trl: dict[str, Any] = Field(default_factory=dict, description="options of trl.GRPOConfig")

    @field_validator("trl")
    @classmethod
    def _known_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_trl_options(value)
        return value

    @field_validator("credit", mode="before")
    @classmethod
    def _named_credit(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in NAMED:
            raise ValueError(f"use one of {', '.join(NAMED)}, or a mapping of weights")
        return dict(NAMED[value])

    @field_validator("credit")
    @classmethod
    def _sound_credit(cls, value: dict[Term, float]) -> dict[Term, float]:
        parse_credit(value)
        return value

    @field_validator("weight_cap")
    @classmethod
    def _sound_cap(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        low, high = value if isinstance(value, tuple) else (0.0, value)
        if not 0 <= low < high:
            raise ValueError("the highest weight must be above 0, and above the lowest, which is at least 0")
        return value

    @property
    def weighting(self) -> Weighting | None:
        """What the decoupled weight is; None: coupled."""
        if self.correction == "coupled":
            return None
        level, mode = ("token", "truncate") if self.correction == "decoupled" else self.correction.split("_")
        low, high = self.weight_cap if isinstance(self.weight_cap, tuple) else (None, self.weight_cap)
        return Weighting(level == "sequence", mode == "mask", low, high)


@dataclass(frozen=True, slots=True)
class Weighting:
    """A decoupled importance weight: of each token or of the whole ``sequence``; outside ``[low, high]`` it is clipped
    to the bound or, with ``mask``, 0."""

    sequence: bool
    mask: bool
    low: float | None
    high: float


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
    loss_options = {name: value for name, value in config.trl.items() if name not in LORA | SAMPLER}
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
        **loss_options,
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
    check_devices(args)
    check_shape(args)
    check_loss(config, args)
    return args


def build_lora_config(config: TrainerConfig) -> LoraConfig | None:
    """The adapter that ``trl.use_peft`` and its fellows describe; None: full weights. Defaults are TRL's, but for
    ``lora_target_modules``: all linear layers except the output layer, whatever the architecture.

    Raises ``ConfigError`` on LoRA options without ``use_peft``, and on what PEFT refuses.
    """
    chosen = {name: value for name, value in config.trl.items() if name in LORA}
    if not chosen.get("use_peft"):
        if unused := sorted(chosen.keys() - {"use_peft"}):
            raise ConfigError(f"trainer.trl.{unused[0]} does nothing without trainer.trl.use_peft: true")
        return None
    from trl import ModelConfig, get_peft_config

    try:
        return get_peft_config(ModelConfig(**{"lora_target_modules": "all-linear", **chosen}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer.trl: {' '.join(str(error).split())}") from error


def check_loss(config: TrainerConfig, args: GRPOConfig) -> None:
    """Raises ``ConfigError`` where the loss cannot take the credit, correction or adapter that is asked for."""
    if args.sync_ref_model and config.trl.get("use_peft"):
        raise ConfigError(
            "trainer.trl.sync_ref_model needs full weights: with use_peft the reference is the base model"
        )
    check_credit(parse_credit(config.credit), args.loss_type, args.importance_sampling_level)
    if args.loss_type == "vespo" and config.weighting is not None and config.weighting.sequence:
        raise ConfigError(
            f"trainer.correction {config.correction} does not work with trl.loss_type vespo, which multiplies weights"
            " of tokens into a sequence's itself: use token_truncate, token_mask or coupled"
        )


def check_devices(args: GRPOConfig) -> None:
    """Raises ConfigError where one process sees several GPUs: the Trainer would split batches with DataParallel, which
    none of this is made for."""
    if args.n_gpu > 1:
        raise ConfigError(
            f"this process sees {args.n_gpu} GPUs and would use them with DataParallel: set processes: {args.n_gpu},"
            " or show it one with CUDA_VISIBLE_DEVICES"
        )


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
