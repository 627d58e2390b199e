"""The same tasks simulated and real: does success carry over, and can simulated verdicts be trusted?

Owns: paired comparison of two evaluations, and the confusion of simulated against real verdicts.
Refuses: running anything; see ``evaluate`` and the pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rollout.evaluate import Evaluation, Interval, evaluate, paired_gain
from rollout.types import Trajectory


@dataclass(frozen=True, slots=True)
class Transfer:
    """``gap``: simulated minus real success, paired by task. ``agreement``: share of episodes, among those scored in
    both worlds, that ended alike; None without any."""

    simulated: Evaluation
    real: Evaluation
    gap: Interval
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(simulated: Sequence[Trajectory], real: Sequence[Trajectory], seed: int = 0) -> Transfer:
    """Both sides must hold the same tasks, else ``TaskError``. Episodes are matched by task and member."""
    sim, true = evaluate(simulated, seed=seed), evaluate(real, seed=seed)
    ends = {(o.task_id, o.member): o for o in true.outcomes if o.reward is not None}
    alike = [
        outcome.success == ends[outcome.task_id, outcome.member].success
        for outcome in sim.outcomes
        if outcome.reward is not None and (outcome.task_id, outcome.member) in ends
    ]
    return Transfer(sim, true, paired_gain(true, sim, seed), sum(alike) / len(alike) if alike else None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the simulator and the real world said about the same ending. ``simulated`` None: undecided."""

    family: str
    simulated: bool | None
    real: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of decided verdicts, and how many were undecided. Rates are None where their denominator is 0."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    undecided: int

    @property
    def false_positive_rate(self) -> float | None:
        """Share of real failures that the simulator called a success."""
        return _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def true_positive_rate(self) -> float | None:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the accuracies on real successes and on real failures."""
        positive, false_positive = self.true_positive_rate, self.false_positive_rate
        if positive is None or false_positive is None:
            return None
        return (positive + 1.0 - false_positive) / 2.0

    @property
    def coverage(self) -> float | None:
        """Share of verdicts that were decided."""
        decided = self.true_positive + self.false_positive + self.true_negative + self.false_negative
        return _ratio(decided, decided + self.undecided)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "false_positive_rate": self.false_positive_rate,
            "true_positive_rate": self.true_positive_rate,
            "balanced_accuracy": self.balanced_accuracy,
            "coverage": self.coverage,
        }


@dataclass(frozen=True, slots=True)
class VerdictReport:
    """The confusion over all endings and by family, families in alphabetical order."""

    overall: Confusion
    families: dict[str, Confusion]

    def untrusted(self, limit: float) -> tuple[str, ...]:
        """Families whose false-positive rate is above ``limit``: not to be trained on in this simulator."""
        return tuple(name for name, c in self.families.items() if (c.false_positive_rate or 0.0) > limit)

    def to_json(self) -> dict[str, Any]:
        return {
            "overall": self.overall.to_json(),
            "families": {name: confusion.to_json() for name, confusion in self.families.items()},
        }


def confusion(verdicts: Iterable[Verdict]) -> VerdictReport:
    """Simulated against real verdicts."""
    by_family: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_family.setdefault(verdict.family, []).append(verdict)
    everything = [verdict for family in by_family.values() for verdict in family]
    return VerdictReport(_count(everything), {name: _count(by_family[name]) for name in sorted(by_family)})


def _count(verdicts: Sequence[Verdict]) -> Confusion:
    pairs = [(verdict.simulated, verdict.real) for verdict in verdicts]
    return Confusion(
        true_positive=pairs.count((True, True)),
        false_positive=pairs.count((True, False)),
        true_negative=pairs.count((False, False)),
        false_negative=pairs.count((False, True)),
        undecided=sum(simulated is None for simulated, _ in pairs),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
