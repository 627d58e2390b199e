"""The episodes of one benchmark: those that are missing are run, each is on disk the moment it ends.

Owns: which episodes are finished, retries, and giving up where nothing but faults arrives. Refuses: statistics, and
knowing policy or world.

An episode that a fault of world or policy server ended counts as a failure, and is run again by the next call.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout.errors import AgentworldError, BudgetSpent, SamplerFault
from rollout.pool import Pool
from rollout.pool_types import Faulted, Finished, Inbox, PoolEvent, lost_episode, may_retry
from rollout.seeds import derive_seed
from rollout.store import TrajectoryLog, encode
from rollout.types import Sampling, Stop, Task, Trajectory
from rollout.worker import EpisodeJob

FAULTS_IN_A_ROW = 12  # then the machine or the policy's server is broken, not an episode
RETRIES = 1
POLL_SECONDS = 0.5


def finished(found: Sequence[Trajectory], tasks: Sequence[Task], file: Path) -> dict[str, Trajectory]:
    """The last episode of each task in ``file``. Raises AgentworldError where a task of the same id was another one."""
    by_id = {trajectory.task.id: trajectory for trajectory in found}
    for task in tasks:
        earlier = by_id.get(task.id)
        if earlier is not None and _asked(earlier.task) != _asked(task):
            raise AgentworldError(
                f"{file}: task {task.id} was another task when this evaluation began (the domain changed): "
                "choose another --run-dir"
            )
    return {task.id: by_id[task.id] for task in tasks if task.id in by_id}


def _asked(task: Task) -> Any:
    """What makes it this task, in the form in which it is on disk (a generator may give lists for tuples)."""
    return encode((task.instruction, task.checks))


def run_missing(
    pool: Pool,
    tasks: Sequence[Task],
    file: Path,
    env: str,
    sampling: Sampling,
    seed: int,
    slots: int,
    tick: Callable[[Trajectory], None],
) -> list[Trajectory]:
    """One trajectory a task, in order, at most ``slots`` at once; ``tick`` hears of each, the finished ones first.
    What was finished is kept where too many faults in a row raise SamplerFault (the policy's) or BudgetSpent."""
    log = TrajectoryLog(file)
    try:
        done = finished(log.found, tasks, file)
        for trajectory in done.values():
            if not trajectory.stop.failed:
                tick(trajectory)
        jobs = [
            EpisodeJob(
                f"{file.stem}/{n}/0", t, "eval", 0, derive_seed(seed, "eval", t.id, 0), env, sampling, pool.version
            )
            for n, t in enumerate(tasks)
            if t.id not in done or done[t.id].stop.failed
        ]

        def keep(trajectory: Trajectory) -> None:
            log.add(trajectory)
            done[trajectory.task.id] = trajectory
            tick(trajectory)

        _drive(pool, jobs, slots, keep)
        return [done[task.id] for task in tasks]
    finally:
        log.close()


def _drive(pool: Pool, jobs: Sequence[EpisodeJob], slots: int, keep: Callable[[Trajectory], None]) -> None:
    """Runs ``jobs``; the pool's own deadlines make every one of them come back."""
    inbox: Inbox = queue.SimpleQueue()
    waiting, under_way = list(reversed(jobs)), set[str]()
    faults = 0
    try:
        while waiting or under_way:
            while waiting and len(under_way) < slots:
                job = waiting.pop()
                under_way.add(job.id)
                pool.submit([job], inbox)
            for event in pool.poll(POLL_SECONDS, inbox):
                under_way.discard(event.job.id)
                again = _again(event)
                if again is not None:
                    waiting.append(again)
                    continue
                trajectory = _trajectory(event)
                faults = faults + 1 if trajectory.stop.failed else 0
                keep(trajectory)
                if faults >= FAULTS_IN_A_ROW:
                    why = f"{faults} episodes in a row ended in a fault: {trajectory.error or trajectory.score.reason}"
                    raise SamplerFault(why) if trajectory.stop is Stop.SAMPLER_ERROR else BudgetSpent(why)
    finally:
        pool.cancel(under_way)


def _again(event: PoolEvent) -> EpisodeJob | None:
    """The job once more, where that may help. Raises AgentworldError where it cannot."""
    if isinstance(event, Faulted) and event.fatal:
        raise AgentworldError(f"{event.job.task.id}: {event.cause}")
    assert isinstance(event.job, EpisodeJob)
    name, _, tries = event.job.id.rpartition("/")
    return replace(event.job, id=f"{name}/{int(tries) + 1}") if may_retry(event) and int(tries) < RETRIES else None


def _trajectory(event: PoolEvent) -> Trajectory:
    assert isinstance(event.job, EpisodeJob)
    return event.trajectory if isinstance(event, Finished) else lost_episode(event.job, event)


def tokens(trajectories: Sequence[Trajectory], counted: bool) -> Mapping[str, int] | None:
    """Tokens read and written: as the policy's server reports them, else by id where ids are tokens (``counted``).
    None where neither is known."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    usages = [turn.completion.usage for turn in turns if turn.completion.usage is not None]
    if usages:
        return {
            "prompt": sum(usage.prompt_tokens for usage in usages),
            "generated": sum(usage.completion_tokens for usage in usages),
        }
    if not counted:
        return None
    prompt = 0
    for trajectory in trajectories:
        row = 0
        for turn in trajectory.turns:
            row += len(turn.context_ids)
            prompt += row
            row += len(turn.completion.ids)
    return {"prompt": prompt, "generated": sum(len(turn.completion.ids) for turn in turns)}
