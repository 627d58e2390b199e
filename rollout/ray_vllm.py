"""vLLM engines beside the trainer: Ray actors that each hold one ``vllm serve`` and its GPUs.

Owns: one placement group for all engines, the actors, their start within a deadline, word of one that is lost.
Refuses: the process itself (``samplers.vllm_process``), sampling, weights, moving an engine to another node: one
whose node is lost stays lost, and the samplers use the others.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import ray

from rollout.errors import AgentworldError, ConfigError, SamplerFault
from rollout.ray_address import check_reachable
from rollout.ray_pool import _python_path, _unwrap
from rollout.samplers.vllm_process import EngineProcess, EngineSpec

_LOOK_SECONDS = 5.0  # between looks at a server
_EXTRA_SECONDS = 60.0  # beyond a server's own deadline, for the actor around it
_LOOPBACK = "127.0.0.1"


class VLLMEngine:
    """The actor. ``watch`` runs until the engine is lost, and then raises why."""

    def __init__(self, spec: EngineSpec, index: int, log_dir: str, api_key: str, local: bool) -> None:
        host = _LOOPBACK if local else ray.util.get_node_ip_address()
        self._process = EngineProcess(spec, host=host, log=Path(log_dir) / f"vllm-{index}.log", api_key=api_key)

    async def start(self) -> str:
        return await asyncio.to_thread(self._process.start)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self._process.check)

    async def pid(self) -> int | None:
        return self._process.pid

    async def stop(self) -> None:
        await asyncio.to_thread(self._process.close)


class Engines:
    """``count`` engines of ``spec.tensor_parallel`` GPUs each, on GPUs that Ray has free. Joins the Ray it finds (also
    through RAY_ADDRESS), else starts one on this machine and ends it with ``close``.

    ``servers`` are their URLs and ``api_key`` opens them. On one machine they listen on loopback only. ``lost`` is
    told, once for each, why an engine is gone for good; the samplers find out by themselves.
    """

    def __init__(
        self,
        spec: EngineSpec,
        count: int,
        *,
        log_dir: str | Path,
        gpus: int | None = None,
        lost: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        """``gpus`` of one engine, where it is not ``tensor_parallel``. Raises ConfigError where the cluster is too
        small, SamplerFault where an engine is not ready in time."""
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            check_reachable()
            ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
        self.api_key = secrets.token_urlsafe(24)
        self.servers: tuple[str, ...] = ()
        self._spec, self._lost = spec, lost
        self._gpus = spec.tensor_parallel if gpus is None else gpus
        self._actors: list[Any] = []
        self._closed = threading.Event()
        self._group: Any = None
        try:
            self._group = self._reserve(count)
            self._actors = [self._actor(index, str(Path(log_dir).resolve())) for index in range(count)]
            self.servers = tuple(self._all([actor.start.remote() for actor in self._actors], spec.start_timeout))
        except BaseException:
            self.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="vllm-engines", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End the servers and give their GPUs back."""
        self._closed.set()
        if not ray.is_initialized():
            return
        if stops := [actor.stop.remote() for actor in self._actors]:
            ray.wait(stops, num_returns=len(stops), timeout=2 * self._spec.stop_timeout)
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
        if self._owns_ray:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reserve(self, count: int) -> Any:
        wanted, there = count * self._gpus, int(ray.cluster_resources().get("GPU", 0))
        if wanted > there:
            raise ConfigError(
                f"{count} vLLM engines of {self._gpus} GPUs need {wanted}, this Ray cluster has {there}: lower "
                "rollout.workers or vllm_tensor_parallel_size, or name servers with vllm_server_base_url"
            )
        bundle = {"GPU": float(self._gpus)} if self._gpus else {"CPU": 0.001}
        group = ray.util.placement_group([bundle] * count, strategy="PACK")
        if not group.wait(_EXTRA_SECONDS):
            ray.util.remove_placement_group(group)
            raise ConfigError(
                f"{wanted} GPUs for vLLM did not become free within {_EXTRA_SECONDS:g} s: other jobs or the trainer's "
                "ranks hold them, or no node has all GPUs of one engine"
            )
        return group

    def _actor(self, index: int, log_dir: str) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        engine = ray.remote(VLLMEngine).options(
            num_cpus=0,
            num_gpus=self._gpus,
            max_restarts=0,
            max_concurrency=8,
            scheduling_strategy=place,
            runtime_env={"env_vars": {"PYTHONPATH": _python_path(), "RAY_USAGE_STATS_ENABLED": "0"}},
        )
        return engine.remote(self._spec, index, log_dir, self.api_key, nodes == 1)

    def _all(self, refs: list[Any], timeout: float) -> list[Any]:
        try:
            return list(ray.get(refs, timeout=timeout + _EXTRA_SECONDS))
        except ray.exceptions.GetTimeoutError as error:
            raise SamplerFault(f"vLLM engines were not up within {timeout + _EXTRA_SECONDS:g} s") from error
        except ray.exceptions.RayError as error:
            reason = _unwrap(error)
            raise reason if isinstance(reason, AgentworldError) else SamplerFault(f"vLLM engine: {reason}") from None

    def _watch(self) -> None:
        watches = {actor.watch.remote(): index for index, actor in enumerate(self._actors)}
        while watches and not self._closed.is_set():
            ended, _ = ray.wait(list(watches), timeout=1.0)
            for ref in ended:
                index = watches.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayError as error:
                    if not self._closed.is_set():
                        self._lost(f"vLLM engine {index} is lost: {_unwrap(error)}")
