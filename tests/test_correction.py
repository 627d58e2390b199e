"""The bar of off-policy correction: weighted advantages give what TRL's own importance-sampling path gives.

TRL's path runs for real: its rollout function, its recomputed logprobs, its ratio, clipping and masking, and its loss.
Only the flag that says "vLLM" is set by hand, and the engine behind it does nothing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trainer_toys import ToySource, make_trainer, random_batch, tiny_model, tiny_tokenizer, trl_options

from rollout.errors import AgentworldError, ConfigError
from rollout.types import Batch, Version
from trainer.batch import segments
from trainer.config import TrainerConfig
from trainer.credit import Credit

torch = pytest.importorskip("torch")
LOSSES = ["grpo", "dapo", "dr_grpo", "bnpo", "sapo", "luspo", "cispo", "vespo"]
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
OLD, NOW = Version(0, 0), Version(0, 3)
BAR = 1e-6


def sampled_elsewhere(seed: int) -> Batch:
    """Stale tokens whose logprobs lie on both sides of the trainer's (about -3.7)."""
    rng = random.Random(seed)

    def drawn(member: Any) -> Any:
        turns = [
            replace(
                turn,
                completion=replace(
                    turn.completion, logprobs=tuple(-rng.uniform(2.0, 5.5) for _ in turn.completion.ids)
                ),
                observation=replace(turn.observation, anchor=rng.choice("ab")),
            )
            for turn in member.turns
        ]
        return replace(member, turns=tuple(turns))

    batch = random_batch(0, seed=seed, version=OLD)
    groups = tuple(replace(g, members=tuple(drawn(m) for m in g.members)) for g in batch.groups)
    return replace(batch, groups=groups)


def ask() -> list[dict[str, str]]:
    return [{"prompt": "w1"} for _ in range(8)]  # TRL writes into them


@dataclass
class Pair:
    """Our trainer and TRL's over equal weights, and the batch both are fed."""

    ours: Any
    theirs: Any
    feed: Any

    def gradients(self, trainer: Any, data: dict[str, Any]) -> tuple[float, Any]:
        """Loss and flat gradient after the weights have moved on, so that ratios are not 1."""
        model = trainer.model
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.zero_grad()
        loss = trainer._compute_loss(model, data)
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.load_state_dict(before, strict=False)
        return loss.item(), flat


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both with a frozen reference, used where a test sets ``beta``."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    out = tmp_path_factory.mktemp("pair")
    tiny_model().save_pretrained(out / "model")

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)

    feed = SimpleNamespace(batch=None)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        members = [m for group in feed.batch.groups for m in group.members]
        rows = [segments(m)[0] for m in members]
        return {
            "prompt_ids": [list(row.prompt_ids) for row in rows],
            "completion_ids": [list(row.completion_ids) for row in rows],
            "logprobs": [list(row.logprobs or ()) for row in rows],
            "env_mask": [list(row.mask) for row in rows],
            "score": [m.score.reward for m in members],
        }

    def score(score: list[float], **_: Any) -> list[float]:
        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        common = {"output_dir": str(out), "use_cpu": True, "report_to": "none", "activation_checkpointing": False}
        args = GRPOConfig(**common, max_completion_length=64, shuffle_dataset=False, **trl_options(beta=0.1))
        data = Dataset.from_dict({"prompt": ["w1"] * 2})
        theirs = GRPOTrainer(load(), [score], args, data, processing_class=tiny_tokenizer(), rollout_func=rollout)
    theirs.use_vllm, theirs.vllm_generation = True, SimpleNamespace(sync_weights=lambda: None)
    theirs._last_loaded_step = -1
    ours = make_trainer(out / "ours", ToySource({}), model=load(), beta=0.1)
    for trainer in (ours, theirs):
        trainer.model.train()
        trainer.beta, trainer.current_gradient_accumulation_steps = 0.0, 1
    ours.version = NOW
    yield Pair(ours, theirs, feed)


def both(pair: Pair, batch: Batch, mode: str, cap: Any, **attributes: Any) -> tuple[Any, Any]:
    """(our data, TRL's data) with one correction mode and trainer attributes such as ``loss_type``."""
    pair.feed.batch = batch
    pair.ours.source = ToySource({0: batch})
    pair.ours.settings = TrainerConfig(correction=mode, weight_cap=cap, max_row_length=64)
    low, high = cap if isinstance(cap, tuple) else (None, cap)
    pair.theirs.vllm_importance_sampling_mode = mode
    pair.theirs.vllm_importance_sampling_clip_min, pair.theirs.vllm_importance_sampling_clip_max = low, high
    for trainer in (pair.ours, pair.theirs):
        for name, value in attributes.items():
            setattr(trainer, name, value)
    left, right = (trainer._generate_and_score_completions(ask()) for trainer in (pair.ours, pair.theirs))
    return left, right


def assert_equal(pair: Pair, ours: Any, theirs: Any) -> None:
    loss, gradient = pair.gradients(pair.ours, ours)
    expected, reference = pair.gradients(pair.theirs, theirs)
    size = float(reference.abs().max())
    assert size > 1e-4
    assert float((gradient - reference).abs().max()) <= BAR * size
    assert loss == pytest.approx(expected, rel=BAR, abs=BAR)


