"""The rollout section of an experiment, typed and strict; loads in milliseconds, without torch or Ray.

Owns: names, ranges and defaults, and the settings objects that follow from them. Refuses: worlds and policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout.episode import EpisodeSettings
from rollout.events import FaultKind
from rollout.scheduler import SchedulerSettings
from rollout.spot import SpotSettings
from rollout.types import Sampling, Task

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class FaultBudgets(BaseModel):
    """Faults of a kind allowed within the last ``window`` episodes; one more ends the run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    world: Whole = 50
    sampler: Whole = 20
    timeout: Whole = 50
    worker: Whole = 20
    unscorable: Whole = 50  # groups with fewer than two scorable members
    window: Count = 1000


class RolloutConfig(BaseModel):
    """Who samples what, how long, and how many faults are borne."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    engine: Literal["local", "ray"] = "local"  # ray: one process per worker, here or on the cluster it finds
    workers: Count = 1
    slots: Count = 16  # episodes at once per worker
    threads: Count = 1  # CPU threads per worker
    group_size: Annotated[int, Field(ge=2)] = 8
    groups_per_batch: Count = 8
    redundancy: Whole = 0  # members beyond group_size; the last to arrive are dropped
    min_viable: Annotated[int, Field(ge=2)] | None = None  # a group goes on with so many, turn_timeout after its first
    max_staleness: Whole = 0  # batches between sampling and training; 0 = synchronous
    max_filtered: Whole = 0  # groups without reward variance replaced per batch; 0 = keep them
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Count = 64  # per turn
    max_context: Count = 1024  # ids of a whole episode
    max_turns: Count | None = None  # caps each task's own number
    call_timeout: Seconds = 60.0  # one answer of the sampler
    turn_timeout: Seconds = 120.0
    episode_timeout: Seconds = 600.0
    member_retries: Whole = 2
    budgets: FaultBudgets = FaultBudgets()
    spot_share: Share = 0.05  # of simulated episodes, replayed in the real world; 0 = never
    spot_limit: Share = 0.20  # tolerated share of simulated successes that really fail

    @model_validator(mode="after")
    def _fits(self) -> RolloutConfig:
        if self.max_tokens >= self.max_context:
            raise ValueError(
                f"max_tokens {self.max_tokens} leaves no room for a prompt in max_context {self.max_context}"
            )
        if self.min_viable is not None and self.min_viable > self.group_size:
            raise ValueError(f"min_viable {self.min_viable} is more than group_size {self.group_size}")
        if not self.call_timeout <= self.turn_timeout <= self.episode_timeout:
            raise ValueError("timeouts must not shrink: call_timeout <= turn_timeout <= episode_timeout")
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.max_tokens)

    @property
    def episode(self) -> EpisodeSettings:
        return EpisodeSettings(
            max_tokens_per_turn=self.max_tokens,
            max_context=self.max_context,
            call_timeout=self.call_timeout,
            turn_timeout=self.turn_timeout,
            episode_timeout=self.episode_timeout,
        )

    @property
    def spot(self) -> SpotSettings | None:
        if self.spot_share == 0.0:
            return None
        return SpotSettings(share=self.spot_share, limit=self.spot_limit)

    def capped(self, tasks: Sequence[Task]) -> list[Task]:
        """``tasks`` with ``max_turns`` applied."""
        if self.max_turns is None:
            return list(tasks)
        return [replace(task, max_turns=min(task.max_turns, self.max_turns)) for task in tasks]

    def scheduler(self, total_batches: int | None = None) -> SchedulerSettings:
        """``total_batches``: generation batches of the whole run, where it is known."""
        return SchedulerSettings(
            group_size=self.group_size,
            groups_per_batch=self.groups_per_batch,
            redundancy=self.redundancy,
            min_viable=self.min_viable,
            max_staleness=self.max_staleness,
            member_retries=self.member_retries,
            max_filtered=self.max_filtered,
            total_batches=total_batches,
            budget_window=self.budgets.window,
            budgets={kind: getattr(self.budgets, kind.value) for kind in FaultKind},
        )
