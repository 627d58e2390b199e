"""Pools for a command: a policy, worlds and limits become workers.

Owns: the choice of engine and the parts of a ``PoolSpec``. Refuses: what runs on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rollout.chat import ChatSpec
from rollout.config import RolloutConfig
from rollout.errors import SamplerFault
from rollout.pool import Pool
from rollout.protocols import EnvFactory
from rollout.reward.checks import ChecksReward
from rollout.types import Completion, Message, Session
from rollout.worker import PoolSpec


def policy_pool(policy: str, worlds: Mapping[str, EnvFactory], rollout: RolloutConfig, env: str) -> Pool:
    """Workers that sample from the model folder ``policy``, in world ``env`` unless a job names another."""
    from rollout.samplers.hf import HFSamplerSpec

    sampler = HFSamplerSpec(policy, rollout.sampling, rollout.slots, dtype="float32", threads=rollout.threads)
    spec = PoolSpec(
        num_workers=rollout.workers,
        slots=rollout.slots,
        env_factories=worlds,
        sampler_factory=sampler,
        chat_factory=ChatSpec(policy),
        reward=ChecksReward(),
        settings=rollout.episode,
        sampling=rollout.sampling,
        env=env,
        threads=rollout.threads,
    )
    return start(spec, rollout.engine == "ray")


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
