"""The rollout worker as a Ray actor.

Owns: which calls Ray may repeat, and building the worker inside a call, so that its errors keep their type.
Refuses: all else (``worker``).
"""

from __future__ import annotations

from collections.abc import Mapping

import ray

from rollout.errors import ConfigError
from rollout.types import Trajectory, Turn, Version
from rollout.worker import Job, Packed, PoolSpec, ReplayOutcome, Worker, code_fingerprint


class RayWorker:
    """``run`` is never repeated by Ray: the scheduler counts and decides. ``ready`` and ``update`` may be repeated
    any number of times, so they end when a lost actor is back."""

    def __init__(self, spec: PoolSpec, index: int, fingerprint: str) -> None:
        self._spec, self._index, self._fingerprint = spec, index, fingerprint
        self._built: Worker | None = None

    @ray.method(max_task_retries=0)
    async def run(self, job: Job) -> Trajectory | ReplayOutcome | None:
        return await self._worker().run(job)

    @ray.method(max_task_retries=-1)
    async def ready(self) -> int:
        return await self._worker().ready()

    @ray.method(max_task_retries=-1)
    async def update(self, version: Version, tensors: Mapping[str, Packed]) -> Version:
        return await self._worker().update(version, tensors)

    @ray.method(max_task_retries=0)
    async def unfinished(self) -> dict[str, tuple[Turn, ...]]:
        return {} if self._built is None else await self._built.unfinished()

    @ray.method(max_task_retries=0)
    async def cancel(self, job_id: str) -> bool:
        return self._built is not None and await self._built.cancel(job_id)

    def _worker(self) -> Worker:
        """Raises ConfigError where this node runs other code than the driver, and what the factories raise."""
        if self._built is None:
            found = code_fingerprint()
            if found != self._fingerprint:
                raise ConfigError(
                    f"worker {self._index} runs other code than the driver ({found}, not {self._fingerprint}): "
                    "install the same version on every node"
                )
            self._built = Worker(self._spec, self._index)
        return self._built
