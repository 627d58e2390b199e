"""Whose success a suite measures: what ``--policy`` may name, and the pool in which it acts.

Owns: reading ``--policy``, checking that the policy is there before anything starts, its identity in a run directory.
Refuses: tasks, worlds, results.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from launch.agents import AGENTS, Agent, scripted
from launch.errors import UserError
from launch.person import Person
from launch.pools import policy_pool, text_pool
from launch.served import Served
from launch.worlds import REAL, check_model_folder
from rollout.chat_client import Endpoint
from rollout.config import RolloutConfig
from rollout.errors import CheckpointError
from rollout.pool import Pool
from rollout.protocols import EnvFactory
from rollout.samplers.openai import WHO, ChatPolicySpec, served_models
from rollout.samplers.text import TextPolicy
from rollout.types import Task

HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Policy:
    """``where``: the name of an agent, a model folder or a URL; ``model``: what the server at a URL calls it;
    ``vllm``: servers that sample for a model folder."""

    kind: Literal["agent", "human", "folder", "server"]
    where: str
    model: str = ""
    vllm: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Equal for equal policies: of a folder, the names, sizes and times of its files are part of it."""
        if self.kind != "folder":
            return " ".join(filter(None, [self.where, self.model]))
        files = sorted(path for path in Path(self.where).iterdir() if path.is_file())
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return f"{self.where} {hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"

    @property
    def label(self) -> str:
        """For file names."""
        name = self.model or (Path(self.where).name if self.kind == "folder" else self.where)
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def named(text: str, model: str = "", vllm: Sequence[str] = ()) -> Policy:
    """The policy that ``text`` names, once it was seen to be there. Raises UserError, SamplerFault or CheckpointError,
    one line."""
    if vllm and (text in (*AGENTS, HUMAN) or text.startswith(("http://", "https://"))):
        raise UserError(f"--vllm samples for a model folder, --policy is {text}")
    for url in vllm:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--vllm: {url!r} does not start with http://")
    if text in AGENTS:
        return Policy("agent", text)
    if text == HUMAN:
        return Policy("human", text)
    if text.startswith(("http://", "https://")):
        return Policy("server", text, model or _only_model(text))
    try:
        check_model_folder(text)
    except CheckpointError as error:
        known = ", ".join((*AGENTS, HUMAN))
        hint = "" if Path(text).is_dir() else f"; --policy is a folder, a URL, or one of {known}"
        raise CheckpointError(f"{error}{hint}") from error
    return Policy("folder", str(Path(text).resolve()), "", tuple(vllm))


def _only_model(url: str) -> str:
    found = asyncio.run(served_models(Endpoint(url, WHO)))
    if len(found) != 1:
        raise UserError(f"{url} serves {', '.join(found) or 'models it does not list'}: choose with --policy-model")
    return found[0]


def pool(policy: Policy, tasks: Sequence[Task], world: EnvFactory, rollout: RolloutConfig, seed: int) -> Pool:
    """Workers on which ``policy`` acts in ``world``."""
    worlds: Mapping[str, EnvFactory] = {REAL: world}
    if policy.kind == "folder":
        served = Served(policy.vllm, Path()) if policy.vllm else None
        return policy_pool(policy.where, worlds, rollout, REAL, served)
    if policy.kind == "agent":
        return text_pool(TextPolicy(scripted(cast(Agent, policy.where), tasks, seed)), worlds, rollout, REAL)
    if policy.kind == "human":
        return text_pool(TextPolicy(Person), worlds, rollout, REAL)
    endpoint = Endpoint(
        policy.where, WHO, concurrency=rollout.slots * rollout.workers, call_timeout=rollout.call_timeout
    )
    return text_pool(TextPolicy(ChatPolicySpec(endpoint, policy.model)), worlds, rollout, REAL)
