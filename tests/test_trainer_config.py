"""The trainer's options: three tables, one-line refusals, shapes that meet on generation boundaries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollout.errors import ConfigError
from trainer.config import SFTConfig, TrainerConfig, build_grpo_config, check_devices, offline_without_key
from trainer.options import FORWARDED, HONOURED, OWNED, REFUSED, SAMPLER, check_trl_options


def build(tmp_path: Path, fixed: dict[str, Any] | None = None, **trl: Any) -> Any:
    return build_grpo_config(
        TrainerConfig(trl={"max_steps": 4, "save_strategy": "no", **trl}), tmp_path, **(fixed or {})
    )


def test_configs_load_without_torch() -> None:
    code = (
        "import sys, trainer.config, trainer.options, trainer.batch, trainer.credit, trainer.weights, trainer.adapters;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'trl', 'ray', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_every_reason_is_said_in_one_line() -> None:
    assert all(reason and "\n" not in reason for reason in REFUSED.values())
    assert not (HONOURED & FORWARDED) and not ((HONOURED | FORWARDED) & set(REFUSED))
    assert set(OWNED) <= set(REFUSED)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("top_p", "temperature only"),
        ("vllm_group_port", "rollout samplers"),
        ("fsdp", "deepspeed"),
        ("reward_weights", "where trajectories are scored"),
        ("learning_rat", "did you mean learning_rate"),
        ("qwerty", "not an option"),
    ],
)
def test_refused_and_unknown_options_name_the_reason(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainerConfig(trl={name: 1})
    assert f"trainer.trl.{name}" in str(caught.value)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        TrainerConfig(max_row_lenght=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="exactly one"):
        SFTConfig(max_steps=3, max_seconds=2.0)
    with pytest.raises(ValidationError, match="exactly one"):
        SFTConfig()


def test_defaults_and_owned_values(tmp_path: Path) -> None:
    args = build(tmp_path, learning_rate=3e-4)
    assert args.learning_rate == 3e-4 and args.logging_steps == 1 and args.max_completion_length == 4096
    assert args.ignore_data_skip and args.save_total_limit is None and not args.shuffle_dataset
    assert Path(args.output_dir).is_absolute() and list(args.report_to) == []
    import torch

    if not torch.cuda.is_available():
        assert args.use_cpu and not args.bf16 and not args.gradient_checkpointing
        assert build(tmp_path, gradient_checkpointing=True).gradient_checkpointing


def test_the_choice_of_a_sampler_never_reaches_trl(tmp_path: Path) -> None:
    plain, served = build(tmp_path), build(tmp_path, use_vllm=True, vllm_server_base_url="http://a", vllm_mode="server")
    assert not served.use_vllm and served.vllm_server_base_url == plain.vllm_server_base_url
    assert SAMPLER <= HONOURED


def test_the_experiment_and_the_map_must_agree(tmp_path: Path) -> None:
    assert build(tmp_path, {"max_steps": 4, "seed": 7}).seed == 7
    with pytest.raises(ConfigError, match="max_steps is 4"):
        build(tmp_path, {"max_steps": 5})
    check_trl_options(["max_steps", "seed", "num_generations", "deepspeed"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_generations": 3}, "divisible by num_generations"),
        ({"max_steps": -1}, "max_steps"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "multiple of"),
        ({"num_iterations": 2, "max_steps": 3}, "max_steps 3 must be"),
        ({"num_iterations": 2, "save_strategy": "steps", "save_steps": 3}, "save_steps 3 must be"),
        ({"loss_type": ["dapo"], "lr_scheduler_type": "zigzag"}, "zigzag"),
    ],
)
def test_shapes_that_do_not_meet_are_refused_at_start_up(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_credit_and_correction_that_the_loss_cannot_take_are_refused_at_start_up(tmp_path: Path) -> None:
    def build_with(**options: Any) -> Any:
        trl = {"max_steps": 4, "save_strategy": "no", **options.pop("trl")}
        return build_grpo_config(TrainerConfig(trl=trl, **options), tmp_path)

    with pytest.raises(ConfigError, match=r"trainer\.credit .*importance_sampling_level sequence"):
        build_with(credit="step", trl={"importance_sampling_level": "sequence", "loss_type": "grpo"})
    with pytest.raises(ConfigError, match=r"trainer\.correction sequence_mask does not work with trl\.loss_type vespo"):
        build_with(correction="sequence_mask", trl={"loss_type": "vespo"})
    with pytest.raises(ConfigError, match=r"trainer\.trl\.sync_ref_model needs full weights"):
        build_with(trl={"use_peft": True, "beta": 0.1, "sync_ref_model": True})
    assert build_with(credit="step", trl={"use_peft": True, "lora_r": 4}).loss_type == "dapo"


def test_several_gpus_for_one_process_are_refused(tmp_path: Path) -> None:
    args = build(tmp_path)
    assert args.n_gpu < 2
    args._n_gpu = 4
    with pytest.raises(ConfigError, match=r"sees 4 GPUs .* processes: 4"):
        check_devices(args)


def test_wandb_is_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    offline_without_key("none")
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setenv("WANDB_API_KEY", "k")
    offline_without_key(["wandb"])
    assert "WANDB_MODE" not in os.environ
    monkeypatch.delenv("WANDB_API_KEY")
    offline_without_key(["wandb"])
    assert os.environ.pop("WANDB_MODE") == "offline"
