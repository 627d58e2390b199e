"""Rows, boundary checks, advantages, padding rows and the tokens that are trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trainer_probe import Probe
from trainer_toys import EOS, PAD, VOCAB, random_batch, random_turns, trajectory

from rollout.types import Batch, Group, Score, Trajectory, Version
from trainer.batch import (
    BatchRefused,
    Limits,
    Row,
    ages,
    check_row,
    columns,
    group_advantages,
    plan_batch,
    segments,
)

torch = pytest.importorskip("torch")
NOW = Version(0, 0)
LIMITS = Limits(rows=8, group_size=4, max_row_length=64, max_completion_length=64, temperature=1.0, vocab_size=VOCAB)
EXAMPLE = [([1, 2, 3], [7, 8]), ([4, 5], [9])]


def group(*members: Trajectory, name: str = "g0") -> Group:
    return Group(name, "toy", tuple(replace(t, group=name, member=i) for i, t in enumerate(members)))


def batch(*groups: Group) -> Batch:
    return Batch(0, groups, NOW)


# ---------------------------------------------------------------- rows


def test_a_trajectory_becomes_prompt_completion_and_mask() -> None:
    (row,) = segments(trajectory(EXAMPLE, 1.0))
    assert row.prompt_ids == (1, 2, 3)
    assert row.completion_ids == (7, 8, 4, 5, 9)
    assert row.mask == (1, 1, 0, 0, 1)
    assert row.logprobs == (-1.0, -1.0, 0.0, 0.0, -1.0)
    assert row.versions == (NOW, NOW, None, None, NOW)


turns_strategy = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@given(turns=turns_strategy)
@settings(max_examples=60, deadline=None)
def test_every_trained_token_is_a_sampled_one(turns: list[tuple[list[int], list[int]]]) -> None:
    (row,) = segments(trajectory(turns, 1.0))
    check_row(row, LIMITS, NOW, 0)
    sampled = [token for _, ids in turns for token in ids]
    assert [t for t, flag in zip(row.completion_ids, row.mask, strict=True) if flag] == sampled
    whole = [token for context, ids in turns for token in (*context, *ids)]
    assert [*row.prompt_ids, *row.completion_ids] == whole


GOOD = segments(trajectory(EXAMPLE, 1.0))[0]
FAULTS: dict[str, tuple[Row, str]] = {
    "mask one off to the right": (replace(GOOD, mask=(0, 1, 1, 0, 1)), "token 0"),
    "mask one off to the left": (replace(GOOD, mask=(1, 0, 0, 1, 1)), "token 1"),
    "mask ends on an observation": (replace(GOOD, mask=(1, 1, 0, 1, 0)), "sampled token"),
    "mask value": (replace(GOOD, mask=(1, 1, 0, 2, 1)), "outside"),
    "short mask": (replace(GOOD, mask=(1, 1, 0, 1)), "lengths differ"),
    "missing logprob": (replace(GOOD, logprobs=(-1.0, -1.0, 0.0, 0.0)), "lengths differ"),
    "nan logprob": (replace(GOOD, logprobs=(-1.0, math.nan, 0.0, 0.0, -1.0)), "not finite"),
    "positive logprob": (replace(GOOD, logprobs=(-1.0, 0.5, 0.0, 0.0, -1.0)), "above 0"),
    "missing version": (replace(GOOD, versions=(NOW, None, None, None, NOW)), "token 1"),
    "version from the future": (replace(GOOD, versions=(NOW, Version(0, 3), None, None, NOW)), "lineage"),
    "empty completion": (replace(GOOD, completion_ids=(), mask=(), logprobs=(), versions=()), "empty completion"),
    "empty prompt": (replace(GOOD, prompt_ids=()), "empty prompt"),
    "row too long": (replace(GOOD, prompt_ids=(1,) * 64), "max_row_length"),
    "unknown token": (replace(GOOD, prompt_ids=(VOCAB,)), "vocabulary"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refused(name: str) -> None:
    row, words = FAULTS[name]
    check_row(GOOD, LIMITS, NOW, 0)
    with pytest.raises(BatchRefused, match=words):
        check_row(row, LIMITS, NOW, 0)


def test_versions_after_the_checkpoint_a_run_resumed_from_are_void() -> None:
    def row(version: Version) -> Row:
        return segments(trajectory(EXAMPLE, 1.0, version=version))[0]

    now = Version(1, 12)
    for good in (Version(0, 10), Version(0, 4), Version(1, 11)):
        check_row(row(good), LIMITS, now, 10)
    with pytest.raises(BatchRefused, match="lineage"):
        check_row(row(Version(0, 11)), LIMITS, now, 10)
    assert ages([row(Version(0, 10))], now).max() == 2


def broken(reward: float | None, **turn: Any) -> Trajectory:
    good = trajectory(EXAMPLE, reward)
    completion = replace(good.turns[0].completion, **turn)
    return replace(good, turns=(replace(good.turns[0], completion=completion), *good.turns[1:]))


BAD_BATCHES: dict[str, tuple[Callable[[], Batch], str]] = {
    "empty completion": (lambda: batch(group(broken(1.0, ids=(), logprobs=(), versions=()))), "empty completion"),
    "lost version": (lambda: batch(group(broken(1.0, versions=(NOW,)))), "1 versions"),
    "no turn": (lambda: batch(group(replace(trajectory(EXAMPLE, 1.0), turns=()))), "no turn"),
    "too many members": (lambda: batch(group(*[trajectory(EXAMPLE, 1.0)] * 5)), "num_generations"),
    "too many groups": (
        lambda: batch(*[group(trajectory(EXAMPLE, 1.0), name=f"g{i}") for i in range(3)]),
        "do not fit",
    ),
    "group twice": (lambda: batch(group(trajectory(EXAMPLE, 1.0)), group(trajectory(EXAMPLE, 0.0))), "twice"),
    "foreign member": (lambda: batch(Group("g9", "toy", (trajectory(EXAMPLE, 1.0),))), "another group"),
    "nan reward": (lambda: batch(group(trajectory(EXAMPLE, math.nan))), "unscorable is None"),
    "other temperature": (lambda: batch(group(trajectory(EXAMPLE, 1.0, temperature=0.7))), "temperature"),
    "nothing scorable": (lambda: batch(group(trajectory(EXAMPLE, None))), "no scorable"),
    "no group": (lambda: batch(), "0 groups"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_is_refused_in_one_line(name: str) -> None:
    make, words = BAD_BATCHES[name]
    with pytest.raises(BatchRefused, match=words) as caught:
        plan_batch(make(), LIMITS, NOW)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- advantages

NAN = math.nan


def test_advantages_by_hand() -> None:
    rewards = np.asarray([[1.0, 0.0, 1.0, NAN], [5.0, NAN, NAN, NAN], [2.0, 2.0, 2.0, 2.0]])
    value, flat = group_advantages(rewards, "group")
    std = math.sqrt(1 / 3)
    assert value[0] == pytest.approx([(1 / 3) / (std + 1e-4), (-2 / 3) / (std + 1e-4), (1 / 3) / (std + 1e-4), 0])
    assert value[1].tolist() == [0, 0, 0, 0] and value[2].tolist() == [0, 0, 0, 0]
    assert flat.tolist() == [[False] * 4, [False] * 4, [True] * 4]
    plain, _ = group_advantages(rewards, "none")
    assert plain[0] == pytest.approx([1 / 3, -2 / 3, 1 / 3, 0])
    known = np.asarray([1.0, 0, 1, 5, 2, 2, 2, 2])
    wide, _ = group_advantages(rewards, "batch")
    assert wide[0] == pytest.approx(np.asarray([1 / 3, -2 / 3, 1 / 3, 0]) / (known.std(ddof=1) + 1e-4), rel=1e-5)


@given(
    values=st.lists(st.one_of(st.none(), st.floats(-5, 5, width=32)), min_size=4, max_size=4),
    scale=st.sampled_from(["group", "batch", "none"]),
)
@settings(max_examples=80, deadline=None)
def test_unscorable_members_touch_neither_baseline_nor_policy(values: list[float | None], scale: Any) -> None:
    rewards = np.asarray([[NAN if v is None else v for v in values]])
    advantage, _ = group_advantages(rewards, scale)
    known = ~np.isnan(rewards[0])
    assert np.isfinite(advantage).all() and (advantage[0][~known] == 0).all()
    alone, _ = group_advantages(rewards[:, known], scale) if known.any() else (np.zeros((1, 0)), None)
    assert np.allclose(advantage[0][known], alone[0], atol=1e-5)
    if known.sum() < 2:
        assert (advantage == 0).all()


# ---------------------------------------------------------------- rectangle


def test_the_rectangle_is_full_padded_in_place_and_sharded_contiguously() -> None:
    made = random_batch(0, unscored=1)
    plan = plan_batch(made, LIMITS, NOW, padding_id=EOS)
    assert len(plan.rows) == 8 and plan.padding == 2
    assert [row.padding for row in plan.rows] == [False, False, False, True] * 2
    assert plan.local(0, 2) + plan.local(1, 2) == plan.rows
    sampled = sum(len(t.completion.ids) for g in made.groups for m in g.members[:3] for t in m.turns)
    assert plan.num_items == sampled
    filler = plan.rows[3]
    assert (filler.prompt_ids, filler.completion_ids, filler.trained_tokens) == ((EOS,), (EOS,), 0)
    assert len(plan.rewards) == 8 and np.isnan(plan.rewards).sum() == 2


def test_columns_pad_prompts_left_and_completions_right() -> None:
    rows = [GOOD, replace(GOOD, prompt_ids=(6,), completion_ids=(7,), mask=(1,), logprobs=(-2.0,), versions=(NOW,))]
    out = columns(rows, PAD)
    assert out["prompt_ids"].tolist() == [[1, 2, 3], [PAD, PAD, 6]]
    assert out["prompt_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert out["completion_ids"][1].tolist() == [7, PAD, PAD, PAD, PAD]
    assert out["completion_mask"][1].tolist() == [1, 0, 0, 0, 0]
    assert (out["tool_mask"] * out["completion_mask"]).tolist() == [[1, 1, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert columns(rows, PAD, multiple=4)["completion_ids"].shape == (2, 8)


def test_padding_is_refused_where_it_would_not_be_neutral() -> None:
    short = batch(group(trajectory(EXAMPLE, 1.0), trajectory(EXAMPLE, 0.0)))
    for loss_type, features, words in [
        ("bnpo", {}, "bnpo"),
        ("dapo", {"entropy_bonus": True}, "entropy"),
        ("grpo", {"kl": True}, "beta"),
        ("luspo", {"kl": True}, "beta"),
    ]:
        with pytest.raises(BatchRefused, match=words):
            plan_batch(short, LIMITS, NOW, loss_type=loss_type, neutral=features)
    for loss_type, features in [
        ("dapo", {"kl": True}),
        ("bnpo", {"one_micro_batch": True}),
        ("dapo", {"entropy_bonus": True, "one_micro_batch": True}),
    ]:
        assert plan_batch(short, LIMITS, NOW, loss_type=loss_type, neutral=features).padding == 6


# ---------------------------------------------------------------- the loss, by the logprob


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    yield Probe(tmp_path_factory.mktemp("probe"))


LOSSES = ["grpo", "dapo", "dr_grpo", "sapo", "luspo", "cispo", "vespo"]


@pytest.mark.parametrize("loss_type", [*LOSSES, "bnpo"])
@given(seed=st.integers(0, 10**6), stale=st.booleans(), unscored=st.integers(0, 1), sequence=st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_loss_sees_sampled_tokens_only(
    probe: Probe, loss_type: str, seed: int, stale: bool, unscored: int, sequence: bool
) -> None:
    now = Version(0, 2) if stale and loss_type != "vespo" else NOW
    made = random_batch(0, seed=seed, unscored=unscored, version=NOW)
    data, gradient, _ = probe.gradient(
        made, 8, 8, now, loss_type=loss_type, importance_sampling_level="sequence" if sequence else "token"
    )
    mask = data["completion_mask"] * data["tool_mask"]
    assert (gradient[mask == 0] == 0).all()
    members = [m for g in made.groups for m in g.members]
    for b, member in enumerate(members):
        trained = data["completion_ids"][b][mask[b] == 1].tolist()
        sampled = [token for turn in member.turns for token in turn.completion.ids]
        assert trained == ([] if member.score.reward is None else sampled)
        alive = member.score.reward is not None and data["advantages"][b].abs().max() > 0
        if not alive:
            assert (gradient[b] == 0).all()
        elif loss_type != "vespo" and not stale:
            assert (gradient[b][mask[b] == 1] != 0).all()


@pytest.mark.parametrize("micro", [2, 4, 8])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_padding_rows_change_nothing(probe: Probe, loss_type: str, micro: int) -> None:
    """One full group alone, and the same group beside an unscorable one: same loss, same gradient per token."""
    rng = random.Random(5)
    full = group(*[trajectory(random_turns(rng), r) for r in (1.0, 0.0, 0.5, 0.25)], name="a")
    lost = group(*[trajectory(random_turns(rng), None) for _ in range(4)], name="b")
    _, alone, loss = probe.gradient(batch(full), 4, min(micro, 4), loss_type=loss_type)
    data, padded, same = probe.gradient(batch(full, lost), 8, micro, loss_type=loss_type)
    width = alone.shape[1]
    assert torch.allclose(padded[:4, :width], alone, rtol=1e-5, atol=1e-8)
    assert (padded[4:] == 0).all() and (padded[:4, width:] == 0).all()
    assert same == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert alone.abs().max() > 0 and data["num_items_in_batch"] == sum(
        segments(m)[0].trained_tokens for m in full.members
    )


@pytest.mark.parametrize(("loss_type", "bonus"), [("bnpo", 0.0), ("bnpo", 0.1), ("dapo", 0.1), ("grpo", 0.1)])
def test_padding_is_neutral_for_token_means_in_one_micro_batch(probe: Probe, loss_type: str, bonus: float) -> None:
    rng = random.Random(6)
    full = group(*[trajectory(random_turns(rng), r) for r in (1.0, 0.0, 0.5, 0.25)], name="a")
    options = {"loss_type": loss_type, "entropy_coef": bonus, "_entropy_bonus_enabled": bonus > 0}
    _, alone, loss = probe.gradient(batch(full), 4, 4, **options)
    _, padded, same = probe.gradient(batch(full), 8, 8, **options)
    assert torch.allclose(padded[:4], alone, rtol=1e-5, atol=1e-8) and same == pytest.approx(loss, rel=1e-5)
    with pytest.raises(BatchRefused):
        probe.gradient(batch(full), 8, 4, **options)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "sapo", "luspo", "cispo", "bnpo"])
def test_weighted_advantages_equal_trls_importance_route(probe: Probe, loss_type: str) -> None:
    made = random_batch(0, version=NOW)
    data, gradient, _ = probe.gradient(made, 8, 8, Version(0, 3), loss_type=loss_type)
    weight = torch.exp(data["old_per_token_logps"] - data["sampling_per_token_logps"]).clamp(max=2.0)
    flat, _, _ = probe.gradient(made, 8, 8, NOW, loss_type=loss_type)
    trainer = probe.trainer
    theirs = {
        **flat,
        "old_per_token_logps": data["old_per_token_logps"],
        "importance_sampling_ratio": weight * (data["completion_mask"] * data["tool_mask"]),
    }
    trainer.loss_type, trainer.use_vllm, trainer.vllm_importance_sampling_correction = loss_type, True, True
    try:
        trainer._compute_loss(trainer.model, theirs).backward()
    finally:
        trainer.loss_type, trainer.use_vllm = "dapo", False
    assert data["advantages"].ndim == 2
    assert torch.allclose(gradient, probe.leaf.grad, rtol=1e-5, atol=1e-8) and gradient.abs().max() > 0


def test_scores_are_not_needed_to_be_complete_but_to_be_true() -> None:
    """Permuting the members of a group permutes the advantages: credit stays with its trajectory."""
    made = random_batch(0)
    turned = replace(made, groups=tuple(replace(g, members=g.members[::-1]) for g in made.groups))
    left, right = plan_batch(made, LIMITS, NOW), plan_batch(turned, LIMITS, NOW)
    by_name = {row.name: row.advantage for row in left.rows}
    for row in right.rows:
        assert row.advantage == pytest.approx(by_name[row.name], rel=1e-5)
    swapped = replace(made.groups[0].members[0], score=Score(9.0))
    other = replace(made, groups=(replace(made.groups[0], members=(swapped, *made.groups[0].members[1:])),))
    assert plan_batch(other, LIMITS, NOW).rows[0].advantage > left.rows[0].advantage
