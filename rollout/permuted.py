"""A control: the same rollouts with rewards shuffled inside each group.

Owns: a ``BatchSource`` around another one. Whatever training on it gains does not come from the rewards.
Refuses: touching tokens, unscorable members or other groups.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from rollout.protocols import BatchSource
from rollout.seeds import derive_seed
from rollout.types import Batch, Failure, Group


class PermutedRewards:
    """Implements ``BatchSource``; the permutation is a function of (seed, group id)."""

    def __init__(self, source: BatchSource, seed: int) -> None:
        self._source, self._seed = source, seed

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        found = self._source.take(step, timeout)
        if not isinstance(found, Batch):
            return found
        return dataclasses.replace(found, groups=tuple(permute(group, self._seed) for group in found.groups))

    def settle(self, step: int) -> None:
        self._source.settle(step)

    def snapshot(self) -> Mapping[str, Any]:
        return self._source.snapshot()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._source.restore(state)


def permute(group: Group, seed: int) -> Group:
    """``group`` with the scores of its scorable members in another order."""
    places = [i for i, member in enumerate(group.members) if member.score.reward is not None]
    scores = [group.members[i].score for i in places]
    random.Random(derive_seed(seed, "permute", group.id)).shuffle(scores)
    members = list(group.members)
    for place, score in zip(places, scores, strict=True):
        members[place] = dataclasses.replace(members[place], score=score)
    return dataclasses.replace(group, members=tuple(members))
