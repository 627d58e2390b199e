"""One rollout worker: a sampler, a chat and worlds in one process, many episodes at once.

Owns: building them from a picklable spec, running jobs, swapping weights. Refuses: Ray (see ``ray_pool``), retries,
choosing what to run. Sampler and world model live in the worker's own process: no hop per token.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import ConfigError, WorldFault
from rollout.protocols import ChatFactory, EnvFactory, RawTensor, Reward, SamplerFactory, UpdatableSampler
from rollout.spot import replay_actions
from rollout.types import CheckResult, Observation, Sampling, Task, Trajectory, Turn, Version

Packer = Callable[[Version, Iterable[tuple[str, RawTensor]]], Any]
_SHARED = ("types.py", "protocols.py", "errors.py", "seeds.py", "chat.py", "episode.py", "worker.py")
PACKAGES = ("rollout", "worldmodel", "trainer", "launch")


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What every worker is built from; picklable. ``slots``: episodes at once per worker. ``env_factories``: worlds
    by name. ``threads``: CPU threads per worker process. Timeouts in seconds."""

    num_workers: int
    slots: int
    env_factories: Mapping[str, EnvFactory]
    sampler_factory: SamplerFactory
    chat_factory: ChatFactory
    reward: Reward
    settings: EpisodeSettings = field(default_factory=EpisodeSettings)
    sampling: Sampling = field(default_factory=Sampling)
    env: str = "sim"  # the world of a job that names none
    threads: int = 1
    start_timeout: float = 120.0
    update_timeout: float = 120.0
    pack: Packer | None = None  # the form in which published weights travel; None: in memory

    @property
    def episode_limit(self) -> float:
        """Seconds after which an episode that has not come back counts as hung: its own deadlines, and a margin."""
        s = self.settings
        return s.episode_timeout + 2 * s.verify_timeout * (1 + s.world_retries) + s.close_timeout + 10.0


@dataclass(frozen=True, slots=True)
class EpisodeJob:
    """One member to run. ``version``: the oldest weights that may run it (None: any). ``resume``: whole turns of an
    interrupted try, to go on after where the world can."""

    id: str
    task: Task
    group: str
    member: int
    seed: int
    env: str
    sampling: Sampling
    version: Version | None = None
    resume: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """Recorded action texts to act out and judge in world ``env``. ``timeout`` in seconds."""

    id: str
    task: Task
    actions: tuple[str, ...]
    env: str
    seed: int
    timeout: float


Job = EpisodeJob | ReplayJob


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """``fault`` None: ``results`` and ``observations`` are those of the replay."""

    task_id: str
    results: tuple[CheckResult, ...] = ()
    observations: tuple[Observation, ...] = ()
    fault: str | None = None


class WrongVersion(Exception):
    """The worker restarted and lost its weights; the pool sends them again."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Raw bytes as an array, so that an object store maps them instead of copying (a ``RawTensor`` in shape)."""

    data: np.ndarray  # uint8, one axis
    dtype: str
    shape: tuple[int, ...]


def pack(tensors: Iterable[tuple[str, RawTensor]] | Mapping[str, RawTensor]) -> dict[str, Packed]:
    """Weights in the form in which they travel."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return {name: Packed(np.frombuffer(t.data, dtype=np.uint8), t.dtype, tuple(t.shape)) for name, t in items}


@runtime_checkable
class Closable(Protocol):
    """A sampler that holds a thread or a server."""

    def close(self) -> None: ...


class Worker:
    """Async: every method is called on one event loop."""

    def __init__(self, spec: PoolSpec, index: int) -> None:
        self.index = index
        self.version: Version | None = None  # None: the weights that the factory loaded
        self._spec = spec
        self._chat = spec.chat_factory()
        self._sampler = spec.sampler_factory()
        self._updating = asyncio.Lock()
        self._gate = asyncio.Semaphore(spec.slots)
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._turns: dict[str, list[Turn]] = {}  # of running episodes, by job

    async def ready(self) -> int:
        return self.index

    async def run(self, job: Job) -> Trajectory | ReplayOutcome | None:
        """The job's result; None if it was cancelled. Raises WrongVersion, and whatever is a bug or a bad config."""
        task = asyncio.ensure_future(self._run(job))
        self._running[job.id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return None
            task.cancel()
            raise
        finally:
            del self._running[job.id]

    async def unfinished(self) -> dict[str, tuple[Turn, ...]]:
        """The whole turns of every running episode that has any, by job: a cut through all of them at one instant."""
        return {job_id: tuple(turns) for job_id, turns in self._turns.items() if turns}

    async def cancel(self, job_id: str) -> bool:
        """True if it was running."""
        task = self._running.get(job_id)
        return task is not None and task.cancel()

    async def update(self, version: Version, tensors: Mapping[str, Packed]) -> Version:
        """Serve ``tensors`` from now on; episodes that are running go on with them."""
        sampler = cast(UpdatableSampler, self._sampler)
        async with self._updating:  # one that follows a restart may meet the next one
            self.version = Version(*await asyncio.to_thread(sampler.update, version, cast(Any, tensors)))
        return self.version

    def close(self) -> None:
        """Free the sampler, where it holds something."""
        if isinstance(self._sampler, Closable):
            self._sampler.close()

    async def _run(self, job: Job) -> Trajectory | ReplayOutcome:
        async with self._gate:
            return await (self._replay(job) if isinstance(job, ReplayJob) else self._episode(job))

    async def _episode(self, job: EpisodeJob) -> Trajectory:
        if job.version is not None and (self.version is None or self.version < job.version):
            raise WrongVersion(f"worker {self.index} has {self.version}, the job needs {job.version}")
        turns = self._turns[job.id] = []
        try:
            return await run_episode(
                job.task,
                self._factory(job.env)(job.task, job.seed),
                self._sampler,
                self._chat,
                self._spec.reward,
                self._spec.settings,
                group=job.group,
                member=job.member,
                seed=job.seed,
                sampling=job.sampling,
                resume=job.resume,
                turns=turns,
            )
        finally:
            del self._turns[job.id]

    async def _replay(self, job: ReplayJob) -> ReplayOutcome:
        try:
            environment = self._factory(job.env)(job.task, job.seed)
            deadline = time.monotonic() + job.timeout
            results, seen = await replay_actions(environment, job.task, job.actions, deadline)
        except WorldFault as fault:
            return ReplayOutcome(job.task.id, fault=str(fault))
        return ReplayOutcome(job.task.id, results, tuple(seen))

    def _factory(self, name: str) -> EnvFactory:
        factory = self._spec.env_factories.get(name)
        if factory is None:
            known = ", ".join(sorted(self._spec.env_factories))
            raise ConfigError(f"no world named {name!r}; this pool has: {known}")
        return factory


def code_fingerprint() -> str:
    """Identity of the code that driver and workers must share: sha256 over the modules that define what crosses
    between them. Raises ConfigError if one of the four packages is missing or comes from another distribution (the
    names are generic)."""
    home = Path(__file__).resolve().parent
    for name in PACKAGES:
        spec = find_spec(name)
        places = [] if spec is None or spec.submodule_search_locations is None else spec.submodule_search_locations
        found = [Path(place).resolve() for place in places]
        if found != [home.parent / name]:
            where = ", ".join(map(str, found)) or "nowhere"
            raise ConfigError(
                f"package {name} comes from {where}, not from {home.parent}: another distribution shadows it"
            )
    digest = hashlib.sha256()
    for name in _SHARED:
        digest.update((home / name).read_bytes())
    return digest.hexdigest()[:16]
