"""Recorded batches as a batch source: the same trajectories again, for a comparison of two training set-ups.

Owns: handing batch ``step`` out by its number, telling it is fresh or leaving its age as recorded.
Refuses: rollouts. It is its own weight sink, because the version it stamps is the last one published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollout.errors import CheckpointError
from rollout.protocols import RawTensor
from rollout.types import Batch, Failure, Trajectory, Version


class RecordedSource:
    """``BatchSource`` and ``WeightSink`` over ``batches``; the n-th belongs to the n-th call of ``take``.

    ``fresh``: stamp every token with the version published last (staleness 0); else keep the recorded versions.
    ``trained`` lists the groups whose optimiser step is done, in order.
    """

    def __init__(self, batches: Sequence[Batch], *, fresh: bool = True) -> None:
        self.batches, self.fresh = tuple(batches), fresh
        self.trained: list[str] = []
        self.version: Version | None = None
        self._settled = 0

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        if self._settled >= len(self.batches):
            return Failure("recorded batches", f"all {len(self.batches)} are used up at step {step}")
        if self.version is None:
            return Failure("recorded batches", "no weights were published yet")
        batch = replace(self.batches[self._settled], step=step, version=self.version)
        return _stamped(batch, self.version) if self.fresh else batch

    def settle(self, step: int) -> None:
        self.trained += [group.id for group in self.batches[self._settled].groups]
        self._settled += 1

    def snapshot(self) -> Mapping[str, Any]:
        return {"settled": self._settled, "trained": list(self.trained)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError if the state was saved over other batches."""
        expected = [group.id for batch in self.batches[: state["settled"]] for group in batch.groups]
        if state["trained"] != expected:
            raise CheckpointError("the checkpoint was trained on other recorded batches than these")
        self._settled, self.trained = state["settled"], list(expected)

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        self.version = version
        return version


def _stamped(batch: Batch, version: Version) -> Batch:
    groups = tuple(replace(group, members=tuple(_aged(m, version) for m in group.members)) for group in batch.groups)
    return replace(batch, groups=groups)


def _aged(trajectory: Trajectory, version: Version) -> Trajectory:
    turns = tuple(
        replace(turn, completion=replace(turn.completion, versions=(version,) * len(turn.completion.ids)))
        for turn in trajectory.turns
    )
    return replace(trajectory, turns=turns)
