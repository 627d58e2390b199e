"""A world model behind any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API), by URL.

Owns: a request as a chat, the answer as a prediction, shortening a history that the server refuses for its length.
Refuses: the HTTP call and its retries (``rollout.chat_client``); starting servers; wire formats.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rollout.chat_client import ChatFault, ChatReply, Endpoint, HttpChat, PromptTooLong, base_url
from rollout.errors import WorldFault
from rollout.seeds import derive_seed
from rollout.types import Finish, Usage
from worldmodel.dialects import DialectName, dialect
from worldmodel.types import Prediction, PredictRequest, WorldModel

__all__ = ["OpenAIWorldModel", "ServerSpec", "base_url"]


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Picklable recipe of an ``OpenAIWorldModel``. ``url`` is the server's root or its ``/v1``;
    ``call_timeout`` bounds one HTTP call in seconds, inside the deadline of the request; the API key is read from
    the environment variable ``api_key_env`` on the worker, so that it is in no config and no pickle."""

    url: str
    model: str
    dialect: DialectName = "reference"
    max_tokens: int = 1024
    temperature: float = 1.0
    concurrency: int = 16
    retries: int = 3
    call_timeout: float = 120.0
    api_key_env: str = "OPENAI_API_KEY"

    def __call__(self) -> WorldModel:
        return OpenAIWorldModel(self)

    @property
    def endpoint(self) -> Endpoint:
        who = "world model server"
        return Endpoint(self.url, who, self.concurrency, self.retries, self.call_timeout, self.api_key_env)


class OpenAIWorldModel:
    """Implements ``WorldModel``."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.model_id = spec.model
        self._dialect = dialect(spec.dialect)
        self._chat = HttpChat(spec.endpoint)

    async def predict(self, request: PredictRequest) -> Prediction:
        """One observation. ``truncated`` where the answer was cut at max_tokens, or where the server refused the
        length and older exchanges were dropped. Raises ``WorldFault``."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, request.deadline - started)):
                return await self._answer(request, started)
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise WorldFault(f"{self._chat.who} gave no observation within {waited:.1f} s (deadline)") from error
        except ChatFault as error:
            raise WorldFault(str(error)) from error

    async def check(self, timeout: float = 5.0) -> None:
        """Raises ``WorldFault`` with one clear line unless the server answers on ``/models``."""
        try:
            await self._chat.models(timeout)
        except ChatFault as error:
            raise WorldFault(str(error)) from error

    async def close(self) -> None:
        await self._chat.close()

    async def _answer(self, request: PredictRequest, started: float) -> Prediction:
        shortened = False
        while True:
            try:
                prediction, retries = await self._chat.ask(partial(self._body, request), self._prediction)
            except PromptTooLong as error:
                if not request.history:
                    raise WorldFault(f"the world's description alone is too long: {error}") from error
                request = replace(request, history=request.history[(len(request.history) + 1) // 2 :])
                shortened = True
                continue
            usage = replace(prediction.usage, seconds=time.monotonic() - started, retries=retries)
            return replace(prediction, usage=usage, truncated=prediction.truncated or shortened)

    def _body(self, request: PredictRequest, attempt: int) -> dict[str, Any]:
        """Another try draws with another seed: the same one could give the same unusable answer."""
        seed = request.seed if attempt == 0 else derive_seed(request.seed, "retry", attempt)
        temperature = self.spec.temperature if request.temperature is None else request.temperature
        body: dict[str, Any] = {
            "model": self.spec.model,
            "messages": [{"role": r, "content": c} for r, c in self._dialect.messages(replace(request, seed=seed))],
            "max_tokens": self.spec.max_tokens,
            "temperature": temperature,
            "seed": seed % 2**31,  # servers hold a seed in 32 bits
        }
        if request.session:
            body["user"] = request.session
        return body

    def _prediction(self, reply: ChatReply) -> Prediction:
        finish = Finish.LENGTH if reply.finish == "length" else Finish.STOP
        if reply.thoughts and not reply.text and finish is Finish.LENGTH:
            raise ValueError("cut at max_tokens inside the thoughts")
        return Prediction(
            observation=self._dialect.extract(reply.text),
            raw=f"<think>{reply.thoughts}</think>\n{reply.text}" if reply.thoughts else reply.text,
            usage=Usage(reply.prompt_tokens, reply.completion_tokens),
            finish=finish,
            model_id=reply.model or self.spec.model,
            truncated=finish is Finish.LENGTH,
        )
