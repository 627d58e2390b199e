"""The nouns and verbs of worlds: domains, specs, requests, predictions, transitions.

Owns: data and protocols that every domain and every world model share.
Refuses: implementations, tokenizers, torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rollout.types import Action, Finish, Prompt, Task, Usage, World


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a simulator is told before the first action: the five parts of the reference's system prompt
    (arXiv 2606.24597, Fig. 3). Never contains the instruction, the checks or the reference."""

    domain: str
    task_description: str
    action_space: str
    initial_state: str
    demonstrations: str = ""
    simulation_instruction: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One past step of a world: the action text as sent and the observation text as returned (no thoughts)."""

    action: str
    observation: str


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Everything a world model needs; stateless, whole history in. ``seed`` differs per group member."""

    spec: WorldSpec
    history: tuple[Exchange, ...]
    action: str
    seed: int
    deadline: float  # time.monotonic() seconds
    session: str = ""
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted observation. ``raw`` is the model's text before extraction (thoughts included)."""

    observation: str
    raw: str
    usage: Usage
    finish: Finish
    model_id: str
    truncated: bool = False


class WorldModel(Protocol):
    """Predicts the next observation. Raises ``WorldFault`` when it cannot."""

    model_id: str

    async def predict(self, request: PredictRequest) -> Prediction: ...

    async def close(self) -> None: ...


class Dialect(Protocol):
    """A wire format: spec + history + action -> chat messages; reply text -> observation."""

    name: str

    def messages(self, request: PredictRequest) -> list[tuple[str, str]]:
        """[(role, content), ...], ending on the user turn that carries ``request.action``."""
        ...

    def extract(self, raw: str) -> str:
        """The observation inside a raw reply (last tag, thoughts dropped). Raises ValueError if there is none."""
        ...


def refusal(action: Action) -> str | None:
    """Why a policy's ``action`` is not done: what the grammar says, or that only checks ask it. None: it is done."""
    return f"{action.name} is not an action" if action.probe and action.error is None else action.error


class Domain(Protocol):
    """One folder under ``worldmodel/domains/``: the difference between domains is a grammar and a prompt."""

    @property
    def name(self) -> str: ...

    def parse(self, text: str) -> Action:
        """Never raises, on any text."""
        ...

    def prompt(self, task: Task) -> Prompt:
        """What the policy reads; built from ``task.instruction`` and public state only."""
        ...

    def spec(self, world: World) -> WorldSpec:
        """What the simulator reads; built from ``world`` only."""
        ...

    def show(self, action: Action) -> str:
        """The action as it is written to the simulator and into traces."""
        ...


# (a policy's accepted actions, a probe) -> the probe's reply, where it reads nothing but what the policy itself said;
# else None. The world need not be asked then, and a world model is not.
Told = Callable[[Sequence[Action], Action], str | None]


def tells_nothing(actions: Sequence[Action], probe: Action) -> str | None:
    """The ``Told`` of a domain whose probes all read the world."""
    return None


Span = Sequence[int]  # [start, end) in characters of an observation


@dataclass(frozen=True, slots=True)
class Transition:
    """One recorded step of a real world."""

    episode: str
    turn: int
    action: str
    observation: str
    command_class: str = ""  # copy, derive, readback, error, silent, ... (owned by the domain)
    depth: int = 0  # state-changing steps that the observation depends on
    probe: bool = False  # taken in a branch of its own: later transitions do not see it


@dataclass(frozen=True, slots=True)
class Episode:
    """One recorded session of a real world: its world, its transitions and how it ended.

    ``meta["open"]``, where there: by index of a transition (as text) the spans of its observation that spec and history
    do not determine. ``meta["twice"]``: the session was executed twice, and what differed is open."""

    id: str
    task_id: str
    domain: str
    family: str
    behaviour: str  # gold, noisy, wrong, explore, empty, policy
    world: World
    transitions: tuple[Transition, ...]
    success: bool | None
    meta: Mapping[str, Any] = field(default_factory=dict)


def split_probes(transitions: Sequence[Transition]) -> tuple[tuple[Transition, ...], tuple[Transition, ...]]:
    """(history steps, probe steps). Each probe is conditioned on all history steps and on no other probe."""
    history = tuple(t for t in transitions if not t.probe)
    return history, tuple(t for t in transitions if t.probe)
