"""Every honoured TRL option and every trainer option of ours, walked: changing it changes what a training run does, or
is refused. What a run does: the rows it trains on, the weights it ends with, its figures, files and random state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
import torch
from trainer_toys import ToySink, ToySource, random_batch, tiny_model, tiny_tokenizer, trl_options

from rollout.errors import AgentworldError
from rollout.types import Version
from trainer.config import TrainerConfig, build_grpo_config
from trainer.grpo import WorldModelGRPOTrainer
from trainer.metrics import MetricsCallback
from trainer.options import FORWARDED, HONOURED, LORA, SAMPLER
from trainer.stages import load_model

CLOCKS = ("_s", "_second", "seconds", "runtime", "time")  # figures that differ from run to run


@dataclass(frozen=True)
class Case:
    """``to``: the changed value. ``given``: options that must be set for this one to matter. ``ours``: likewise, of
    ``trainer``. ``stale``: rollouts one step old. ``nothing``: no rollouts at all."""

    to: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False
    nothing: bool = False


PEFT = {"use_peft": True, "lora_r": 4, "learning_rate": 0.05, "max_steps": 2}
ENTROPY = {"entropy_coef": 0.01}
TRL = {
    "num_generations": Case(2),
    "generation_batch_size": Case(16, {"max_steps": 2}),
    "steps_per_generation": Case(2, {"max_steps": 2}),
    "num_iterations": Case(2, {"max_steps": 2}),
    "gradient_accumulation_steps": Case(
        2, {"per_device_train_batch_size": 4, "generation_batch_size": 8, "max_steps": 2}
    ),
    "per_device_train_batch_size": Case(4, {"generation_batch_size": 8, "max_steps": 2}),
    "max_steps": Case(2),
    "save_strategy": Case("steps", {"save_steps": 1}),
    "save_steps": Case(2, {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}),
    "max_completion_length": Case(3),
    "pad_to_multiple_of": Case(64),
    "temperature": Case(0.7),
    "loss_type": Case("grpo"),
    "scale_rewards": Case("none"),
    "mask_truncated_completions": Case(True),
    "beta": Case(0.5, {"max_steps": 2}),
    "off_policy_mask_threshold": Case(1e-6),
    "entropy_coef": Case(0.1),
    "use_adaptive_entropy": Case(True, {**ENTROPY, "max_steps": 2}),
    "log_completions": Case(True),
    "seed": Case(4),
    "report_to": Case("tensorboard"),
}
ADAPTER = {
    "use_peft": Case(True, {"learning_rate": 0.05}),
    "lora_r": Case(2, PEFT),
    "lora_alpha": Case(64, PEFT),
    "lora_dropout": Case(0.5, PEFT),
    "lora_target_modules": Case(["q_proj"], PEFT),
    "use_rslora": Case(True, PEFT),
}
OURS = {
    "max_row_length": Case(8),
    "take_deadline": Case(1.6, nothing=True, ours={"take_deadline": 0.6}),
    "credit": Case("turn"),
    "correction": Case("coupled", stale=True),
    "correct_when": Case("always"),
    "weight_cap": Case(0.5, stale=True),
    "sync_dtype": Case("bfloat16"),
}


def what_a_run_does(out: Path, trl: Mapping[str, Any], ours: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Train on recorded groups; every deterministic thing that came of it, or the refusal."""
    version = Version(0, 0)
    batches = {step: None if case.nothing else random_batch(step, version=version, logprob=-1.4) for step in range(4)}
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(WorldModelGRPOTrainer):
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            seen.append({name: value.clone() for name, value in inputs.items() if torch.is_tensor(value)})
            return super()._compute_loss(model, inputs)

    sink = ToySink()
    try:
        config = TrainerConfig(**{"max_row_length": 64, "trl": trl_options(**trl), **ours})
        args = build_grpo_config(config, out)
        trainer = Watched(
            saved(out / "model"), args, ToySource(batches), sink, tiny_tokenizer(), config,
            callbacks=[MetricsCallback(out / "metrics.jsonl", 0)],
        )  # fmt: skip
        if case.stale:
            trainer.model.get_input_embeddings().weight.data *= 1.1
            trainer.version = Version(0, 1)
            trainer._plan = lambda batch, plan=trainer._plan: (setattr(trainer, "version", Version(0, 1)), plan(batch))[
                1
            ]
        trainer.train()
    except (AgentworldError, ValueError) as error:
        return {"refused": str(error)}
    log = [{k: v for k, v in row.items() if not k.endswith(CLOCKS)} for row in trainer.state.log_history]
    return {
        "rows": [{name: digest(value) for name, value in sorted(row.items())} for row in seen],
        "weights": {name: digest(value) for name, value in trainer.model.named_parameters()},
        "published": [[(n, raw.dtype, raw.shape) for n, raw in tensors.items()] for _, tensors in sink.published],
        "figures": json.dumps(log, sort_keys=True),
        "files": sorted(file_kind(path.relative_to(out)) for path in out.rglob("*")),
        "random": torch.rand(1).item(),
    }


