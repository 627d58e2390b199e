"""The private seam of the pinned TRL: a new minor version fails here, and here first."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

pytest.importorskip("trl")
import trl
from trl import GRPOConfig, GRPOTrainer, ModelConfig

from trainer.options import FORWARDED, HONOURED, LORA, REFUSED, REFUSED_LORA


def parameters(name: str) -> list[str]:
    return list(inspect.signature(getattr(GRPOTrainer, name)).parameters)


def test_the_minor_version_is_the_one_we_read() -> None:
    assert trl.__version__.split(".")[:2] == ["1", "16"]


def test_every_option_is_in_exactly_one_table() -> None:
    fields = {field.name for field in dataclasses.fields(GRPOConfig)}
    tables = [set(HONOURED), set(FORWARDED), set(REFUSED)]
    assert fields - set().union(*tables) == set()
    assert set().union(*tables) - fields == set()
    assert sum(map(len, tables)) == len(fields)


def test_every_option_of_an_adapter_is_one_of_trls_and_taken_or_refused() -> None:
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    about = {name for name in fields if re.match("lora|use_peft|use_rslora|use_dora|load_in", name)}
    assert about == LORA | set(REFUSED_LORA) and not LORA & set(REFUSED_LORA)
    assert not about & {field.name for field in dataclasses.fields(GRPOConfig)}


def test_only_the_seam_is_overridden() -> None:
    from trainer.grpo import WorldModelGRPOTrainer

    own = {name for name, value in vars(WorldModelGRPOTrainer).items() if callable(value)}
    inherited = {name for name in own if any(name in vars(base) for base in WorldModelGRPOTrainer.__mro__[1:])}
    assert inherited == {"__init__", "_generate_and_score_completions"}


def test_the_overridden_and_called_methods_have_the_signatures_we_use() -> None:
    assert parameters("_generate_and_score_completions") == ["self", "inputs"]
    assert parameters("_get_per_token_logps_and_entropies")[:6] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
    ]
    assert parameters("_compute_loss") == ["self", "model", "inputs"]
    assert parameters("_prepare_inputs") == ["self", "generation_batch"]


def test_the_loss_reads_the_keys_we_return() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    read = set(re.findall(r"inputs(?:\.get\(|\[)\"(\w+)\"", source))
    vision = {name for name in read if re.search("pixel|image|token_type|spatial|tiles", name)}
    assert read - vision == {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "tool_mask",
        "advantages",
        "old_per_token_logps",
        "ref_per_token_logps",
        "sampling_per_token_logps",
        "importance_sampling_ratio",
        "num_items_in_batch",
    }


def test_the_attributes_we_lean_on_exist() -> None:
    source = inspect.getsource(GRPOTrainer)
    for name in (
        "_buffered_inputs",
        "_metrics",
        "_logs",
        "_dist",
        "_tokenizer",
        "_entropy_bonus_enabled",
        "eos_token_ids",
        "mask_truncated_completions",
        "max_completion_length",
        "pad_to_multiple_of",
        "importance_sampling_level",
        "loss_type",
        "ref_model",
        "scale_rewards",
        "temperature",
    ):
        assert f"self.{name}" in source, name


def test_rows_with_a_token_dimension_are_still_supported() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "if advantages.dim() == 1:" in source
    prepare = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in prepare
