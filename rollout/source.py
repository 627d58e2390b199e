"""Finished groups for the trainer: scheduler + pool + tasks + store behind ``BatchSource`` and ``WeightSink``.

Owns: the order of things (persist, then act), the trajectories of open groups, the spot check, metrics per batch.
Refuses: policy of any of its parts, and raising what the trainer should read: faults that end a run come back from
``take`` as a ``Failure``.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rollout.attendant import Attendant
from rollout.batch_metrics import batch_metrics
from rollout.errors import BudgetSpent, CheckpointError, ConfigError
from rollout.events import Cancel, Command, FaultKind, GroupClosed, Restored, Submit
from rollout.pool import BACKGROUND, Pool
from rollout.pool_types import Faulted, Finished, PoolEvent, Replayed
from rollout.protocols import RawTensor
from rollout.scheduler import Outcome, Ready, Scheduler, SchedulerSettings
from rollout.seeds import derive_seed
from rollout.spot import SpotCheck, SpotSettings, success
from rollout.store import RolloutStore, decode, encode
from rollout.types import Batch, Failure, Group, Sampling, Stop, Task, Trajectory, Turn, Version
from rollout.worker import EpisodeJob, Job, ReplayJob

_log = logging.getLogger(__name__)
_CUT_SECONDS = 15.0  # for the workers to say how far their episodes are
_FAULTS = {
    Stop.WORLD_ERROR: FaultKind.WORLD,
    Stop.SAMPLER_ERROR: FaultKind.SAMPLER,
    Stop.TIMEOUT: FaultKind.TIMEOUT,
}


class TaskFeed:
    """The task of the n-th group: every task once per epoch, each epoch in an order of its own. A pure function of n,
    so that a checkpoint needs no more than n."""

    def __init__(self, task_ids: Sequence[str], seed: int) -> None:
        """Raises ConfigError: no task, or two with one id."""
        if not task_ids:
            raise ConfigError("rollout: no training task is left; generate more, or widen the families")
        if len(set(task_ids)) != len(task_ids):
            twice = next(i for n, i in enumerate(task_ids) if i in task_ids[:n])
            raise ConfigError(f"rollout: two training tasks have the id {twice}")
        self._ids, self._seed = tuple(task_ids), seed
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __call__(self, ordinal: int) -> str:
        epoch, place = divmod(ordinal, len(self._ids))
        return self._order(epoch)[place]

    @property
    def identity(self) -> str:
        return hashlib.sha256("\n".join(self._ids).encode()).hexdigest()[:16]

    def _shuffled(self, epoch: int) -> tuple[str, ...]:
        ids = list(self._ids)
        random.Random(derive_seed(self._seed, "epoch", epoch)).shuffle(ids)
        return tuple(ids)


class RolloutSource:
    """The trainer calls ``publish`` first, then for each generation batch ``take``, ``settle`` and ``publish``.

    From the first publication to ``finish`` (or the pool's end) a thread takes in results between these calls."""

    def __init__(
        self,
        pool: Pool,
        tasks: Sequence[Task],
        settings: SchedulerSettings,
        store: RolloutStore,
        *,
        seed: int,
        sampling: Sampling | None = None,
        env: str | None = None,
        spot: SpotSettings | None = None,
        straggler_seconds: float = 60.0,
    ) -> None:
        """``env``: the world to train in, the pool's default unless named. ``spot`` None: no spot check.
        ``straggler_seconds``: with ``min_viable`` members set, how long a group's first member waits for the others.
        Raises ConfigError where tasks or worlds are not there."""
        self.pool, self.store, self.settings = pool, store, settings
        self._tasks = {task.id: task for task in tasks}
        self._feed = TaskFeed([task.id for task in tasks], seed)
        self._seed = seed
        self._sampling = sampling or pool.spec.sampling
        self._env = env or pool.spec.env
        self._share = spot.share if spot else 0.0
        self.spot = SpotCheck(spot or SpotSettings())
        for name in [self._env, *([self.spot.settings.env] if self._share else [])]:
            if name not in pool.spec.env_factories:
                raise ConfigError(f"rollout: no world named {name!r} among {', '.join(pool.spec.env_factories)}")
        self.scheduler = Scheduler(settings, seed, self._feed)
        self._straggler_seconds = straggler_seconds
        self._first: dict[str, float] = {}  # group -> when its first member arrived, of groups that may be cut
        self._held: dict[str, Trajectory] = {}  # by reference, of open groups
        self._jobs: dict[str, tuple[str, int, int]] = {}  # job id -> group, member, tries
        self._resume: dict[str, tuple[Turn, ...]] = {}  # job id -> whole turns of an interrupted episode
        self._stragglers = 0  # groups that went on without their late members
        self._turns_restored = self._turns_lost = 0  # of interrupted episodes that have come back since
        self._spots: dict[str, bool | None] = {}  # job id -> simulated verdict
        self.restored = ""  # in words, what ``restore`` brought back
        self._failure: Failure | None = None
        self._wait_seconds = 0.0
        self._published_at = time.monotonic()
        self._lock = threading.RLock()
        self._over = False
        self._attendant = Attendant(pool.arrived, self._tend)

    # -- BatchSource

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        """See ``BatchSource``. A failure is final: each later call returns it again."""
        begun = time.monotonic()
        while True:
            with self._lock:
                found = self._failure or self._look(step)
                if found is None and time.monotonic() - begun < timeout:
                    self._pump(min(0.5, max(0.0, begun + timeout - time.monotonic())))
                    continue
                self._wait_seconds += time.monotonic() - begun
                if isinstance(found, tuple):
                    return self._batch(step, found)
                return found

    def settle(self, step: int) -> None:
        with self._lock:
            self.scheduler.settle(step)
            self._flush()

    def snapshot(self) -> Mapping[str, Any]:
        """JSON-able; everything it refers to is on disk when it returns. Episodes that are running are cut after
        their last whole turn (decision 20)."""
        with self._lock:
            under_way = self.pool.unfinished(_CUT_SECONDS) if self._jobs else {}
            self._pump(0.0)  # after the cut: what has ended meanwhile is kept whole
            under_way = self._resume | {job: turns for job, turns in under_way.items() if job in self._jobs}
            self.store.sync()
            return {
                "attempt": self.store.attempt,
                "ledger_lines": self.store.ledger_lines,
                "tasks": self._feed.identity,
                "seed": self._seed,
                "scheduler": self.scheduler.snapshot({_member(job) for job in under_way}),
                "under_way": {job: encode(turns) for job, turns in under_way.items()},
                "spot": self.spot.snapshot(),
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Before the first ``publish`` of a new attempt. Raises CheckpointError: other tasks, another seed, or
        buffered trajectories that are not in the store."""
        if not state:
            return
        with self._lock:
            if state["tasks"] != self._feed.identity or state["seed"] != self._seed:
                raise CheckpointError(
                    "the checkpoint was made with other training tasks or another seed: resume with the same config, "
                    "or start a new run directory"
                )
            kept, reissued = self.scheduler.restore(state["scheduler"])
            self.spot.restore(state["spot"])
            self._held = self.store.load(self.scheduler.refs())
            self._resume = {
                job: tuple(decode(Turn, turn) for turn in turns) for job, turns in state.get("under_way", {}).items()
            }
            going_on = len(self._resume)
            self.store.record([Restored(state["attempt"], state["ledger_lines"], kept, reissued, going_on)])
            turns = sum(map(len, self._resume.values()))
            self.restored = (
                f"{kept} finished groups; {reissued} groups with episodes to run, {going_on} of these go on after "
                f"{turns} whole turns"
            )

    # -- WeightSink

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        """See ``WeightSink``. Afterwards the groups that ``version`` makes admissible are on their way."""
        with self._lock:
            self._pump(0.0)
            self.scheduler.publish(version)
            self._flush()
            confirmed = self.pool.publish(version, tensors)
            self._admit()
            self._published_at = time.monotonic()
            self.store.seal(before=version.step)
            self._attendant.start()
            return confirmed

    # -- end of the run

    def finish(self) -> None:
        """Training is complete: close what is still open, so that every group has its fate."""
        with self._lock:
            self._pump(0.0)
            self.scheduler.finish()
            self._flush()
            self.store.sync()
            self._over = True
        self._attendant.join()

    # -- inner steps

    def _tend(self) -> bool:
        """While the trainer trains: take in what has arrived, issue retries and groups in place of filtered ones. False
        where there is nothing more to look after."""
        with self._lock:
            if self._over or self._failure is not None or self.pool.closed:
                return False
            try:
                self._pump(0.0)
                self._check_budgets()
                if self._failure is None:
                    self._admit()
            except Exception as error:  # the trainer reads it from ``take``, the traceback is in the log
                _log.exception("looking after the rollouts")
                self._failure = Failure("rollout source", f"{type(error).__name__}: {error}")
            return True

    def _look(self, step: int) -> tuple[Ready, ...] | Failure | None:
        """The groups of ``step`` where they are complete, or the reason to end the run."""
        if self.scheduler.version is None:
            return Failure("rollout source", "no weights were published before the first batch was asked for")
        self._check_budgets()
        if self._failure is not None:
            return self._failure
        self._cut_late()
        ready = self.scheduler.take(step)
        self._admit()
        return ready

    def _check_budgets(self) -> None:
        try:
            self.scheduler.check_budgets()
        except BudgetSpent as spent:
            self._failure = Failure("rollout", str(spent))
            return
        reason = self.spot.over_limit() if self._share else None
        if reason is not None:
            self._failure = Failure("spot check", reason)

    def _cut_late(self) -> None:
        due = time.monotonic() - self._straggler_seconds
        for group in [group for group, first in self._first.items() if first < due]:
            if self.scheduler.cut(group):
                self._stragglers += 1
                self._flush()

    def _admit(self) -> None:
        self.scheduler.admit()
        self._flush()

    def _pump(self, timeout: float) -> None:
        """Take in whatever the pool has, waiting at most ``timeout`` seconds for the first."""
        for event in self.pool.poll(timeout):
            self._handle(event)
        self._flush()

    def _handle(self, event: PoolEvent) -> None:
        if isinstance(event, Faulted) and event.fatal:
            self._failure = Failure("rollout worker", f"{event.job.task.id}: {event.cause}")
        if isinstance(event, Replayed):
            simulated = self._spots.pop(event.job.id, None)
            if event.outcome.fault is None:
                self.spot.add(simulated, success(event.outcome.results))
            else:
                self._spot_fault(FaultKind.WORLD, event.outcome.fault)
        elif isinstance(event, Faulted) and isinstance(event.job, ReplayJob):
            self._spots.pop(event.job.id, None)
            self._spot_fault(event.kind, event.cause)
        elif event.job.id in self._jobs:
            group, member, tries = self._jobs.pop(event.job.id)
            self._resume.pop(event.job.id, None)
            if isinstance(event, Faulted):
                self.scheduler.report(group, member, tries, Outcome(fault=event.kind, cause=event.cause))
            else:
                self._arrived(event, group, member, tries)

    def _arrived(self, event: Finished, group: str, member: int, tries: int) -> None:
        found = event.trajectory
        self._count_restored(event)
        fault = _FAULTS.get(found.stop) or (None if found.turns else FaultKind.UNSCORABLE)
        cause = f"{found.task.id}: {found.error or found.score.reason or found.stop.value}" if fault else ""
        version = self.scheduler.version
        ref = self.store.add(version.step if version else 0, found) if found.turns else None
        outcome = Outcome(ref, found.score.reward, found.oldest_version, fault, cause)
        if self.scheduler.report(group, member, tries, outcome) and ref is not None:
            self._held[ref] = found
            if fault is None:
                if self.settings.min_viable is not None:
                    self._first.setdefault(group, time.monotonic())
                self._maybe_spot(found)

    def _count_restored(self, event: Finished) -> None:
        if event.job.resume:
            kept = int(event.trajectory.timings.get("turns_restored", 0))
            self._turns_restored += kept
            self._turns_lost += len(event.job.resume) - kept

    def _maybe_spot(self, found: Trajectory) -> None:
        """Replay a seeded share of what the simulator has judged."""
        verdict = success(found.results)
        draw = derive_seed(self._seed, "spot", found.group, found.member) / 2**63
        if verdict is None or draw >= self._share:
            return
        actions = tuple(turn.action.text for turn in found.turns)
        job_id = f"spot/{found.group}/{found.member}"
        self._spots[job_id] = verdict
        seed, timeout = derive_seed(self._seed, job_id), self.pool.spec.settings.episode_timeout
        job = ReplayJob(job_id, found.task, actions, self.spot.settings.env, seed, timeout)
        self.pool.submit([job], priority=BACKGROUND)

    def _spot_fault(self, kind: FaultKind, cause: str) -> None:
        self.spot.faults += 1
        self.scheduler.count_fault(kind, f"spot check, {cause}")

    def _flush(self) -> None:
        """Ledger first, then the pool."""
        commands, events = self.scheduler.drain()
        self.store.record(events)
        if any(isinstance(event, GroupClosed) for event in events):
            needed = set(self.scheduler.refs())
            self._held = {ref: found for ref, found in self._held.items() if ref in needed}
            closed = {event.group for event in events if isinstance(event, GroupClosed)}
            self._first = {group: first for group, first in self._first.items() if group not in closed}
            self._resume = {job: turns for job, turns in self._resume.items() if _member(job)[0] not in closed}
        self._act(commands)

    def _act(self, commands: Sequence[Command]) -> None:
        jobs: list[Job] = []
        cancelled: list[str] = []
        for command in commands:
            if isinstance(command, Submit):
                jobs.append(self._job(command))
            elif isinstance(command, Cancel):
                members = set(command.members)
                cancelled += [i for i, (g, m, _) in self._jobs.items() if g == command.group and m in members]
        for job_id in cancelled:
            del self._jobs[job_id]
            self._resume.pop(job_id, None)
        if cancelled:
            self.pool.cancel(cancelled)
        if jobs:
            gone = set(cancelled)
            self.pool.submit([job for job in jobs if job.id not in gone])

    def _job(self, submit: Submit) -> EpisodeJob:
        job_id = f"{submit.group}/{submit.member}/{submit.tries}"
        self._jobs[job_id] = (submit.group, submit.member, submit.tries)
        task, version = self._tasks[submit.task_id], self.scheduler.version
        return EpisodeJob(
            job_id,
            task,
            submit.group,
            submit.member,
            submit.seed,
            self._env,
            self._sampling,
            version,
            self._resume.get(job_id, ()),
        )

    def _batch(self, step: int, ready: Sequence[Ready]) -> Batch:
        version = self.scheduler.version
        assert version is not None
        groups = tuple(Group(r.group, r.task_id, tuple(self._held[ref] for ref in r.refs)) for r in ready)
        metrics = batch_metrics(groups, seconds=time.monotonic() - self._published_at)
        metrics |= {
            "perf/rollout_wait_s": self._wait_seconds,
            "sample/staleness_mean": sum(r.staleness for r in ready) / len(ready),
            "sample/staleness_max": float(max(r.staleness for r in ready)),
            "rollout/worker_restarts": float(self.pool.restarts),
            **{f"rollout/{name}": float(count) for name, count in self.pool.counts().items()},
            "rollout/groups_cut": float(self._stragglers),
            "rollout/turns_restored": float(self._turns_restored),
            "rollout/turns_lost": float(self._turns_lost),
        }
        metrics |= {f"rollout/faults/{k.value}": float(n) for k, n in self.scheduler.fault_totals.items()}
        metrics |= {f"rollout/groups/{k.value}": float(n) for k, n in self.scheduler.fates.items()}
        if self._share:
            metrics |= self.spot.metrics()
        self._wait_seconds = 0.0
        return Batch(step, groups, version, metrics)


def _member(job_id: str) -> tuple[str, int]:
    """(group, member) of a job ``group/member/tries``."""
    group, member, _ = job_id.split("/")
    return group, int(member)
