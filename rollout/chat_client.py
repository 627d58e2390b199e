"""A chat model behind any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API), by URL.

Owns: the HTTP call, its retries and back-off within one budget, the concurrency limit per endpoint, session affinity,
and turning every fault into one line. Refuses: starting servers; what is asked, and what an answer means.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from rollout.errors import AgentworldError
from rollout.types import Message

T = TypeVar("T")
RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CONTEXT_WORDS = ("context length", "context size", "maximum context", "exceed_context", "too many tokens")
BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a chat model answers. ``url`` is the server's root or its ``/v1``; ``who`` names it in faults;
    ``call_timeout`` bounds one HTTP call in seconds; the API key is read from the environment variable
    ``api_key_env`` where the client runs, so that it is in no config and no pickle."""

    url: str
    who: str = "server"
    concurrency: int = 16
    retries: int = 3
    call_timeout: float = 120.0
    api_key_env: str = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Implements ``Reply``. ``thoughts``: reasoning that the server keeps apart from the answer; ``retries``: failed
    attempts before this one."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    thoughts: str = ""
    retries: int = 0


class ChatFault(AgentworldError):
    """The server gave no usable answer within its budget; the message names it."""


class PromptTooLong(ChatFault):
    """The server refused the prompt for its length."""


class _Again(Exception):
    """One failed attempt that another may mend, after ``wait`` seconds where the server asked for a pause."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpChat:
    """Implements ``ChatClient``. One HTTP client and one concurrency limit per event loop, made at first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.base = base_url(endpoint.url)
        self.who = f"{endpoint.who} {self.base}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None

    async def __call__(self, messages: Sequence[Message], params: Mapping[str, Any], deadline: float) -> ChatReply:
        """One answer by ``deadline`` (monotonic seconds). ``params``: the other keys of the request body. Raises
        ChatFault."""
        begun = time.monotonic()
        body = {"messages": [{"role": m.role, "content": m.content} for m in messages], **params}
        try:
            async with asyncio.timeout(max(0.0, deadline - begun)):
                reply, retries = await self.ask(lambda _: body, lambda reply: reply)
        except TimeoutError as error:
            raise ChatFault(f"{self.who} gave no answer within {time.monotonic() - begun:.1f} s (deadline)") from error
        return replace(reply, retries=retries)

    async def ask(self, body: Callable[[int], Mapping[str, Any]], read: Callable[[ChatReply], T]) -> tuple[T, int]:
        """What ``read`` makes of the answer to ``body(attempt)``, and the failed attempts before it. A ValueError of
        ``read`` says why an answer is unusable: that is one failed attempt. Raises ChatFault."""
        failures, reason = 0, ""
        while failures <= self.endpoint.retries:
            try:
                return await self._call(body(failures), read), failures
            except _Again as error:
                failures, reason = failures + 1, str(error)
                if failures <= self.endpoint.retries:
                    await asyncio.sleep(error.wait if error.wait is not None else _backoff(failures))
        raise ChatFault(f"{self.who} failed {failures} times: {reason}")

    async def models(self, timeout: float = 5.0) -> list[str]:
        """Names of the served models. Raises ChatFault with one clear line unless the server answers on ``/models``."""
        client, _ = self._connection()
        try:
            reply = await client.get(f"{self.base}/models", timeout=timeout)
        except httpx.HTTPError as error:
            raise ChatFault(f"{self.who} does not answer ({_cause(error)}): start it or fix the URL") from error
        if reply.status_code >= 400:
            raise ChatFault(f"{self.who} answers /models with status {reply.status_code}: {_excerpt(reply.text)}")
        try:
            return [model.id for model in _Models.model_validate_json(reply.content).data]
        except ValidationError:
            return []  # it is there; what it serves must be named by the user

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        self._loop = self._client = self._slots = None

    def _connection(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._client is None or self._slots is None or self._loop is not loop:
            key = os.environ.get(self.endpoint.api_key_env, "")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            limits = httpx.Limits(max_connections=self.endpoint.concurrency)
            self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=self.endpoint.call_timeout)
            self._slots = asyncio.Semaphore(self.endpoint.concurrency)
            self._loop = loop
        return self._client, self._slots

    async def _call(self, body: Mapping[str, Any], read: Callable[[ChatReply], T]) -> T:
        client, slots = self._connection()
        headers = {"x-session-id": str(body["user"])} if body.get("user") else {}
        async with slots:
            try:
                reply = await client.post(f"{self.base}/chat/completions", json=body, headers=headers)
            except httpx.HTTPError as error:
                raise _Again(_cause(error)) from error
        self._raise_for_status(reply)
        try:
            return read(_chat_reply(_Reply.model_validate_json(reply.content)))
        except ValidationError as error:
            raise _Again(f"not a chat completion ({error.errors()[0]['msg']}): {_excerpt(reply.text)}") from error
        except ValueError as error:
            raise _Again(f"{error}: {_excerpt(reply.text)}") from error

    def _raise_for_status(self, reply: httpx.Response) -> None:
        status = reply.status_code
        if status < 400:
            return
        what = f"status {status}: {_excerpt(reply.text)}"
        if status in RETRYABLE_STATUS:
            raise _Again(what, _retry_after(reply))
        if status in (400, 413, 422) and (status == 413 or any(w in reply.text.lower() for w in CONTEXT_WORDS)):
            raise PromptTooLong(f"{self.who}: the prompt is too long: {what}")
        raise ChatFault(f"{self.who} refuses the request: {what}")


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    """What is read of a chat completion; servers add fields of their own."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage = _Usage()
    model: str = ""


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def _chat_reply(reply: _Reply) -> ChatReply:
    choice = reply.choices[0]
    message = choice.message
    return ChatReply(
        text=message.content or "",
        finish=choice.finish_reason or "stop",
        prompt_tokens=reply.usage.prompt_tokens,
        completion_tokens=reply.usage.completion_tokens,
        model=reply.model,
        thoughts=message.reasoning_content or message.reasoning or "",
    )


def base_url(url: str) -> str:
    """``http://host:8000`` and ``http://host:8000/v1/`` both mean ``http://host:8000/v1``."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _backoff(failures: int) -> float:
    """Seconds before the next attempt: doubling, with jitter, so that clients do not return all at once."""
    return min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (failures - 1) * (0.5 + random.random()))


def _retry_after(reply: httpx.Response) -> float | None:
    try:
        return max(0.0, float(reply.headers.get("retry-after", "")))
    except ValueError:
        return None


def _cause(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    return type(error).__name__ + (f": {error}" if str(error) else "")


def _excerpt(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
