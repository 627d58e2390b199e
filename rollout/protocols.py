"""The verbs of agentworld: every seam between packages, as protocols.

Owns: signatures and their contracts. Refuses: implementations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rollout.types import (
    Action,
    Batch,
    Check,
    CheckResult,
    Completion,
    Failure,
    Message,
    Observation,
    Prompt,
    Session,
    Task,
    Trajectory,
    Turn,
    Version,
)

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Sampler(Protocol):
    """The policy as an async callable: token ids in, token ids out. Raises ``SamplerFault`` on a fault."""

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        """``context_ids`` is the whole context of this call (all turns so far)."""
        ...


class UpdatableSampler(Sampler, Protocol):
    """A sampler that owns a copy of the weights and can be given newer ones."""

    def update(self, version: Version, tensors: Mapping[str, np.ndarray | RawTensor]) -> Version:
        """Replace the weights; returns the version now served."""
        ...


class RawTensor(Protocol):
    """Raw bytes + dtype + shape (numpy has no bf16). See ``trainer.weights``."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]


class Chat(Protocol):
    """Messages <-> tokens, append-only."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the opening messages plus the generation prompt."""
        ...

    def extend(self, messages: Sequence[Message], finished: bool) -> tuple[int, ...]:
        """Ids that follow a completion: the turn's closing ids (the end-of-turn token too unless ``finished``,
        i.e. the completion already ended in it), the new messages and the next generation prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Environment(Protocol):
    """One world for one episode: single use, no reset. Built on the worker from a picklable factory."""

    world_id: str

    async def start(self) -> Prompt: ...

    def parse(self, text: str) -> Action:
        """Never raises: a malformed action is an Action with ``error``."""
        ...

    async def step(self, action: Action) -> Observation: ...

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Run each check's read-only probes against the final state."""
        ...

    async def restore(self, turns: Sequence[Turn]) -> bool:
        """Continue an interrupted episode after ``turns``; False where this world cannot."""
        ...

    async def close(self) -> None: ...


class EnvFactory(Protocol):
    """Picklable; called on the worker. ``seed`` is f(task, group, member)."""

    def __call__(self, task: Task, seed: int) -> Environment: ...


class SamplerFactory(Protocol):
    """Picklable; called once per worker."""

    def __call__(self) -> Sampler: ...


class ChatFactory(Protocol):
    """Picklable; called once per worker."""

    def __call__(self) -> Chat: ...


class Reward(Protocol):
    """Scores a finished trajectory; None = unscorable."""

    async def __call__(self, trajectory: Trajectory, results: Sequence[CheckResult]) -> float | None: ...


class ChatClient(Protocol):
    """A chat model behind an API (judge, OpenAI-compatible world)."""

    async def __call__(self, messages: Sequence[Message], params: Mapping[str, Any], deadline: float) -> Reply: ...


class Reply(Protocol):
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    model: str


class BatchSource(Protocol):
    """Where the trainer gets whole, scored groups (rank 0 only calls it)."""

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        """None: not yet. Blocks at most ``timeout`` seconds."""
        ...

    def settle(self, step: int) -> None:
        """The optimiser step that used the batch of ``step`` is done: its groups are trained."""
        ...

    def snapshot(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class WeightSink(Protocol):
    """Where the trainer publishes weights."""

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        """Blocks until every sampler confirms ``version``."""
        ...
