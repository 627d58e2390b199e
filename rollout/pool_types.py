"""What passes between pools, their workers and their users.

Owns: a pool's events, the handle of one worker, and the mapping from a call's outcome to an event.
Refuses: queues, threads, deadlines (``pool``).
"""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.errors import AgentworldError, SamplerFault, WorldFault
from rollout.events import FaultKind
from rollout.types import Prompt, Score, Stop, Trajectory, Version
from rollout.worker import EpisodeJob, Job, ReplayJob, ReplayOutcome


@dataclass(frozen=True, slots=True)
class Finished:
    """An episode came to an end, scored or not."""

    job: EpisodeJob
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Replayed:
    job: ReplayJob
    outcome: ReplayOutcome


@dataclass(frozen=True, slots=True)
class Faulted:
    """The job came to nothing. ``fatal``: a bug or a bad setting, another try cannot help."""

    job: Job
    kind: FaultKind
    cause: str
    fatal: bool = False


PoolEvent = Finished | Replayed | Faulted
Inbox = queue.SimpleQueue[PoolEvent]


class Handle(Protocol):
    """One worker, wherever it runs. Futures end in the call's result or its exception."""

    name: str

    def run(self, job: Job) -> Future[Any]: ...

    def cancel(self, job_id: str) -> None: ...

    def unfinished(self) -> Future[Any]:
        """Whole turns of the episodes that run there, by job id."""
        ...

    def ready(self) -> Future[Any]:
        """Done once the worker answers, also after a restart."""
        ...

    def update(self, version: Version, payload: Any) -> Future[Any]: ...

    def died(self, error: BaseException) -> bool:
        """Whether ``error`` means that the process was lost."""
        ...

    def restart(self) -> None:
        """End a process that no longer answers; a new one takes its place where that is possible."""
        ...

    def close(self) -> None: ...


def outcome_event(job: Job, handle: Handle, future: Future[Any], error: BaseException | None) -> PoolEvent | None:
    if error is None:
        result = future.result()
        if isinstance(result, Trajectory):
            assert isinstance(job, EpisodeJob)
            return Finished(job, result)
        if isinstance(result, ReplayOutcome):
            assert isinstance(job, ReplayJob)
            return Replayed(job, result)
        return Faulted(job, FaultKind.WORKER, f"{handle.name} cancelled the job")
    if handle.died(error):
        return Faulted(job, FaultKind.WORKER, f"{handle.name} was lost: {first_line(error)}")
    if isinstance(error, WorldFault):
        return Faulted(job, FaultKind.WORLD, str(error))
    if isinstance(error, SamplerFault):
        return Faulted(job, FaultKind.SAMPLER, str(error))
    return Faulted(job, FaultKind.WORKER, first_line(error), fatal=True)


def may_retry(event: PoolEvent) -> bool:
    """Whether another try may help."""
    if isinstance(event, Finished):
        return event.trajectory.stop.failed
    return not isinstance(event, Replayed) or event.outcome.fault is not None


def fault_cause(event: PoolEvent) -> str:
    return event.cause if isinstance(event, Faulted) else "no replay"


def first_line(error: BaseException) -> str:
    if isinstance(error, AgentworldError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def lost_episode(job: EpisodeJob, event: PoolEvent) -> Trajectory:
    """The episode that never came to be, as data."""
    assert isinstance(event, Faulted)
    kind, cause = event.kind, event.cause
    stops = {FaultKind.WORLD: Stop.WORLD_ERROR, FaultKind.TIMEOUT: Stop.TIMEOUT}
    return Trajectory(
        task=job.task,
        group=job.group,
        member=job.member,
        prompt=Prompt(()),
        turns=(),
        stop=stops.get(kind, Stop.SAMPLER_ERROR),
        score=Score(None, {}, cause),
        sampling=job.sampling,
        error=cause,
    )
