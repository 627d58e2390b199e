"""The permuted-rewards control changes who is rewarded, and nothing else."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from rollout.permuted import PermutedRewards, permute
from rollout.types import Batch, Failure, Group, Prompt, Score, Stop, Trajectory, Version
from worldmodel.domains.terminal.tasks import make

TASK = make("dedupe", "train", 0, 0)


def group(rewards: list[float | None], name: str = "g") -> Group:
    return Group(
        name,
        TASK.id,
        tuple(Trajectory(TASK, name, i, Prompt(()), (), Stop.DONE, Score(r)) for i, r in enumerate(rewards)),
    )


@given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=12), st.integers(0, 100))
def test_scores_move_inside_the_group_and_the_unscorable_stay(rewards: list[float | None], seed: int) -> None:
    before = group(rewards)
    after = permute(before, seed)
    assert after == permute(before, seed)
    scores = [m.score.reward for m in after.members]
    assert [r is None for r in scores] == [r is None for r in rewards]
    assert sorted(r for r in scores if r is not None) == sorted(r for r in rewards if r is not None)
    for old, new in zip(before.members, after.members, strict=True):
        assert dataclasses.replace(new, score=old.score) == old


def test_rewards_do_move() -> None:
    halves = [1.0] * 4 + [0.0] * 4
    moved = [[m.score.reward for m in permute(group(halves, f"g{i}"), 0).members] != halves for i in range(20)]
    assert sum(moved) >= 15


def test_everything_else_passes_through() -> None:
    class Source:
        settled: list[int]

        def take(self, step: int, timeout: float) -> Batch | Failure | None:
            return {0: Batch(0, (group([0.0, 1.0]),), Version(0, 0)), 1: Failure("x", "y")}.get(step)

        def settle(self, step: int) -> None:
            self.settled = [step]

        def snapshot(self) -> dict[str, int]:
            return {"n": 1}

        def restore(self, state: object) -> None:
            self.state = state

    inner = Source()
    outer = PermutedRewards(inner, 0)
    assert isinstance(outer.take(0, 0.0), Batch)
    assert outer.take(1, 0.0) == Failure("x", "y") and outer.take(2, 0.0) is None
    outer.settle(3)
    outer.restore(outer.snapshot())
    assert inner.settled == [3] and inner.state == {"n": 1}
