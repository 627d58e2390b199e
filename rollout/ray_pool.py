"""A pool of Ray actors, and beside it the in-process twin with the same signature.

Owns: the connection to Ray (where none existed), the actors' options, their end. Refuses: ending a Ray that somebody
else started, resources (CPU actors ask for none: a pool must never wait for its own trainer's cores).
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rollout.errors import AgentworldError
from rollout.local_pool import LocalPool
from rollout.pool import Pool
from rollout.ray_address import check_reachable
from rollout.types import Version
from rollout.worker import Job, PoolSpec, code_fingerprint

__all__ = ["LocalPool", "RayPool"]

_EXTRA_CALLS = 16  # concurrent control calls beside the episodes


class RayPool(Pool):
    """``num_workers`` actors with ``slots`` episodes each. Joins the Ray it finds (also through RAY_ADDRESS), else
    starts one on this machine and ends it with ``close``."""

    def __init__(self, spec: PoolSpec) -> None:
        """Raises ConfigError where a worker cannot be built or runs other code, SamplerFault where one is late."""
        import ray

        fingerprint = code_fingerprint()
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            check_reachable()
            ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
        handles = [_ActorHandle(spec, index, fingerprint) for index in range(spec.num_workers)]
        super().__init__(spec, handles, spec.slots, ray.put)
        try:
            self.wait_ready()
        except BaseException as error:
            self.close()
            reason = _unwrap(error)
            if isinstance(reason, AgentworldError) and reason is not error:
                raise reason from None
            raise

    def close(self) -> None:
        import ray

        super().close()
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()


class _ActorHandle:
    """One ``RayWorker``. Its futures carry the original exception where the worker raised one."""

    def __init__(self, spec: PoolSpec, index: int, fingerprint: str) -> None:
        import ray

        from rollout.ray_worker import RayWorker

        env = {
            "OMP_NUM_THREADS": str(spec.threads),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": _python_path(),
        }
        self.name = f"worker {index}"
        self._actor = (
            ray.remote(RayWorker)
            .options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=spec.slots + _EXTRA_CALLS,
                runtime_env={"env_vars": env},
            )
            .remote(spec, index, fingerprint)
        )

    def run(self, job: Job) -> Future[Any]:
        return _future(self._actor.run.remote(job))

    def cancel(self, job_id: str) -> None:
        self._actor.cancel.remote(job_id)

    def unfinished(self) -> Future[Any]:
        return _future(self._actor.unfinished.remote())

    def ready(self) -> Future[Any]:
        return _future(self._actor.ready.remote())

    def update(self, version: Version, payload: Any) -> Future[Any]:
        return _future(self._actor.update.remote(version, payload))

    def died(self, error: BaseException) -> bool:
        from ray.exceptions import RayActorError, WorkerCrashedError

        return isinstance(error, RayActorError | WorkerCrashedError)

    def restart(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=False)

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


def _python_path() -> str:
    """Where the driver found our packages first: Ray Train and Ray Jobs change working directories."""
    inherited = os.environ.get("PYTHONPATH", "")
    home = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(part for part in (home, inherited) if part)


def _future(ref: Any) -> Future[Any]:
    """The object's future, with exceptions of the worker's own code unwrapped."""
    found: Future[Any] = Future()

    def done(inner: Future[Any]) -> None:
        error = inner.exception()
        if error is None:
            found.set_result(inner.result())
        else:
            found.set_exception(_unwrap(error))

    ref.future().add_done_callback(done)
    return found


def _unwrap(error: BaseException) -> BaseException:
    """The exception that the worker raised, out of Ray's wrapper."""
    from ray.exceptions import RayTaskError

    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error
