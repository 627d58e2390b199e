"""The nouns of agentworld: what crosses between policy, world, scheduler and trainer.

Owns: frozen, typed, picklable data built on the standard library alone.
Refuses: behaviour beyond small derived properties; tensors; anything that imports torch, ray or trl.

Axis suffixes: ``_T`` token, ``_K`` turn, ``_G`` member of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]


class Version(NamedTuple):
    """Identity of a set of policy weights: minted by trainer rank 0, persisted before it is published."""

    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message, as text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy reads before its first completion."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Predicate:
    """A test on the text that a probe returns.

    ``equals`` compares after stripping trailing whitespace of each line and of the whole;
    ``same_lines`` ignores the order of lines; ``contains``, ``lacks`` and ``regex`` are what they say.
    """

    kind: Literal["equals", "same_lines", "contains", "lacks", "regex"]
    value: str


@dataclass(frozen=True, slots=True)
class Check:
    """Success by probing: run read-only ``probes`` (action texts) and test each reply with ``predicate``."""

    name: str
    probes: tuple[str, ...]
    predicate: Predicate


@dataclass(frozen=True, slots=True)
class World:
    """The initial state of a task's world. Shown to the simulator, never (as such) to the policy.

    ``state`` is JSON-like and its schema belongs to the domain; ``secret`` may hold an answer where a
    domain's simulator needs it (search) and is empty elsewhere.
    """

    state: Mapping[str, Any] = field(default_factory=dict)
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """Known behaviours of a task: only rewards, collectors and tests may look at them."""

    gold: tuple[str, ...] = ()
    wrong: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One exercise. Three audiences: the policy sees ``instruction``, the simulator sees ``world``,
    only rewards see ``checks`` and ``reference``."""

    id: str
    domain: str
    family: str
    split: str
    instruction: str
    world: World
    checks: tuple[Check, ...]
    reference: Reference
    max_turns: int
    seed: int


@dataclass(frozen=True, slots=True)
class Action:
    """What the policy wants done. A parse failure is an Action with ``error``, answered by the world."""

    text: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    final: bool = False  # the action grammar says: the episode is over after this action
    probe: bool = False  # only checks may do this; a policy that tries is told so, in every world
    executes: bool = False  # a probe that only execution can answer: a simulated world reaches no verdict on it


class ObservationKind(StrEnum):
    OK = "ok"
    INVALID_ACTION = "invalid_action"
    WORLD_ERROR = "world_error"


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of one call of a world model or sampler."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world returned. Never carries a reward. ``world_error`` means a fault of the box, server,
    sampler or judge, never of the action: it stops the episode unscored."""

    text: str
    done: bool = False
    kind: ObservationKind = ObservationKind.OK
    usage: Usage | None = None
    anchor: str | None = None  # identity of the world state the action was taken in (GiGPO)
    error: str | None = None  # cause, for world_error
    truncated: bool = False


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a sampler. ``ids``, ``logprobs`` and ``versions`` have the same length T >= 1;
    ``logprobs`` are natural logs under the distribution that was sampled from; ``ids`` include the stop id. ``usage``:
    what a served policy reports for this call."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: Finish
    versions: tuple[Version, ...]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters in training: temperature only (TRL recomputes logprobs at temperature only)."""

    temperature: float = 1.0
    max_tokens: int = 64

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """Context of one call: affinity key, seed f(task, group, member, turn), absolute monotonic deadline."""

    id: str
    seed: int = 0
    deadline: float | None = None
    temperature: float | None = None  # overrides the sampler's default for this call


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of an episode. ``context_ids`` are only the ids new since the previous completion, so that
    concatenating context and completion over turns is, by construction, the exact prefix the sampler saw."""

    context_ids: tuple[int, ...]
    completion: Completion
    action: Action
    observation: Observation
    seconds: float = 0.0


class Stop(StrEnum):
    DONE = "done"
    MAX_TURNS = "max_turns"
    LENGTH = "length"
    TIMEOUT = "timeout"
    WORLD_ERROR = "world_error"
    SAMPLER_ERROR = "sampler_error"

    @property
    def failed(self) -> bool:
        """True when the episode cannot be scored."""
        return self in (Stop.WORLD_ERROR, Stop.SAMPLER_ERROR, Stop.TIMEOUT)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one check. ``passed`` is None where no verdict could be reached."""

    name: str
    passed: bool | None
    replies: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """``reward`` None means unscorable: out of the baseline, never 0."""

    reward: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode: what is stored, trained on and shown.

    Example: prompt ``[1 2 3]``, completion ``[7 8]``, observation ids ``[4 5]``, completion ``[9]``::

        turns[0].context_ids = (1, 2, 3)   turns[0].completion.ids = (7, 8)
        turns[1].context_ids = (4, 5)      turns[1].completion.ids = (9,)

    The final observation is never tokenised: a trajectory ends on a sampled id.
    """

    task: Task
    group: str
    member: int
    prompt: Prompt
    turns: tuple[Turn, ...]
    stop: Stop
    score: Score
    results: tuple[CheckResult, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    world_id: str = ""
    world_version: str = ""
    controls: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    error: str | None = None

    @property
    def oldest_version(self) -> Version | None:
        versions = [v for turn in self.turns for v in turn.completion.versions]
        return min(versions) if versions else None


@dataclass(frozen=True, slots=True)
class Group:
    """All members that attempted one task under one ticket: the unit of baseline, staleness and ledger."""

    id: str
    task_id: str
    members: tuple[Trajectory, ...]  # [G]


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole groups for one generation batch."""

    step: int
    groups: tuple[Group, ...]
    version: Version
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """A fault carried as data: where it happened, what it was, whether another try may help."""

    where: str
    reason: str
    retryable: bool = False
