"""From results to a report's nouns: the few conversions that every report needs.

Owns: shapes and labels. Refuses: statistics and file access.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch.report.data import FamilyBars, Outcome, Rate, Run, Sample, Step, Table
from rollout.evaluate import Evaluation, Interval, paired_gain
from rollout.types import Trajectory
from worldmodel.fidelity import FidelityResult, tables
from worldmodel.vetting import VerdictQuality, Vetting


def rate(interval: Interval) -> Rate:
    return Rate(interval.mean, interval.low, interval.high, interval.count)


def outcome(arm: str, world: str, before: Evaluation, after: Evaluation) -> Outcome:
    """Success of one arm in one world; raises TaskError where the two ran other tasks."""
    gain = paired_gain(before, after)
    return Outcome(arm, world, rate(before.success), rate(after.success), rate(gain))


def families(
    real: tuple[Evaluation, Evaluation], sim: tuple[Evaluation, Evaluation] | None, held_out: Sequence[str] = ()
) -> tuple[FamilyBars, ...]:
    """(before, after) of each world, family by family; ``held_out`` names families that nothing was trained on."""
    names = sorted({name for pair in (real, sim or ()) for found in pair for name in found.families})
    return tuple(
        FamilyBars(name, *_means(real, name), *(_means(sim, name) if sim else (None, None)), name in held_out)
        for name in names
    )


def _means(pair: tuple[Evaluation, Evaluation], name: str) -> tuple[float | None, float | None]:
    before, after = (found.families.get(name) for found in pair)
    return before.mean if before else None, after.mean if after else None


def fidelity_table(results: Mapping[str, FidelityResult]) -> Table:
    """By domain where there are several."""
    header, *rows = tables(results)
    found = results.values()
    silent = sum(r.silent_share for r in found) / len(results)
    note = (
        f"{sum(r.teacher_forced.macro.n for r in found)} held-out transitions of {sum(r.n_episodes for r in found)} "
        f"episodes, teacher-forced unless named; {silent:.0%} of them silent; a missing prediction is a miss."
    )
    return Table("Fidelity of the world model", header, tuple(rows), note)


def verdict_table(vetting: Vetting) -> Table:
    """Simulated verdicts against real ones, by family; a family that may not be trained on says why."""
    rows = [(name, *_quality(q), vetting.left_out.get(name, "")) for name, q in vetting.families.items()]
    columns = ("family", "endings", "with a verdict", "balanced accuracy", "false positives", "left out because")
    return Table("Simulated verdicts", columns, (*rows, ("all", *_quality(vetting.overall), "")))


def _quality(quality: VerdictQuality) -> tuple[str, ...]:
    rates = (quality.coverage, quality.balanced_accuracy, quality.false_positive_rate)
    return (str(quality.n), *("-" if value is None else f"{value:.1%}" for value in rates))


def samples(simulated: Sequence[Trajectory], real: Sequence[Trajectory], limit: int = 8) -> tuple[Sample, ...]:
    """Tasks that ran in both worlds, one per family first, those that ended differently before the others."""
    truth: Mapping[str, Trajectory] = {t.task.id: t for t in real if t.member == 0}
    pairs = [(t, truth[t.task.id]) for t in simulated if t.member == 0 and t.task.id in truth]
    pairs.sort(key=lambda pair: pair[0].score.reward == pair[1].score.reward)
    seen: dict[str, int] = {}
    ranked = []
    for sim, true in pairs:
        seen[sim.task.family] = seen.get(sim.task.family, 0) + 1
        ranked.append((seen[sim.task.family], sim, true))
    ranked.sort(key=lambda item: item[0])
    return tuple(sample(sim, true) for _, sim, true in ranked[:limit])


def sample(simulated: Trajectory, real: Trajectory) -> Sample:
    task = real.task
    return Sample(task.id, task.family, task.instruction, run(simulated), run(real))


def run(trajectory: Trajectory) -> Run:
    steps = tuple(Step(turn.action.text, turn.observation.text) for turn in trajectory.turns)
    reward = trajectory.score.reward
    return Run(steps, trajectory.stop.value, None if reward is None else reward >= 1.0)
