"""Credit per trajectory, turn and world state: the numbers, their symmetries, and their way through the loss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trainer_toys import EOS, PAD, VOCAB, trajectory

from rollout.errors import ConfigError
from rollout.types import Batch, Group, Trajectory, Version
from trainer.batch import Limits, Plan, columns, plan_batch
from trainer.config import TrainerConfig
from trainer.credit import (
    Credit,
    Episode,
    against_peers,
    check_credit,
    episode,
    parse_credit,
    returns_to_go,
    turn_advantages,
)

NOW = Version(0, 0)
LIMITS = Limits(rows=8, group_size=4, max_row_length=64, max_completion_length=64, temperature=1.0, vocab_size=VOCAB)
GIGPO = Credit(step=1.0, discount=0.5)


def acted(states: str, reward: float | None, name: str = "g", member: int = 0) -> Trajectory:
    """One turn of two sampled tokens in each of ``states``, two observed tokens between them."""
    plain = trajectory([([1, 2], [7, 8])] * len(states), reward, group=name, member=member)
    turns = tuple(
        replace(turn, observation=replace(turn.observation, anchor=state))
        for turn, state in zip(plain.turns, states, strict=True)
    )
    return replace(plain, turns=turns)


def made(*groups: list[tuple[str, float | None]]) -> Batch:
    return Batch(
        0,
        tuple(
            Group(f"g{g}", "toy", tuple(acted(states, reward, f"g{g}", m) for m, (states, reward) in enumerate(group)))
            for g, group in enumerate(groups)
        ),
        NOW,
    )


def plan(batch: Batch, credit: Credit, **options: Any) -> Plan:
    return plan_batch(batch, LIMITS, NOW, credit=credit, padding_id=EOS, **options)


# ---------------------------------------------------------------- by hand


def test_returns_to_go_by_hand() -> None:
    assert returns_to_go(np.asarray([1.0, 0.0, 4.0]), 0.5).tolist() == [2.0, 2.0, 4.0]
    assert returns_to_go(np.asarray([3.0]), 0.5).tolist() == [3.0]


def test_peers_by_hand() -> None:
    returns = np.asarray([1.0, 0.0, 5.0, 1.0])
    keys = ["a", "a", "b", "a"]
    plain, compared = against_peers(returns, keys, "none")
    assert plain == pytest.approx([1 / 3, -2 / 3, 0, 1 / 3]) and compared.tolist() == [True, True, False, True]
    scaled, _ = against_peers(returns, keys, "group")
    assert scaled == pytest.approx(np.asarray([1 / 3, -2 / 3, 0, 1 / 3]) / (np.sqrt(1 / 3) + 1e-4))
    wide, _ = against_peers(returns, keys, "batch")
    assert wide == pytest.approx(np.asarray([1 / 3, -2 / 3, 0, 1 / 3]) / (returns.std(ddof=1) + 1e-4))
    alone, _ = against_peers(np.asarray([2.0]), ["a"], "batch")
    assert alone.tolist() == [0.0]


EXAMPLE = [
    Episode("g", np.asarray([0.0, 1.0]), ("a", "b")),
    Episode("g", np.asarray([0.0, 0.0]), ("a", "c")),
    Episode("other", np.asarray([0.0, 1.0]), ("a", "b")),
]


def test_the_example_of_the_module_by_hand() -> None:
    step, figures = turn_advantages(EXAMPLE, Credit(trajectory=0, step=1, discount=0.5), "none")
    assert [value.tolist() for value in step] == [[0.25, 0.0], [-0.25, 0.0], [0.0, 0.0]]
    assert figures == {"credit/step_compared": pytest.approx(2 / 6)}
    turn, figures = turn_advantages(EXAMPLE, Credit(trajectory=0, turn=1, discount=0.5), "none")
    assert [value.tolist() for value in turn] == [[0.25, 0.5], [-0.25, -0.5], [0.0, 0.0]]
    assert figures == {"credit/turn_compared": pytest.approx(4 / 6)}
    both, _ = turn_advantages(EXAMPLE, Credit(turn=2, step=3, discount=0.5), "none")
    for one, a, b in zip(both, turn, step, strict=True):
        assert one == pytest.approx(2 * a + 3 * b)


def test_gigpo_by_hand_through_the_batch() -> None:
    """Two members, reward 1 and 0. Visits of state a: returns 1/4, 1/2 (a wasted turn first) and 0."""
    batch = made([("aab", 1.0), ("ac", 0.0)])
    rows = plan(batch, GIGPO).rows
    whole = 0.5 / (np.sqrt(0.5) + 1e-4)  # A of the trajectory
    returns = np.asarray([0.25, 0.5, 0.0])
    a = (returns - 0.25) / (returns.std(ddof=1) + 1e-4)
    first, second, third = whole + a[0], whole + a[1], whole  # b was visited once
    assert rows[0].advantages_T == pytest.approx([first, first, 0, 0, second, second, 0, 0, third, third])
    assert rows[1].advantages_T == pytest.approx([-whole + a[2], -whole + a[2], 0, 0, -whole, -whole])
    assert rows[0].advantage == pytest.approx((first + second + third) / 3)
    arrays = columns(rows, PAD)
    assert arrays["advantages"].shape == arrays["completion_ids"].shape == (8, 10)
    assert arrays["advantages"][2:].max() == arrays["advantages"][2:].min() == 0  # padding rows


def test_a_wasted_turn_of_a_success_gets_less_than_the_turn_that_made_it() -> None:
    values = plan(made([("aab", 1.0), ("ac", 0.0), ("ab", 1.0), ("aaa", 0.0)]), GIGPO).rows[0].advantages_T
    assert values is not None and values[0] < values[4]


# ---------------------------------------------------------------- properties

members = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=4),
        st.one_of(st.none(), st.floats(-3, 3, width=16)),
    ),
    min_size=1,
    max_size=4,
)
batches = st.lists(members, min_size=1, max_size=2).filter(lambda gs: any(r is not None for g in gs for _, r in g))
credits_ = st.builds(
    Credit,
    trajectory=st.sampled_from([0.0, 1.0, 0.5]),
    turn=st.sampled_from([0.0, 1.0]),
    step=st.sampled_from([0.5, 1.0]),
    discount=st.sampled_from([0.5, 0.95, 1.0]),
)
scales = st.sampled_from(["group", "batch", "none"])


@given(groups=batches, credit=credits_, scale=scales)
@settings(max_examples=80, deadline=None)
def test_means_are_zero_among_peers_and_lonely_returns_get_nothing(groups: Any, credit: Credit, scale: Any) -> None:
    scored = [m for g in made(*groups).groups for m in g.members if m.score.reward is not None]
    episodes = [episode(member, credit) for member in scored]
    for level in ("turn", "step"):
        alone = replace(credit, trajectory=0.0, turn=float(level == "turn"), step=float(level == "step"))
        values, figures = turn_advantages(episodes, alone, scale)
        sets: dict[Any, list[float]] = {}
        for one, value in zip(episodes, values, strict=True):
            for k, advantage in enumerate(value):
                sets.setdefault((one.group, k if level == "turn" else one.anchors_K[k]), []).append(advantage)
        for peers in sets.values():
            assert sum(peers) == pytest.approx(0, abs=1e-8)
            assert len(peers) > 1 or peers == [0.0]
        share = sum(len(peers) for peers in sets.values() if len(peers) > 1) / sum(map(len, sets.values()))
        assert figures[f"credit/{level}_compared"] == pytest.approx(share)


@given(groups=batches, credit=credits_, scale=scales, seed=st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_members_and_groups_does_not_matter(groups: Any, credit: Credit, scale: Any, seed: Any) -> None:
    batch = made(*groups)
    shuffled = [replace(g, members=tuple(seed.sample(g.members, len(g.members)))) for g in batch.groups]
    seed.shuffle(shuffled)
    turned = replace(batch, groups=tuple(shuffled))
    left = {row.name: row for row in plan(batch, credit, scale=scale).rows if not row.padding}
    right = {row.name: row for row in plan(turned, credit, scale=scale).rows if not row.padding}
    assert left.keys() == right.keys()
    for name, row in left.items():
        assert row.advantages_T == pytest.approx(right[name].advantages_T, rel=1e-4, abs=1e-5)


@given(groups=batches, credit=credits_, scale=scales)
@settings(max_examples=80, deadline=None)
def test_only_sampled_tokens_of_scorable_rows_have_an_advantage(groups: Any, credit: Credit, scale: Any) -> None:
    batch = made(*groups)
    planned = plan(batch, credit, scale=scale, loss_type="grpo")
    arrays = columns(planned.rows, PAD)
    trained = (arrays["completion_mask"] * arrays["tool_mask"]).astype(bool)
    assert np.isfinite(arrays["advantages"]).all() and (arrays["advantages"][~trained] == 0).all()
    scored = [m for g in batch.groups for m in g.members if m.score.reward is not None]
    real = [row for row in planned.rows if not row.padding]
    assert len(real) == len(scored)
    for row, member in zip(real, scored, strict=True):
        values = np.asarray(row.advantages_T).reshape(-1, 2)[::2]  # two sampled, two observed, two sampled, ...
        assert (values[:, 0] == values[:, 1]).all() and len(values) == len(member.turns)
        assert row.advantage == pytest.approx(values.mean(), rel=1e-6, abs=1e-9)


@given(groups=batches, scale=scales)
@settings(max_examples=40, deadline=None)
def test_weight_on_the_trajectory_alone_is_what_it_was(groups: Any, scale: Any) -> None:
    batch = made(*groups)
    plain = plan_batch(batch, LIMITS, NOW, scale=scale)
    named = plan(batch, parse_credit({"trajectory": 1.0}), scale=scale)
    assert [row.advantage for row in plain.rows] == [row.advantage for row in named.rows]
    assert columns(plain.rows, PAD)["advantages"].shape == (8,) and plain.figures == {}


# ---------------------------------------------------------------- through the loss

torch = pytest.importorskip("torch")
LOSSES = ["grpo", "dapo", "dr_grpo", "sapo", "luspo", "cispo", "vespo"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from trainer_probe import Probe

    yield Probe(tmp_path_factory.mktemp("probe"))


FULL = [("aab", 1.0), ("ac", 0.0), ("ab", 1.0), ("aaa", 0.5)]


@pytest.mark.parametrize("loss_type", [*LOSSES, "bnpo"])
def test_each_turn_is_pushed_by_its_own_advantage(probe: Any, loss_type: str) -> None:
    credit = Credit(trajectory=0.0, step=1.0, discount=0.5)
    data, gradient, _ = probe.gradient(made(FULL), 4, 4, loss_type=loss_type, credit=credit)
    advantages = data["advantages"]
    assert advantages.shape == gradient.shape and (advantages < 0).any() and (advantages > 0).any()
    assert (torch.sign(gradient) == -torch.sign(advantages)).all()
    scale = (gradient / advantages).nan_to_num(0)
    if loss_type in ("dapo", "bnpo", "dr_grpo", "luspo", "cispo"):  # one factor for every token of the batch
        used = scale[advantages != 0]
        assert torch.allclose(used, used[0].expand_as(used), rtol=1e-5)


@pytest.mark.parametrize("micro", [2, 8])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_padding_rows_change_nothing_under_step_credit(probe: Any, loss_type: str, micro: int) -> None:
    lost = [("ab", None)] * 4
    options = {"loss_type": loss_type, "credit": GIGPO}
    _, alone, loss = probe.gradient(made(FULL), 4, min(micro, 4), **options)
    data, padded, same = probe.gradient(made(FULL, lost), 8, micro, **options)
    width = alone.shape[1]
    assert data["advantages"].ndim == 2 and (data["advantages"][4:] == 0).all()
    assert torch.allclose(padded[:4, :width], alone, rtol=1e-5, atol=1e-8) and alone.abs().max() > 0
    assert (padded[4:] == 0).all() and same == pytest.approx(loss, rel=1e-5, abs=1e-7)


@given(groups=batches, credit=credits_)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_loss_sees_sampled_tokens_only_under_any_credit(probe: Any, groups: Any, credit: Credit) -> None:
    data, gradient, _ = probe.gradient(made(*groups), 8, 8, loss_type="dapo", credit=credit)
    mask = data["completion_mask"] * data["tool_mask"]
    assert (gradient[mask == 0] == 0).all() and torch.isfinite(gradient).all()


def test_credit_and_correction_multiply(probe: Any) -> None:
    fresh, _, _ = probe.gradient(made(FULL), 4, 4, credit=GIGPO)
    stale, _, _ = probe.gradient(made(FULL), 4, 4, Version(0, 2), credit=GIGPO)
    weight = torch.exp(stale["old_per_token_logps"] - stale["sampling_per_token_logps"]).clamp(max=2.0)
    mask = (stale["completion_mask"] * stale["tool_mask"]).bool()
    assert torch.allclose(stale["advantages"][mask], (fresh["advantages"] * weight)[mask])


# ---------------------------------------------------------------- refusals


def test_a_world_without_anchors_cannot_have_step_credit() -> None:
    batch = made([("ab", 1.0), ("ab", 0.0)])
    blind = replace(batch.groups[0].members[1].turns[1].observation, anchor=None)
    member = batch.groups[0].members[1]
    member = replace(member, world_id="blind", turns=(member.turns[0], replace(member.turns[1], observation=blind)))
    group = replace(batch.groups[0], members=(batch.groups[0].members[0], member))
    with pytest.raises(ConfigError, match=r"'blind' gave no anchor in group g0 member 1 turn 1") as caught:
        plan(replace(batch, groups=(group,)), GIGPO)
    assert "\n" not in str(caught.value)
    assert plan(replace(batch, groups=(group,)), Credit(turn=1.0)).padding == 6


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo", "sapo", "luspo"])
def test_a_ratio_per_sequence_cannot_carry_credit_per_turn(loss_type: str) -> None:
    with pytest.raises(ConfigError, match="importance_sampling_level sequence") as caught:
        check_credit(GIGPO, loss_type, "sequence")
    assert "\n" not in str(caught.value)
    check_credit(Credit(), loss_type, "sequence")
    check_credit(GIGPO, loss_type, "token")


@pytest.mark.parametrize("loss_type", ["cispo", "vespo"])
def test_detached_ratios_per_sequence_do_carry_it(probe: Any, loss_type: str) -> None:
    check_credit(GIGPO, loss_type, "sequence")
    options = {"loss_type": loss_type, "credit": Credit(trajectory=0.0, step=1.0, discount=0.5)}
    data, gradient, _ = probe.gradient(made(FULL), 4, 4, importance_sampling_level="sequence", **options)
    assert (torch.sign(gradient) == -torch.sign(data["advantages"])).all() and gradient.abs().max() > 0


def test_why_a_ratio_per_sequence_is_refused(probe: Any) -> None:
    """The gradient of every token of a row is the same, whatever its advantage."""
    credit = Credit(trajectory=0.0, step=1.0, discount=0.5)
    data, gradient, _ = probe.gradient(
        made(FULL), 4, 4, loss_type="grpo", credit=credit, importance_sampling_level="sequence"
    )
    trained = (data["completion_mask"] * data["tool_mask"]).bool()
    assert len(set(data["advantages"][0][trained[0]].tolist())) > 1
    assert torch.allclose(gradient[0][trained[0]], gradient[0][0].expand(int(trained[0].sum())))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("gigpo", "use one of trajectory, turn, step"),
        ({"steps": 1.0}, "'trajectory', 'turn', 'step' or 'discount'"),
        ({"step": -1.0}, "at least 0"),
        ({"trajectory": 0.0}, "not all 0"),
        ({"step": float("inf")}, "finite"),
        ({"step": 1.0, "discount": 0.0}, "discount is 0.0"),
        ({"step": 1.0, "discount": 1.5}, "discount is 1.5"),
        ({"trajectory": 1.0, "discount": 0.9}, "discount acts on"),
    ],
)
def test_credit_that_makes_no_sense_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainerConfig(credit=value)


def test_credit_by_name_and_by_weights() -> None:
    assert parse_credit(TrainerConfig().credit) == Credit()
    assert parse_credit(TrainerConfig(credit="turn").credit) == Credit(0.0, 1.0, 0.0, 0.95)
    gigpo = TrainerConfig(credit={"trajectory": 1, "step": 2, "discount": 0.9})
    assert parse_credit(gigpo.credit) == Credit(1.0, 0.0, 2.0, 0.9)
    assert TrainerConfig(**TrainerConfig(credit="step").model_dump()).credit == TrainerConfig(credit="step").credit


def test_credit_loads_without_torch() -> None:
    code = (
        "import sys, trainer.credit; sys.exit(any(n in sys.modules for n in ('torch', 'trl', 'ray', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------- the bench's premise


def test_on_the_benchs_chain_step_credit_is_silent_after_the_fork() -> None:
    from bench.gigpo_chain import FORK, MEMBERS, RIGHT, ROOMS, Chain, policy

    batch = Chain(policy(0), torch.Generator().manual_seed(0)).take(0, 1.0)
    assert isinstance(batch, Batch) and len(batch.groups) == len(RIGHT)
    limits = replace(LIMITS, rows=len(RIGHT) * MEMBERS, group_size=MEMBERS)
    planned = plan_batch(batch, limits, NOW, credit=Credit(trajectory=0.0, step=1.0))
    values = np.asarray([np.asarray(row.advantages_T)[::2] for row in planned.rows])
    won = planned.rewards > 0
    assert values.shape == (len(planned.rows), ROOMS) and 0 < won.sum() < len(won)
    assert np.allclose(values[:, FORK + 1 :], 0, atol=1e-9)
    assert (values[won, FORK] > 0).all() and (values[~won, FORK] <= 0).all()
