"""A policy that is a function: for tests, benches, reference behaviours and a person at the keyboard.

Owns: turning a function of text into a ``Sampler``. Refuses: weights; ``update`` only changes the version it reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.chat import TokenChat
from rollout.types import Completion, Finish, Session, Version

Script = Callable[[str, Session], str]


class ScriptedSampler:
    """Answers with ``script(context text, session)``; the text includes special tokens, as a model reads them.

    The reply is tokenised, ended with the end-of-turn id where there is room, and cut to ``max_tokens`` where not.
    ``logprob`` is reported for each id. A ``blocking`` script (a person) runs in a thread.
    """

    def __init__(
        self,
        chat: TokenChat,
        script: Script,
        *,
        logprob: float = 0.0,
        version: Version | None = None,
        latency: float = 0.0,
        blocking: bool = False,
    ) -> None:
        self._chat = chat
        self._script = script
        self._logprob = logprob
        self._version = version or Version(0, 0)
        self._latency = latency
        self._blocking = blocking

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        text = self._chat.transcript(context_ids)
        if self._latency:
            await asyncio.sleep(self._latency)
        call = self._script
        reply = await asyncio.to_thread(call, text, session) if self._blocking else call(text, session)
        ids = (*self._chat.encode(reply), self._chat.stop_ids[0])
        finish = Finish.STOP if len(ids) <= max_tokens else Finish.LENGTH
        ids = ids[:max_tokens]
        return Completion(ids, (self._logprob,) * len(ids), reply, finish, (self._version,) * len(ids))

    def update(self, version: Version, tensors: Mapping[str, Any]) -> Version:
        self._version = version
        return version


@dataclass(frozen=True, slots=True)
class ScriptedSamplerSpec:
    """Picklable ``SamplerFactory``; ``script`` is a module-level function or a picklable callable."""

    chat: Callable[[], TokenChat]
    script: Script
    logprob: float = 0.0
    latency: float = 0.0

    def __call__(self) -> ScriptedSampler:
        return ScriptedSampler(self.chat(), self.script, logprob=self.logprob, latency=self.latency)


@dataclass(frozen=True, slots=True)
class Replies:
    """A script that replays fixed replies, by task id and turn (for example each task's gold actions).

    ``header`` is the text that opens a reply in the chat template; the turn is the number of headers read so far.
    After the last reply, or for an unknown task, the answer is ``last``.
    """

    replies: Mapping[str, Sequence[str]]
    header: str = "<|assistant|>"
    last: str = "done"
    default: Sequence[str] = field(default_factory=tuple)

    def __call__(self, context: str, session: Session) -> str:
        task_id = session.id.rsplit("/", 2)[0]
        replies = self.replies.get(task_id, self.default)
        turn = context.count(self.header) - 1
        return replies[turn] if turn < len(replies) else self.last
