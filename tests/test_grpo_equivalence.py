"""The override computes what TRL's own path computes: same batch dict, same loss, same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer_toys import ToySink, ToySource, make_trainer, random_batch, tiny_model, tiny_tokenizer, trl_options

from rollout.types import Batch, Version
from trainer.batch import segments

torch = pytest.importorskip("torch")
STEPS = 10


class Recorder:
    """Mixed into both trainers: batch dicts, losses and gradients before clipping, one entry per micro-batch."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        data = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.dicts = [*getattr(self, "dicts", []), {name: value.clone() for name, value in data.items()}]
        return data

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        gradients = {n: p.grad.detach().clone() for n, p in self.model.named_parameters()}  # type: ignore[attr-defined]
        self.steps = [*getattr(self, "steps", []), (loss.item(), gradients)]
        return loss

    def log(self, logs: Any, *args: Any) -> Any:
        self.names = set(self._metrics["train"])  # type: ignore[attr-defined]
        return super().log(logs, *args)  # type: ignore[misc]


def ours(out: Path, batches: dict[int, Batch], **options: Any) -> Any:
    from trainer.grpo import WorldModelGRPOTrainer

    made = type("Ours", (Recorder, WorldModelGRPOTrainer), {})
    trainer = make_trainer(out, ToySource(batches), ToySink(), cls=made, **options)
    trainer.train()
    return trainer


def stock(out: Path, batches: dict[int, Batch], model: Any = None, **trl: Any) -> Any:
    """TRL's GRPOTrainer, fed the same trajectories through its own ``rollout_func``."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    queue = [batches[step] for step in sorted(batches)]

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        members = [m for group in queue.pop(0).groups for m in group.members]
        assert len(prompts) == len(members)
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

    options = trl_options(**trl)
    args = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
        activation_checkpointing=False,
        max_completion_length=64,
        shuffle_dataset=False,
        report_to="none",
        **options,
    )
    made = type("Stock", (Recorder, GRPOTrainer), {})
    trainer = made(
        model=model or tiny_model(),
        reward_funcs=[score],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["w1"] * 2 * options["max_steps"]}),
        processing_class=tiny_tokenizer(),
        rollout_func=rollout,
    )
    trainer.train()
    return trainer


def relative(a: Any, b: Any) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def assert_same(left: Any, right: Any, steps: int) -> None:
    assert len(left.steps) == len(right.steps) == steps
    seen = 0.0
    for (loss, gradients), (expected, reference) in zip(left.steps, right.steps, strict=True):
        # terms of size 1 cancel inside a group, to exactly 0 for some losses: hence the absolute part
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
        whole = torch.cat([g.flatten() for g in reference.values()])
        mine = torch.cat([gradients[name].flatten() for name in reference])
        assert relative(mine, whole) <= 1e-5
        for name, gradient in reference.items():
            assert torch.allclose(gradients[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))
        seen += float(whole.norm())
    assert seen > 1e-3  # the comparison is not between zeros
    for (name, a), (_, b) in zip(left.model.named_parameters(), right.model.named_parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name


def recorded(steps: int) -> dict[int, Batch]:
    return {step: random_batch(step, version=Version(0, step)) for step in range(steps)}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


SLOW = pytest.mark.slow


@pytest.mark.parametrize("max_grad_norm", [pytest.param(0.0, marks=SLOW), 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_loss_and_gradients_equal_trls_own_path(
    tmp_path: Path, loss_type: str, level: str, max_grad_norm: float
) -> None:
    options = {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "max_grad_norm": max_grad_norm,
        "max_steps": STEPS,
    }
    batches = recorded(STEPS)
    left, right = ours(tmp_path / "a", batches, **options), stock(tmp_path / "b", batches, **options)
    assert_same(left, right, STEPS)
    for mine, reference in zip(left.dicts, right.dicts, strict=True):
        assert mine.keys() == reference.keys()
        for name, value in reference.items():
            assert mine[name].shape == value.shape and mine[name].dtype == value.dtype, name
            assert torch.allclose(mine[name].double(), value.double(), rtol=1e-5, atol=1e-6), name
    theirs = {name for name in right.names if not name.startswith("rewards/")}
    assert theirs <= left.names


@pytest.mark.parametrize("epsilon", [1e-4, 10.0], ids=["ppo-clip", "no-ppo-clip"])
@pytest.mark.parametrize(
    ("loss_type", "scale", "accumulate"),
    [("grpo", "none", 1), pytest.param("dapo", "batch", 1, marks=SLOW), ("dr_grpo", "group", 2)],
)
def test_several_steps_per_batch_equal_trls_own_path(
    tmp_path: Path, loss_type: str, scale: str, accumulate: int, epsilon: float
) -> None:
    """Two passes over each batch, in micro-batches: the ratio leaves 1, so the clip works on something."""
    options = {
        "loss_type": loss_type,
        "scale_rewards": scale,
        "epsilon": epsilon,
        "num_iterations": 2,
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": accumulate,
        "max_steps": 8 // accumulate,
        "beta": 0.0,
    }
    period = 4 // accumulate
    batches = {step: random_batch(step, version=Version(0, step)) for step in range(0, 8 // accumulate, period)}
    left, right = ours(tmp_path / "a", batches, **options), stock(tmp_path / "b", batches, **options)
    assert_same(left, right, 8)
    clipped = [entry["clip_ratio/region_mean"] for entry in left.state.log_history if "loss" in entry]
    assert (max(clipped) > 0) == (epsilon < 1)
    assert left.source.settled == sorted(batches)


def test_truncated_completions_are_masked_as_trl_masks_them(tmp_path: Path) -> None:
    options = {"loss_type": "grpo", "mask_truncated_completions": True, "max_steps": 2}
    batches = recorded(2)
    left, right = ours(tmp_path / "a", batches, **options), stock(tmp_path / "b", batches, **options)
    assert_same(left, right, 2)
    assert left.dicts[0]["completion_mask"].sum(1).min() == 0


def test_reference_logprobs_equal_trls_own_path(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny_model().save_pretrained(tmp_path / "model")

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)

    options = {"loss_type": "dapo", "beta": 0.1, "max_steps": 3}
    batches = recorded(3)
    left = ours(tmp_path / "a", batches, model=load(), **options)
    right = stock(tmp_path / "b", batches, model=load(), **options)
    assert_same(left, right, 3)
    assert left.dicts[0].keys() == right.dicts[0].keys() and "ref_per_token_logps" in left.dicts[0]