@pytest.fixture(autouse=True)
def plain(pair: Pair) -> Iterator[None]:
    yield
    for trainer in (pair.ours, pair.theirs):
        trainer.beta, trainer.off_policy_mask_threshold, trainer.importance_sampling_level = 0.0, None, "token"
        trainer.loss_type, trainer.num_iterations = "dapo", 1
    pair.ours.credit = Credit()


GRID = [
    (loss_type, mode)
    for loss_type, mode in itertools.product(LOSSES, MODES)
    if not (loss_type == "vespo" and mode.startswith("sequence"))  # refused, by TRL too
]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("loss_type", "mode"), GRID)
def test_weighted_advantages_equal_trls_importance_sampling_path(
    pair: Pair, loss_type: str, mode: str, level: str
) -> None:
    bit = False
    wide = 3 if loss_type == "vespo" else 1  # it multiplies tokens: one masked token silences its sequence
    for seed, cap in [(0, 2.0 * wide), (1, 1.2 * wide), (2, (0.5 / wide**3, 2.0 * wide))]:
        ours, theirs = both(
            pair, sampled_elsewhere(seed), mode, cap, loss_type=loss_type, importance_sampling_level=level
        )
        ratio, mask = theirs["importance_sampling_ratio"], ours["completion_mask"] * ours["tool_mask"]
        raw = (theirs["old_per_token_logps"] - theirs["sampling_per_token_logps"]) * mask
        raw = torch.exp(raw.sum(1, keepdim=True) if mode.startswith("sequence") else raw)
        bit |= bool((ratio != raw).any() and (ratio != 0).any())
        assert_equal(pair, ours, theirs)
    assert bit  # the cap changed something and left something


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", [{"beta": 0.1}, {"off_policy_mask_threshold": 0.05}], ids=["kl", "off-policy mask"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "sapo", "cispo"])
def test_it_also_does_beside_kl_and_the_off_policy_mask(
    pair: Pair, loss_type: str, extra: dict[str, float], mode: str
) -> None:
    ours, theirs = both(pair, sampled_elsewhere(3), mode, 2.0, loss_type=loss_type, **extra)
    assert_equal(pair, ours, theirs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "vespo"])
def test_it_also_does_for_advantages_per_token(pair: Pair, loss_type: str, mode: str) -> None:
    """TRL's ratio on (B, T) advantages of GiGPO, against ours inside them: the factors multiply."""
    batch = sampled_elsewhere(4)
    pair.ours.credit = Credit(step=1.0, discount=0.9)
    ours, theirs = both(pair, batch, mode, 2.0, loss_type=loss_type)
    pair.ours.version = OLD
    fresh, _ = both(pair, batch, mode, 2.0)
    pair.ours.version = NOW
    assert fresh["advantages"].ndim == 2 and "old_per_token_logps" not in fresh
    assert_equal(pair, ours, {**theirs, "advantages": fresh["advantages"]})


@pytest.mark.parametrize("mode", MODES)
def test_figures_are_trls(pair: Pair, mode: str) -> None:
    for trainer in (pair.ours, pair.theirs):
        trainer._metrics["train"].clear()
    both(pair, sampled_elsewhere(5), mode, 2.0)
    names = [name for name in pair.theirs._metrics["train"] if name.startswith("sampling/")]
    assert len(names) == 5
    for name in names:
        expected = pair.theirs._metrics["train"][name]
        assert pair.ours._metrics["train"][name] == pytest.approx(expected, rel=1e-5), name


def test_coupled_puts_behaviour_into_the_losss_own_ratio(pair: Pair) -> None:
    pair.ours.settings = TrainerConfig(correction="coupled", max_row_length=64)
    pair.ours.source = ToySource({0: sampled_elsewhere(6)})
    data = pair.ours._generate_and_score_completions(ask())
    assert torch.equal(data["old_per_token_logps"], data["sampling_per_token_logps"])
    assert data["advantages"].ndim == 1 and "importance_sampling_ratio" not in data


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("mode", ["sequence_truncate", "sequence_mask"])
def test_vespo_takes_weights_of_tokens_only(tmp_path: Path, mode: str) -> None:
    with pytest.raises(
        ConfigError, match=f"trainer.correction {mode} does not work with trl.loss_type vespo"
    ) as caught:
        make_trainer(tmp_path, None, settings={"correction": mode}, loss_type="vespo")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cap", [0.0, -1.0, (2.0, 1.0), (-0.1, 2.0), (1.0, 1.0)])
def test_caps_that_leave_nothing_are_refused(cap: Any) -> None:
    with pytest.raises(ValueError, match="highest weight must be above"):
        TrainerConfig(weight_cap=cap)


def test_decoupled_is_truncation_per_token() -> None:
    plain, named = TrainerConfig(), TrainerConfig(correction="token_truncate")
    assert plain.weighting == named.weighting and plain.weighting is not None
    assert TrainerConfig(correction="coupled").weighting is None
    masked = TrainerConfig(correction="sequence_mask", weight_cap=[0.5, 2.0]).weighting
    assert masked is not None and (masked.sequence, masked.mask, masked.low, masked.high) == (True, True, 0.5, 2.0)


def test_always_correcting_needs_the_samplers_logprobs(tmp_path: Path) -> None:
    made = random_batch(0, version=OLD, logprob=None)
    trainer = make_trainer(tmp_path, ToySource({0: made}), settings={"correct_when": "always"})
    trainer.model.train()
    with pytest.raises(AgentworldError, match="correct_when is always but the sampler's logprobs are missing"):
        trainer._generate_and_score_completions(ask())
