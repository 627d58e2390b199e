"""SFT on token rows, policy RL end to end on the CPU, and the faults that must stop it on every rank."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_toys import (
    EOS,
    PAD,
    VOCAB,
    ToySink,
    ToySource,
    make_trainer,
    random_batch,
    tiny_model,
    tiny_tokenizer,
    trl_options,
)

from rollout.errors import AgentworldError, ConfigError
from rollout.types import Batch, Failure, Version
from trainer.config import SFTConfig, TrainerConfig
from trainer.weights import to_torch

torch = pytest.importorskip("torch")
from trainer.grpo import RolloutFailed  # noqa: E402
from trainer.sft import Clock, collate, labelled_loss_forward, learning_rate_factor, token_batches  # noqa: E402
from trainer.stages import load_model, policy_rl, sft  # noqa: E402

# ---------------------------------------------------------------- supervised


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=80),
    budget=st.integers(1, 400),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    batches = list(token_batches(lengths, budget, np.random.default_rng(seed)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch and (len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget)


def test_batches_waste_little_and_differ_by_pass() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 500, size=2000).tolist()
    first = list(token_batches(lengths, 4096, np.random.default_rng(1)))
    second = list(token_batches(lengths, 4096, np.random.default_rng(2)))
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in first)
    assert sum(lengths) / padded > 0.93
    assert first != second and {len(batch) for batch in first} != {1}


def rows(count: int = 60, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Copy a token after a separator: learnable in a few steps; only the copies are labelled."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        word = [int(v) for v in rng.integers(0, VOCAB - 4, size=int(rng.integers(1, 4)))]
        out.append(([*word, VOCAB - 3, *word, EOS], [0] * (len(word) + 1) + [1] * (len(word) + 1)))
    return out


def test_labelled_positions_alone_give_the_models_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    batch = collate(rows(), range(6), PAD)
    expected = model(**batch).loss
    got = labelled_loss_forward(model, **batch).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    gradient = torch.autograd.grad(expected, model.get_input_embeddings().weight)[0]
    assert torch.allclose(torch.autograd.grad(got, model.get_input_embeddings().weight)[0], gradient, atol=1e-6)
    monkeypatch.setattr("trainer.sft.CHUNK_ELEMENTS", VOCAB * 3)  # several chunks, recomputed in the backward pass
    chunked = labelled_loss_forward(model, **batch).loss
    assert chunked.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(chunked, model.get_input_embeddings().weight)[0], gradient, atol=1e-6)


def test_schedules() -> None:
    config = SFTConfig(max_steps=100, warmup=0.1, schedule="cosine")
    values = [learning_rate_factor(config, p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert values == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0], abs=1e-6)
    linear = SFTConfig(max_steps=100, warmup=0.0, schedule="linear")
    assert learning_rate_factor(linear, 0.25) == pytest.approx(0.75)
    assert learning_rate_factor(SFTConfig(max_steps=1, schedule="constant"), 0.9) == 1.0
    clock = Clock(10, 100.0)
    clock.began -= 50
    assert clock(0) == pytest.approx(0.5, abs=0.01) and Clock(10, None)(5) == 0.5


@pytest.mark.parametrize("bf16", [False, True])
def test_sft_learns_only_what_is_labelled_and_saves_a_model(tmp_path: Path, bf16: bool) -> None:
    config = SFTConfig(max_steps=60, learning_rate=1e-2, tokens_per_batch=200, bf16=bf16, log_every=10)
    model = tiny_model()
    result = sft(model, tiny_tokenizer(), rows(), tmp_path / "m", config)
    log = [json.loads(line) for line in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()]
    assert result.steps == 60 and result.loss < 0.7 * log[0]["loss"]
    loaded = load_model(tmp_path / "m")
    batch = collate(rows(), range(4), PAD)
    assert loaded(**batch).loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-3)
    assert "forward" not in model.__dict__
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "m").eos_token_id == EOS


def test_sft_is_a_function_of_its_seed(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> float:
        config = SFTConfig(max_steps=5, tokens_per_batch=64, bf16=False, seed=seed)
        model = tiny_model()
        sft(model, tiny_tokenizer(), rows(), tmp_path / name, config)
        return float(sum(p.detach().double().sum() for p in model.parameters()))

    assert run("a", 0) == run("b", 0) != run("c", 1)


def test_sft_stops_by_the_clock_with_the_rate_at_zero(tmp_path: Path) -> None:
    config = SFTConfig(max_seconds=1.0, tokens_per_batch=64, bf16=False, log_every=1)
    result = sft(tiny_model(), tiny_tokenizer(), rows(), tmp_path, config)
    assert 0.9 < result.seconds < 8 and result.steps > 1
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "no rows"),
        ([([1, 2, 3], [0, 1])], "row 0: 3 ids"),
        ([([1, 2], [1, 0])], "no labelled"),
        ([([1] * 99, [1] * 99)], "99 tokens"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(tmp_path: Path, bad: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sft(tiny_model(), tiny_tokenizer(), bad, tmp_path / "m", SFTConfig(max_steps=1, max_length=50))
    assert not (tmp_path / "m").exists()


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path / "empty")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- policy RL


def batches(steps: int, **kwargs: Any) -> dict[int, Batch | Failure | None]:
    return {step: random_batch(step, version=Version(0, step), **kwargs) for step in range(steps)}


def run_rl(out: Path, source: ToySource, sink: ToySink, **kwargs: Any) -> Path:
    config = TrainerConfig(max_row_length=64, trl=trl_options(**kwargs.pop("trl", {})))
    return policy_rl(tiny_model(), tiny_tokenizer(), out, config, source, sink, **kwargs)


def test_policy_rl_end_to_end(tmp_path: Path) -> None:
    source, sink = ToySource(batches(3, unscored=1)), ToySink()
    options = {"max_steps": 3, "log_completions": True, "learning_rate": 1e-2}
    final = run_rl(tmp_path, source, sink, attempt=0, trl=options)
    assert source.taken == source.settled == [0, 1, 2]
    assert [version for version, _ in sink.published] == [Version(0, s) for s in range(4)]
    written = [json.loads(line) for line in (tmp_path / "versions.jsonl").read_text().splitlines()]
    assert written == [{"attempt": 0, "step": s} for s in range(4)]
    first, last = (to_torch(sink.published[i][1]["model.norm.weight"]) for i in (0, -1))
    loaded = load_model(final)
    assert not torch.equal(first, last) and torch.equal(last, loaded.model.norm.weight)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "reward" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert steps[0]["batch/padding_rows"] == 2 and steps[0]["rollout/toy"] == 1 and steps[0]["rollout/unscorable"] == 2
    assert all(math.isfinite(entry[name]) for entry in steps for name in ("loss", "grad_norm", "entropy"))
    assert list((tmp_path / "completions").glob("*.parquet"))


def test_resuming_repeats_the_uninterrupted_run(tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = run_rl(tmp_path / "a", ToySource(batches(4)), ToySink(), trl=options)
    again = {step: random_batch(step, version=Version(1, step)) for step in (2, 3)}
    source, sink = ToySource(again), ToySink()
    checkpoint = tmp_path / "a" / "checkpoint-2"
    resumed = run_rl(tmp_path / "b", source, sink, attempt=1, resume_from=checkpoint, trl=options)
    assert source.taken == [2, 3] and [v for v, _ in sink.published] == [Version(1, s) for s in (2, 3, 4)]
    left, right = load_model(whole).state_dict(), load_model(resumed).state_dict()
    assert all(torch.allclose(left[name], right[name], rtol=1e-5, atol=1e-7) for name in left)


def test_a_wrong_number_of_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 processes came up, 2 were asked for"):
        run_rl(tmp_path, ToySource({}), ToySink(), world_size=2)


class Crashing(ToySource):
    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        raise OSError("pipe closed")


class BadSink(ToySink):
    def publish(self, version: Version, tensors: Any) -> Version:
        next(iter(tensors))
        raise ConnectionError("sampler 3 is gone")


@pytest.mark.parametrize(
    ("source", "sink", "words"),
    [
        (ToySource({0: Failure("rollout", "fault budget spent")}), ToySink(), "rollout: fault budget spent"),
        (Crashing({}), ToySink(), "OSError: pipe closed"),
        (ToySource({0: None}), ToySink(), "no batch for step 0 within"),
        (ToySource(batches(1)), BadSink(), "sampler 3 is gone"),
        (ToySource(batches(1)), ToySink(answer=Version(0, 9)), "samplers confirmed"),
    ],
    ids=["failure", "crash", "deadline", "publish", "wrong version"],
)
def test_faults_of_the_rollout_side_end_the_run(tmp_path: Path, source: Any, sink: Any, words: str) -> None:
    trainer = make_trainer(tmp_path, source, sink, settings={"take_deadline": 0.3})
    with pytest.raises(RolloutFailed, match=words):
        trainer.train()


def stale_trainer(tmp_path: Path, made: Batch, **settings: Any) -> Any:
    trainer = make_trainer(tmp_path, ToySource({0: made}), settings=settings)
    trainer.model.train()
    trainer.version = Version(0, 5)
    return trainer


def test_stale_tokens_are_corrected_decoupled_or_coupled(tmp_path: Path) -> None:
    made = random_batch(0, version=Version(0, 3), logprob=-9.0)
    ask = [{"prompt": ""}] * 8
    decoupled = stale_trainer(tmp_path / "a", made, weight_cap=1.5)._generate_and_score_completions(ask)
    mask = (decoupled["completion_mask"] * decoupled["tool_mask"]).bool()
    weight = torch.exp(decoupled["old_per_token_logps"] - decoupled["sampling_per_token_logps"])[mask]
    assert decoupled["advantages"].shape == mask.shape and weight.max() > 1.5  # the cap bites
    coupled = stale_trainer(tmp_path / "b", made, correction="coupled")._generate_and_score_completions(ask)
    assert torch.equal(coupled["old_per_token_logps"], coupled["sampling_per_token_logps"])
    ratio = decoupled["advantages"] / coupled["advantages"].unsqueeze(1)
    assert torch.allclose(ratio[mask], weight.clamp(max=1.5), rtol=1e-4)
    fresh = random_batch(0, version=Version(0, 5))
    assert "old_per_token_logps" not in stale_trainer(tmp_path / "c", fresh)._generate_and_score_completions(ask)
    always = stale_trainer(tmp_path / "d", fresh, correct_when="always")
    assert "old_per_token_logps" in always._generate_and_score_completions(ask)
    assert "sampling/importance_sampling_ratio/mean" in always._metrics["train"]


def test_missing_logprobs_are_an_error_once_tokens_are_stale(tmp_path: Path) -> None:
    ask = [{"prompt": ""}] * 8
    fresh = stale_trainer(tmp_path / "a", random_batch(0, version=Version(0, 5), logprob=None))
    assert "sampling_per_token_logps" not in fresh._generate_and_score_completions(ask)
    stale = stale_trainer(tmp_path / "b", random_batch(0, version=Version(0, 4), logprob=None))
    with pytest.raises(AgentworldError, match="logprobs are missing"):
        stale._generate_and_score_completions(ask)
