"""Jobs to workers, results back: the part of a pool that Ray and the in-process twin share.

Owns: the queue, slots, weights on every worker, deadlines, dead and hung workers, turning errors into events.
Refuses: retries and what a fault means for a group (``scheduler``), Ray (``ray_pool``), trajectories on disk.

Results return through inboxes: ``poll`` reads the pool's own, ``run_tasks`` and ``replay`` use private ones, so that
training, evaluation and spot checks share workers. Thread-safe.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from rollout.errors import AgentworldError, SamplerFault
from rollout.events import FaultKind
from rollout.pool_types import (
    Faulted,
    Finished,
    Handle,
    Inbox,
    PoolEvent,
    Replayed,
    fault_cause,
    first_line,
    lost_episode,
    may_retry,
    outcome_event,
)
from rollout.protocols import RawTensor
from rollout.seeds import derive_seed
from rollout.types import Sampling, Task, Trajectory, Turn, Version
from rollout.worker import EpisodeJob, Job, PoolSpec, ReplayJob, ReplayOutcome, WrongVersion, pack

EPISODE, BACKGROUND = 0, 1  # priorities
_TICK = 0.5  # seconds between looks at deadlines


@dataclass(slots=True)
class _Worker:
    handle: Handle
    running: int = 0
    usable: bool = True
    lost: str | None = None


@dataclass(slots=True)
class _Entry:
    job: Job
    inbox: Inbox
    priority: int
    pinned: bool
    worker: _Worker | None = None
    limit: float = 0.0  # absolute, monotonic


@dataclass(slots=True)
class _State:
    queue: list[tuple[int, int, _Entry]] = field(default_factory=list)
    busy: dict[str, _Entry] = field(default_factory=dict)
    weights: tuple[Version, Any] | None = None


class Pool:
    """See the module. Built by ``LocalPool`` and ``RayPool``."""

    def __init__(self, spec: PoolSpec, handles: Sequence[Handle], slots: int, put: Callable[[Any], Any]) -> None:
        """``slots`` per handle; ``put`` makes weights shareable (Ray's object store)."""
        self.spec = spec
        self.num_slots = slots * len(handles)
        self.restarts = 0
        self.watch: Callable[[int, int], None] | None = None  # ``run_tasks`` and ``replay`` tell it (done, all)
        self._slots = slots
        self._put = put
        self._workers = [_Worker(handle) for handle in handles]
        self._state = _State()
        self._order = itertools.count()
        self._inbox: Inbox = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = False

    # -- jobs

    @property
    def version(self) -> Version | None:
        """The weights last published; None while workers serve what their factory loaded."""
        return self._state.weights[0] if self._state.weights else None

    def submit(self, jobs: Iterable[Job], inbox: Inbox | None = None, *, priority: int = EPISODE) -> None:
        """Queue ``jobs``; each one ends in exactly one event, unless it is cancelled."""
        self._submit(jobs, self._inbox if inbox is None else inbox, priority, pinned=False)

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Stop these jobs; they bring no event any more."""
        wanted = set(job_ids)
        with self._lock:
            self._state.queue = [item for item in self._state.queue if item[2].job.id not in wanted]
            heapq.heapify(self._state.queue)
            for job_id in wanted & self._state.busy.keys():
                worker = self._release(job_id).worker
                if worker is not None:
                    worker.handle.cancel(job_id)
            self._dispatch()

    def poll(self, timeout: float, inbox: Inbox | None = None) -> list[PoolEvent]:
        """Everything that has arrived, waiting at most ``timeout`` seconds for the first. Looks after deadlines."""
        source = self._inbox if inbox is None else inbox
        until = time.monotonic() + timeout
        found: list[PoolEvent] = []
        while not found:
            self._check_deadlines()
            left = until - time.monotonic()
            try:
                found.append(source.get(timeout=max(0.0, min(left, _TICK))))
            except queue.Empty:
                if left <= _TICK:
                    return found
        while not source.empty():
            found.append(source.get_nowait())
        return found

    def arrived(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until ``poll`` has something; takes nothing. At once where the pool is
        closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._inbox.empty(), timeout)
            return not self._inbox.empty()

    def unfinished(self, timeout: float) -> dict[str, tuple[Turn, ...]]:
        """The whole turns so far of every running episode, by job id. A worker that does not answer within
        ``timeout`` seconds, or is lost, is left out: what it was at will have to start again."""
        with self._lock:
            futures = [worker.handle.unfinished() for worker in self._workers if worker.lost is None]
        wait(futures, timeout=timeout)
        found: dict[str, tuple[Turn, ...]] = {}
        for future in futures:
            if future.done() and future.exception() is None:
                found |= future.result()
        return found

    # -- weights

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        """Send weights to every worker; returns once all serve ``version``.

        Waits first for jobs that are pinned to the present weights (evaluation). Raises SamplerFault naming the
        workers that did not confirm in time."""
        payload = self._put(self.spec.pack(version, tensors) if self.spec.pack else pack(tensors))
        deadline = time.monotonic() + self.spec.update_timeout
        with self._changed:
            while any(entry.pinned for entry in self._entries()):
                if not self._changed.wait(timeout=deadline - time.monotonic()):
                    raise SamplerFault(f"weights {tuple(version)} waited {self.spec.update_timeout:g} s for evaluation")
            self._state.weights = (version, payload)
            futures = {w.handle.update(version, payload): w for w in self._workers if w.lost is None}
        wait(futures, timeout=max(0.0, deadline - time.monotonic()))
        for future, worker in futures.items():
            if not future.done():
                raise SamplerFault(
                    f"{worker.handle.name} did not confirm weights {tuple(version)} within "
                    f"{self.spec.update_timeout:g} s"
                )
            served = Version(*future.result())
            if served != version:
                raise SamplerFault(f"{worker.handle.name} serves {tuple(served)} after an update to {tuple(version)}")
        if not futures:
            raise SamplerFault(f"weights {tuple(version)}: {self._all_lost()}")
        return version

    # -- conveniences

    def run_tasks(
        self,
        tasks: Sequence[Task],
        *,
        env: str | None = None,
        sampling: Sampling | None = None,
        repeats: int = 1,
        seed: int = 0,
        retries: int = 1,
        timeout: float = 3600.0,
    ) -> list[Trajectory]:
        """Each task ``repeats`` times in world ``env`` under the present weights, which stay until all are done.

        Returns them task by task; an episode that no retry could save is a Trajectory without turns, with a failed
        stop and the cause. ``timeout`` in seconds for the whole call. Raises AgentworldError on a fault that no
        retry can help."""
        name, sampling = env or self.spec.env, sampling or self.spec.sampling
        prefix, version = f"eval-{next(self._order)}", self.version
        jobs = [
            EpisodeJob(f"{prefix}/{n}/{r}/0", t, "eval", r, derive_seed(seed, "eval", t.id, r), name, sampling, version)
            for n, t in enumerate(tasks)
            for r in range(repeats)
        ]
        found = self._collect(jobs, retries, timeout, pinned=True)
        return [
            event.trajectory if isinstance(event, Finished) else lost_episode(job, event)
            for job, event in zip(jobs, found, strict=True)
        ]

    def replay(
        self, jobs: Sequence[tuple[Task, Sequence[str], str, int]], timeout: float = 60.0, *, retries: int = 1
    ) -> list[ReplayOutcome]:
        """Act out (task, actions, world name, seed) on the workers, in order; ``timeout`` seconds each."""
        prefix = f"replay-{next(self._order)}"
        made = [
            ReplayJob(f"{prefix}/{n}/0", task, tuple(actions), env, seed, timeout)
            for n, (task, actions, env, seed) in enumerate(jobs)
        ]
        rounds = 1 + len(made) / self.num_slots
        found = self._collect(made, retries, (timeout + 15.0) * rounds * (retries + 1), pinned=False)
        return [
            event.outcome if isinstance(event, Replayed) else ReplayOutcome(job.task.id, fault=fault_cause(event))
            for job, event in zip(made, found, strict=True)
        ]

    def wait_ready(self) -> None:
        """Raises SamplerFault naming the workers that did not start in time, or the error of one that cannot."""
        futures = {worker.handle.ready(): worker for worker in self._workers}
        wait(futures, timeout=self.spec.start_timeout)
        late = [worker.handle.name for future, worker in futures.items() if not future.done()]
        if late:
            raise SamplerFault(f"{', '.join(late)} did not start within {self.spec.start_timeout:g} s")
        for future in futures:
            future.result()

    @property
    def closed(self) -> bool:
        return self._closed

    def counts(self) -> dict[str, int]:
        with self._lock:
            lost = sum(worker.lost is not None for worker in self._workers)
            return {"queued": len(self._state.queue), "running": len(self._state.busy), "lost_workers": lost}

    def close(self) -> None:
        """End workers. Open jobs bring no event."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._state.queue.clear()
            self._state.busy.clear()
            self._changed.notify_all()
        for worker in self._workers:
            worker.handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inner steps

    def _submit(self, jobs: Iterable[Job], inbox: Inbox, priority: int, pinned: bool) -> None:
        with self._lock:
            for job in jobs:
                self._enqueue(_Entry(job, inbox, priority, pinned))
            self._dispatch()

    def _enqueue(self, entry: _Entry) -> None:
        heapq.heappush(self._state.queue, (entry.priority, next(self._order), entry))

    def _entries(self) -> Iterable[_Entry]:
        return itertools.chain(self._state.busy.values(), (item[2] for item in self._state.queue))

    def _dispatch(self) -> None:
        if self._closed:
            return
        while self._state.queue:
            free = [w for w in self._workers if w.usable and w.running < self._slots]
            if not free:
                break
            entry = heapq.heappop(self._state.queue)[2]
            worker = min(free, key=lambda w: w.running)
            limit = entry.job.timeout + 30.0 if isinstance(entry.job, ReplayJob) else self.spec.episode_limit
            entry.worker, entry.limit = worker, time.monotonic() + limit
            worker.running += 1
            self._state.busy[entry.job.id] = entry
            future = worker.handle.run(entry.job)
            future.add_done_callback(partial(self._returned, entry))
        if self._state.queue and all(worker.lost for worker in self._workers):
            for _, _, entry in self._state.queue:
                entry.inbox.put(Faulted(entry.job, FaultKind.WORKER, self._all_lost(), fatal=True))
            self._state.queue.clear()
            self._changed.notify_all()

    def _release(self, job_id: str) -> _Entry:
        entry = self._state.busy.pop(job_id)
        if entry.worker is not None:
            entry.worker.running -= 1
        self._changed.notify_all()
        return entry

    def _returned(self, entry: _Entry, future: Future[Any]) -> None:
        """A job's future is done; called on whatever thread finished it."""
        with self._lock:
            if self._state.busy.get(entry.job.id) is not entry:
                return  # cancelled, given up or closed
            worker = self._release(entry.job.id).worker
            assert worker is not None
            error = CancelledError() if future.cancelled() else future.exception()
            if isinstance(error, WrongVersion):
                self._revive(worker)
                self._enqueue(entry)
            else:
                if error is not None and worker.handle.died(error):
                    self.restarts += worker.usable  # the first of its jobs to notice
                    self._revive(worker)
                event = outcome_event(entry.job, worker.handle, future, error)
                if event is not None:
                    entry.inbox.put(event)
            self._dispatch()

    def _revive(self, worker: _Worker) -> None:
        """Give a restarted worker its weights back; no job goes there before."""
        if not worker.usable:
            return
        worker.usable = False
        weights = self._state.weights
        handle = worker.handle
        future = handle.ready() if weights is None else handle.update(*weights)
        future.add_done_callback(partial(self._revived, worker, weights))

    def _revived(self, worker: _Worker, weights: tuple[Version, Any] | None, future: Future[Any]) -> None:
        with self._lock:
            error = CancelledError() if future.cancelled() else future.exception()
            if error is not None:
                worker.lost = f"{worker.handle.name} could not be restarted: {first_line(error)}"
            else:
                worker.usable = True
                if weights is not self._state.weights:
                    self._revive(worker)
            self._dispatch()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [entry for entry in self._state.busy.values() if entry.limit < now]
            hung: list[_Worker] = []
            for entry in late:
                worker = self._release(entry.job.id).worker
                assert worker is not None
                cause = f"{worker.handle.name} did not return {entry.job.id} ({entry.job.task.id}) before its deadline"
                entry.inbox.put(Faulted(entry.job, FaultKind.WORKER, cause))
                worker.handle.cancel(entry.job.id)
                if worker not in hung:
                    hung.append(worker)
        for worker in hung:
            worker.handle.restart()
        if hung:
            with self._lock:
                self._dispatch()

    def _collect(self, jobs: Sequence[Job], retries: int, timeout: float, *, pinned: bool) -> list[PoolEvent]:
        """One event per job, after retries. Raises AgentworldError on a fatal one."""
        inbox: Inbox = queue.SimpleQueue()
        until = time.monotonic() + timeout
        open_jobs = {job.id: (number, 0) for number, job in enumerate(jobs)}
        found: dict[int, PoolEvent] = {}
        self._submit(jobs, inbox, BACKGROUND, pinned)
        while open_jobs and time.monotonic() < until:
            for event in self.poll(min(_TICK, max(0.0, until - time.monotonic())), inbox):
                number, tries = open_jobs.pop(event.job.id)
                if isinstance(event, Faulted) and event.fatal:
                    self.cancel(open_jobs)
                    raise AgentworldError(f"{event.job.task.id}: {event.cause}")
                if may_retry(event) and tries < retries:
                    again = replace(event.job, id=f"{event.job.id.rpartition('/')[0]}/{tries + 1}")
                    open_jobs[again.id] = (number, tries + 1)
                    self._submit([again], inbox, BACKGROUND, pinned)
                else:
                    found[number] = event
            if self.watch is not None:
                self.watch(len(found), len(jobs))
        self.cancel(open_jobs)
        for number, _ in open_jobs.values():
            found[number] = Faulted(jobs[number], FaultKind.TIMEOUT, f"not finished within {timeout:.0f} s")
        return [found[number] for number in range(len(jobs))]

    def _all_lost(self) -> str:
        return "; ".join(worker.lost for worker in self._workers if worker.lost)
