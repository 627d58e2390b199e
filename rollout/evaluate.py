"""Success of a policy on a set of tasks, in whatever world, with intervals.

Owns: running tasks without a pool, and turning trajectories into rates. Tasks are the unit of resampling: repeats of
one task are averaged first. Refuses: hiding what could not be scored: it counts as failure in the headline, and
``coverage`` stands beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import TaskError
from rollout.protocols import Chat, EnvFactory, Reward, Sampler
from rollout.seeds import derive_seed
from rollout.types import Sampling, Task, Trajectory, Version

DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``count`` tasks with its 95 % percentile-bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One episode. ``success`` is False where ``reward`` is None."""

    task_id: str
    family: str
    member: int
    reward: float | None
    success: bool
    stop: str
    turns: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``success``: share of tasks solved, unscorable episodes counted as failures. ``coverage``: share of episodes
    that have a score. ``success_scored``: success among those alone, None without any."""

    world_id: str
    version: tuple[int, int] | None
    success: Interval
    coverage: float
    success_scored: float | None
    families: Mapping[str, Interval]
    stops: Mapping[str, int]
    outcomes: tuple[Outcome, ...]

    def by_task(self) -> dict[str, float]:
        """Mean success of each task, in order of appearance."""
        found: dict[str, list[bool]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.task_id, []).append(outcome.success)
        return {task_id: float(np.mean(values)) for task_id, values in found.items()}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def run_tasks(
    tasks: Sequence[Task],
    env_factory: EnvFactory,
    sampler: Sampler,
    chat: Chat,
    reward: Reward,
    settings: EpisodeSettings,
    *,
    sampling: Sampling,
    seed: int = 0,
    repeats: int = 1,
    concurrency: int = 16,
) -> list[Trajectory]:
    """Each task ``repeats`` times in this process, at most ``concurrency`` at once; task by task, in order.

    Seeds depend on ``seed``, task and repeat alone: the same call before and after training, or in two worlds, is
    paired. Same signature of results as a pool's ``run_tasks``.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task, member: int) -> Trajectory:
        async with gate:
            environment = env_factory(task, derive_seed(seed, "eval", task.id, member))
            return await run_episode(
                task,
                environment,
                sampler,
                chat,
                reward,
                settings,
                group="eval",
                member=member,
                seed=seed,
                sampling=sampling,
            )

    return list(await asyncio.gather(*(one(task, member) for task in tasks for member in range(repeats))))


def evaluate(trajectories: Sequence[Trajectory], *, threshold: float = 1.0, seed: int = 0) -> Evaluation:
    """Rates of finished episodes; success is a reward of at least ``threshold``.

    Raises:
        TaskError: no trajectory at all.
    """
    if not trajectories:
        raise TaskError("evaluation: no episode to evaluate; check the task filter")
    outcomes = tuple(_outcome(trajectory, threshold) for trajectory in trajectories)
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.family, []).append(outcome)
    scored = [outcome for outcome in outcomes if outcome.reward is not None]
    versions = [v for t in trajectories for turn in t.turns for v in turn.completion.versions]
    oldest: Version | None = min(versions, default=None)
    return Evaluation(
        world_id=trajectories[0].world_id,
        version=None if oldest is None else (oldest.attempt, oldest.step),
        success=bootstrap(_task_means(outcomes), seed),
        coverage=len(scored) / len(outcomes),
        success_scored=sum(o.success for o in scored) / len(scored) if scored else None,
        families={name: bootstrap(_task_means(found), seed) for name, found in sorted(families.items())},
        stops=dict(Counter(outcome.stop for outcome in outcomes)),
        outcomes=outcomes,
    )


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> Interval:
    """Mean of ``values`` and its 95 % percentile interval over ``draws`` resamples, the same for the same input."""
    if not len(values):
        raise TaskError("bootstrap: no values")
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [data[rng.integers(0, len(data), (min(500, draws - done), len(data)))].mean(1) for done in range(0, draws, 500)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired_gain(before: Evaluation, after: Evaluation, seed: int = 0) -> Interval:
    """Mean of after - before over tasks, resampling tasks.

    Raises:
        TaskError: the two did not run the same tasks.
    """
    old, new = before.by_task(), after.by_task()
    if old.keys() != new.keys():
        odd = sorted(old.keys() ^ new.keys())
        raise TaskError(f"paired gain: {len(odd)} tasks are in one evaluation only, first {odd[0]}")
    return bootstrap([new[task_id] - old[task_id] for task_id in old], seed)


def _outcome(trajectory: Trajectory, threshold: float) -> Outcome:
    reward = trajectory.score.reward
    return Outcome(
        task_id=trajectory.task.id,
        family=trajectory.task.family,
        member=trajectory.member,
        reward=reward,
        success=reward is not None and reward >= threshold,
        stop=trajectory.stop.value,
        turns=len(trajectory.turns),
        reason=trajectory.score.reason or trajectory.error or "",
    )


def _task_means(outcomes: Sequence[Outcome]) -> list[float]:
    found: dict[str, list[bool]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.task_id, []).append(outcome.success)
    return [float(np.mean(values)) for values in found.values()]
