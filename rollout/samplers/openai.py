"""A policy behind any OpenAI-compatible server, by URL: evaluated, never trained.

Owns: a conversation as a request, the answer as an action text without its thoughts, the reported tokens.
Refuses: the HTTP call (``rollout.chat_client``); token ids and logprobs (``rollout.samplers.vllm`` has them).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.chat_client import ChatFault, Endpoint, HttpChat
from rollout.errors import SamplerFault
from rollout.samplers.text import Said
from rollout.types import Finish, Message, Session, Usage

WHO = "policy server"
NO_DEADLINE = 600.0  # seconds, where the caller sets none
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ChatPolicySpec:
    """Picklable recipe of a ``ChatPolicy``: ``model`` as the server calls it."""

    endpoint: Endpoint
    model: str
    temperature: float = 0.0

    def __call__(self) -> ChatPolicy:
        return ChatPolicy(self)


class ChatPolicy:
    """Implements ``Speaker``."""

    def __init__(self, spec: ChatPolicySpec) -> None:
        self._spec = spec
        self._chat = HttpChat(spec.endpoint)

    async def __call__(self, messages: Sequence[Message], max_tokens: int, session: Session) -> Said:
        """The answer to ``messages``. Thoughts are dropped, here and so in every later turn. Raises SamplerFault."""
        begun = time.monotonic()
        temperature = self._spec.temperature if session.temperature is None else session.temperature
        params = {
            "model": self._spec.model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": session.seed % 2**31,  # servers hold a seed in 32 bits
            "user": session.id,
        }
        try:
            reply = await self._chat(messages, params, session.deadline or begun + NO_DEADLINE)
        except ChatFault as error:
            raise SamplerFault(str(error)) from error
        finish = Finish.LENGTH if reply.finish == "length" else Finish.STOP
        usage = Usage(reply.prompt_tokens, reply.completion_tokens, time.monotonic() - begun, reply.retries)
        return Said(_THOUGHTS.sub("", reply.text), finish, usage)


async def served_models(endpoint: Endpoint) -> list[str]:
    """Names of the models that ``endpoint`` serves. Raises SamplerFault, one line."""
    chat = HttpChat(endpoint)
    try:
        return await chat.models()
    except ChatFault as error:
        raise SamplerFault(str(error)) from error
    finally:
        await chat.close()
