"""A trainer reduced to its calls on a rollout source, and what its batches say."""

from __future__ import annotations

from rollout.source import RolloutSource
from rollout.types import Batch, Version


def train(source: RolloutSource, steps: range, attempt: int = 1, publish_first: bool = True) -> list[Batch]:
    """take, settle and publish for each of ``steps``; every batch must arrive within 20 seconds."""
    batches = []
    if publish_first:
        source.publish(Version(attempt, steps.start), [])
    for step in steps:
        batch = source.take(step, timeout=20.0)
        assert isinstance(batch, Batch), batch
        batches.append(batch)
        source.settle(step)
        source.publish(Version(attempt, step + 1), [])
    return batches


def story(batches: list[Batch]) -> list:
    """All that training depends on."""
    return [
        (b.step, g.id, m.task.id, m.member, m.score.reward, [t.completion.ids for t in m.turns])
        for b in batches
        for g in b.groups
        for m in g.members
    ]
