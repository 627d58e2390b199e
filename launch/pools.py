"""Pools for a command: a policy, worlds and limits become workers.

Owns: the choice of engine and the parts of a ``PoolSpec``. Refuses: what runs on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from launch.served import Served
from rollout.chat import ChatSpec
from rollout.config import RolloutConfig
from rollout.errors import SamplerFault
from rollout.pool import Pool
from rollout.protocols import EnvFactory, SamplerFactory
from rollout.reward.checks import ChecksReward
from rollout.samplers.text import MAX_MESSAGES, TextPolicy
from rollout.types import Completion, Message, Session
from rollout.weight_files import WeightWriter
from rollout.worker import PoolSpec
from worldmodel.domains import kit

REPLAY_SECONDS = 1800.0  # an episode: a world model bounds each prediction, and many wait for their turn
SERVED_UPDATE_SECONDS = 600.0  # for writing, draining and loading weights, on all servers at once


def policy_pool(
    policy: str, worlds: Mapping[str, EnvFactory], rollout: RolloutConfig, env: str, served: Served | None = None
) -> Pool:
    """Workers that sample from the model folder ``policy`` (or from vLLM servers that serve it), in world ``env``
    unless a job names another."""
    spec = PoolSpec(
        num_workers=rollout.workers,
        slots=rollout.slots,
        env_factories=worlds,
        sampler_factory=_sampler(policy, rollout, served),
        chat_factory=ChatSpec(policy),
        reward=ChecksReward(),
        settings=rollout.episode,
        sampling=rollout.sampling,
        env=env,
        threads=rollout.threads,
    )
    if served is not None:
        spec = replace(spec, pack=WeightWriter(str(served.weights)), update_timeout=SERVED_UPDATE_SECONDS + 10.0)
    return start(spec, rollout.engine == "ray")


def text_pool(policy: TextPolicy, worlds: Mapping[str, EnvFactory], rollout: RolloutConfig, env: str) -> Pool:
    """Workers for a policy that speaks text instead of tokens: a served chat model, a script, a person."""
    spec = PoolSpec(
        num_workers=rollout.workers,
        slots=rollout.slots,
        env_factories=worlds,
        sampler_factory=policy,
        chat_factory=policy,
        reward=ChecksReward(),
        settings=replace(rollout.episode, max_context=MAX_MESSAGES),
        sampling=rollout.sampling,
        env=env,
        threads=rollout.threads,
    )
    return start(spec, rollout.engine == "ray")


def _sampler(policy: str, rollout: RolloutConfig, served: Served | None) -> SamplerFactory:
    if served is not None:
        from rollout.samplers.vllm import VLLMSamplerSpec

        return VLLMSamplerSpec(
            served.servers,
            ChatSpec(policy)().stop_ids,
            rollout.sampling,
            call_timeout=rollout.call_timeout,
            update_timeout=SERVED_UPDATE_SECONDS,
            drain=rollout.call_timeout,
            api_key=served.api_key,
        )
    from rollout.samplers.hf import HFSamplerSpec

    return HFSamplerSpec(policy, rollout.sampling, rollout.slots, dtype="float32", threads=rollout.threads)


def replay_pool(worlds: Mapping[str, EnvFactory], workers: int = 1, slots: int = 8) -> Pool:
    """Workers that only act out recorded actions: no policy, no tokenizer."""
    spec = PoolSpec(
        num_workers=workers,
        slots=slots,
        env_factories=worlds,
        sampler_factory=_Nobody,
        chat_factory=_Nobody,
        reward=ChecksReward(),
        env=next(iter(worlds)),
    )
    return start(spec, workers > 1)


def bearable(domains: Iterable[str], slots: int) -> int:
    """``slots`` of a worker, or as many as the real world of each of ``domains`` allows: 64 desktops end a machine."""
    return min((slots, *(kit(name).slots for name in domains)))


def start(spec: PoolSpec, ray: bool) -> Pool:
    if ray:
        from rollout.ray_pool import RayPool

        return RayPool(spec)
    from rollout.local_pool import LocalPool

    return LocalPool(spec)


class _Nobody:
    """Sampler and chat of a pool that has no policy."""

    stop_ids: tuple[int, ...] = ()

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        raise SamplerFault("this pool only replays actions: it has no policy")

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        raise SamplerFault("this pool only replays actions: it has no tokenizer")

    def extend(self, messages: Sequence[Message], finished: bool) -> tuple[int, ...]:
        raise SamplerFault("this pool only replays actions: it has no tokenizer")

    def decode(self, ids: Sequence[int]) -> str:
        raise SamplerFault("this pool only replays actions: it has no tokenizer")
