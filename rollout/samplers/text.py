"""A policy that reads and writes text: a served chat model, recorded actions, a person.

Owns: standing in for sampler and tokenizer of the episode loop, so that such a policy runs in it unchanged.
Refuses: training. There are no tokens: every message is one id, valid in its process alone, and ``max_context`` counts
messages. What was said is in the turns as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rollout.types import Completion, Finish, Message, Session, Usage, Version

MAX_MESSAGES = 1_000_000  # ``max_context`` of an episode whose ids are messages
NO_VERSION = Version(0, 0)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of a speaker."""

    text: str
    finish: Finish = Finish.STOP
    usage: Usage | None = None


class Speaker(Protocol):
    """The policy. ``messages`` is the whole conversation; ``max_tokens`` bounds the answer where there are tokens.
    Raises SamplerFault."""

    async def __call__(self, messages: Sequence[Message], max_tokens: int, session: Session) -> Said: ...


class TextSampler:
    """``Chat`` and ``Sampler`` in one, because ids mean something to this object only."""

    stop_ids: tuple[int, ...] = ()

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._messages: list[Message] = []
        self._ids: dict[Message, int] = {}

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(self._id, messages))

    def extend(self, messages: Sequence[Message], finished: bool) -> tuple[int, ...]:
        return self.prompt(messages)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(message.content for message in self.transcript(ids))

    def transcript(self, ids: Sequence[int]) -> list[Message]:
        """The messages that ``ids`` stand for."""
        return [self._messages[id_] for id_ in ids]

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        said = await self._speaker(self.transcript(context_ids), max_tokens, session)
        id_ = self._id(Message("assistant", said.text))
        return Completion((id_,), (0.0,), said.text, said.finish, (NO_VERSION,), said.usage)

    def _id(self, message: Message) -> int:
        if message not in self._ids:
            self._ids[message] = len(self._messages)
            self._messages.append(message)
        return self._ids[message]


@dataclass
class TextPolicy:
    """Picklable; both the ``SamplerFactory`` and the ``ChatFactory`` of a pool: in each process one sampler, made by
    ``make`` at the first call and left out of the pickle."""

    make: Callable[[], Speaker]
    _made: TextSampler | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self) -> TextSampler:
        if self._made is None:
            self._made = TextSampler(self.make())
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "_made": None}


@dataclass(frozen=True, slots=True)
class Recited:
    """A speaker that says ``actions`` by task id, one a turn, and ``last`` after them. It is its own factory."""

    actions: dict[str, tuple[str, ...]]
    last: dict[str, str]

    def __call__(self) -> Speaker:
        return self.speak

    async def speak(self, messages: Sequence[Message], max_tokens: int, session: Session) -> Said:
        task_id = session.id.rsplit("/", 2)[0]
        turn = sum(message.role == "assistant" for message in messages)
        actions = self.actions[task_id]
        return Said(actions[turn] if turn < len(actions) else self.last[task_id])
