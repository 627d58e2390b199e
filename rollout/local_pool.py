"""The in-process twin of the Ray pool: one worker on an event loop of its own thread.

Owns: that thread. Refuses: parallel processes, restarting (a thread cannot be ended from outside).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from rollout.pool import Pool
from rollout.types import Version
from rollout.worker import Job, PoolSpec, Worker

_JOIN_SECONDS = 15.0


class LocalPool(Pool):
    """``num_workers * slots`` episodes at once on one worker, so one copy of the weights."""

    def __init__(self, spec: PoolSpec) -> None:
        """Raises what the spec's factories raise."""
        slots = spec.num_workers * spec.slots
        super().__init__(spec, [_ThreadHandle(replace(spec, slots=slots))], slots, lambda payload: payload)
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise


class _ThreadHandle:
    """A ``Worker`` on a loop in a daemon thread."""

    name = "the local worker"

    def __init__(self, spec: PoolSpec) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout", daemon=True)
        self._thread.start()
        self._worker: Future[Worker] = asyncio.run_coroutine_threadsafe(_build(spec), self._loop)

    def run(self, job: Job) -> Future[Any]:
        return self._call(self._worker.result().run(job))

    def cancel(self, job_id: str) -> None:
        self._call(self._worker.result().cancel(job_id))

    def unfinished(self) -> Future[Any]:
        return self._call(self._worker.result().unfinished())

    def ready(self) -> Future[Any]:
        return self._worker

    def update(self, version: Version, payload: Any) -> Future[Any]:
        return self._call(self._worker.result().update(version, payload))

    def died(self, error: BaseException) -> bool:
        return False

    def restart(self) -> None:
        """Nothing to do: the episode was cancelled, and a loop that is blocked cannot be helped."""

    def close(self) -> None:
        if self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
            ending.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        self._thread.join(_JOIN_SECONDS)
        if self._worker.done() and self._worker.exception() is None:
            self._worker.result().close()
        if not self._thread.is_alive():
            self._loop.close()

    def _call(self, call: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)


async def _build(spec: PoolSpec) -> Worker:
    return Worker(spec, 0)


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_JOIN_SECONDS / 2)