def saved(folder: Path) -> Any:
    """A model that has a folder, where TRL finds the reference."""
    tiny_model().save_pretrained(folder)
    return load_model(folder)


def digest(value: torch.Tensor) -> str:
    raw = value.detach().float().contiguous().numpy().tobytes()
    return f"{tuple(value.shape)} {hashlib.sha256(raw).hexdigest()[:12]}"


def file_kind(path: Path) -> str:
    """Without the host and time that TensorBoard writes into names."""
    return "events" if "events.out" in path.name or "runs" in path.parts else str(path)


def undisturbed(out: Path, key: str) -> dict[str, Any]:
    case: Case = {**TRL, **ADAPTER, **OURS}[key]
    return what_a_run_does(out, case.given, case.ours, case)


def test_the_walks_leave_nothing_out() -> None:
    assert set(TRL) == HONOURED - SAMPLER, "the sampler's are walked in test_options_of_an_experiment.py"
    assert set(ADAPTER) == LORA
    assert set(OURS) | {"trl"} == set(TrainerConfig.model_fields)


def test_a_run_does_the_same_twice(tmp_path: Path) -> None:
    first, second = (what_a_run_does(tmp_path / name, {}, {}, Case(None)) for name in "ab")
    assert "refused" not in first and first["rows"] and first == second


@pytest.mark.parametrize("key", [*TRL, *ADAPTER])
def test_an_honoured_option_changes_the_run_or_is_refused(key: str, tmp_path: Path) -> None:
    case = {**TRL, **ADAPTER}[key]
    before = undisturbed(tmp_path / "before", key)
    after = what_a_run_does(tmp_path / "after", {**case.given, key: case.to}, case.ours, case)
    assert "refused" not in before, f"the run to compare with is refused: {before}"
    assert after != before


@pytest.mark.parametrize("key", OURS)
def test_an_option_of_ours_changes_the_run_or_is_refused(key: str, tmp_path: Path) -> None:
    case = OURS[key]
    before = undisturbed(tmp_path / "before", key)
    after = what_a_run_does(tmp_path / "after", case.given, {**case.ours, key: case.to}, case)
    assert ("refused" in before) == case.nothing, before
    assert after != before


# ------------------------------------------------------------------------------------------------ what TRL does itself

DEEPSPEED = {"zero_optimization": {"stage": 2}}
OTHER = {
    "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}, "optim": "sgd", "optim_args": "a=1",
    "optim_target_modules": "all-linear", "activation_checkpointing_kwargs": {"use_reentrant": True},
    "gradient_checkpointing_kwargs": {"use_reentrant": True}, "torch_compile_backend": "eager",
    "torch_compile_mode": "reduce-overhead", "liger_kernel_config": {"rope": False}, "neftune_noise_alpha": 5.0,
    "torch_empty_cache_steps": 3, "logging_strategy": "epoch", "log_level": "error", "log_level_replica": "error",
    "run_name": "n", "project": "p", "trackio_space_id": "s", "trackio_bucket_id": "b", "trackio_static_space_id": "t",
    "data_seed": 5, "accelerator_config": {"split_batches": True}, "parallelism_config": None,
    "dataloader_prefetch_factor": 3, "dataloader_multiprocessing_context": "spawn", "ddp_backend": "gloo",
    "ddp_bucket_cap_mb": 30, "deepspeed": DEEPSPEED, "debug": "underflow_overflow",
    "model_init_kwargs": {"dtype": "float32"}, "router_aux_loss_coef": 0.1, "delta": 4.0, "epsilon_high": 0.3,
    "importance_sampling_level": "sequence", "num_completions_to_print": 3, "loss_type": "grpo",
    "tf32": False, "bf16": True,
}  # fmt: skip
NEEDS = {
    "dataloader_prefetch_factor": {"dataloader_num_workers": 2},
    "dataloader_persistent_workers": {"dataloader_num_workers": 2},
    "importance_sampling_level": {"loss_type": "grpo"},
}
_PROMISES = {"parallelism_config"}  # an object, cannot be written in YAML


def forwarded(out: Path, trl: Mapping[str, Any]) -> dict[str, Any]:
    try:
        args = build_grpo_config(TrainerConfig(trl=trl_options(**trl)), out)
    except AgentworldError as error:
        return {"refused": str(error)}
    return {name: repr(value) for name, value in vars(args).items() if not name.startswith("__")}


@pytest.mark.parametrize("key", sorted(FORWARDED - _PROMISES))
def test_a_forwarded_option_reaches_trl_or_is_refused(key: str, tmp_path: Path) -> None:
    if key == "dataloader_pin_memory" and not torch.cuda.is_available():
        pytest.skip("transformers itself turns it off without a GPU")
    given = NEEDS.get(key, {})
    before = forwarded(tmp_path, given)
    assert "refused" not in before
    default = getattr(build_grpo_config(TrainerConfig(trl=trl_options(**given)), tmp_path), key)
    changed = OTHER[key] if key in OTHER else not default if isinstance(default, bool | None) else default + 1
    after = forwarded(tmp_path, {**given, key: changed})
    assert "refused" in after or after[key] != before[key], (changed, before[key])
