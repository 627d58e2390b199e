"""A world model behind any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API), by URL.

Owns: the HTTP call, its retries and back-off within one budget and one deadline, the concurrency limit per
endpoint, session affinity, and turning every fault into one line. Refuses: starting servers; wire formats.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, replace
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from rollout.errors import WorldFault
from rollout.seeds import derive_seed
from rollout.types import Finish, Usage
from worldmodel.dialects import DialectName, dialect
from worldmodel.types import Prediction, PredictRequest, WorldModel

RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CONTEXT_WORDS = ("context length", "context size", "maximum context", "exceed_context", "too many tokens")
BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 8.0


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


class _Again(Exception):
    """One failed attempt that another may mend, after ``wait`` seconds where the server asked for a pause."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _TooLong(Exception):
    """The server refused the prompt for its length."""


class OpenAIWorldModel:
    """Implements ``WorldModel``. One HTTP client and one concurrency limit per event loop, made at first use."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.model_id = spec.model
        self._dialect = dialect(spec.dialect)
        self._base = base_url(spec.url)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None

    async def predict(self, request: PredictRequest) -> Prediction:
        """One observation. ``truncated`` where the answer was cut at max_tokens, or where the server refused the
        length and older exchanges were dropped. Raises ``WorldFault``."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, request.deadline - started)):
                return await self._attempts(request, started)
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise WorldFault(f"{self._who()} gave no observation within {waited:.1f} s (deadline)") from error

    async def check(self, timeout: float = 5.0) -> None:
        """Raises ``WorldFault`` with one clear line unless the server answers on ``/models``."""
        client, _ = self._connection()
        try:
            reply = await client.get(f"{self._base}/models", timeout=timeout)
        except httpx.HTTPError as error:
            raise WorldFault(f"{self._who()} does not answer ({_cause(error)}): start it or fix the URL") from error
        if reply.status_code >= 400:
            raise WorldFault(f"{self._who()} answers /models with status {reply.status_code}: {_excerpt(reply.text)}")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        self._loop = self._client = self._slots = None

    def _who(self) -> str:
        return f"world model server {self._base}"

    def _connection(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._client is None or self._slots is None or self._loop is not loop:
            key = os.environ.get(self.spec.api_key_env, "")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            limits = httpx.Limits(max_connections=self.spec.concurrency)
            self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=self.spec.call_timeout)
            self._slots = asyncio.Semaphore(self.spec.concurrency)
            self._loop = loop
        return self._client, self._slots

    async def _attempts(self, request: PredictRequest, started: float) -> Prediction:
        failures, shortened, reason = 0, False, ""
        while failures <= self.spec.retries:
            seed = request.seed if failures == 0 else derive_seed(request.seed, "retry", failures)
            try:
                prediction = await self._call(replace(request, seed=seed))
            except _TooLong as error:
                if not request.history:
                    raise WorldFault(f"{self._who()}: the world's description alone is too long: {error}") from error
                request = replace(request, history=request.history[(len(request.history) + 1) // 2 :])
                shortened = True
                continue
            except _Again as error:
                failures, reason = failures + 1, str(error)
                if failures <= self.spec.retries:
                    await asyncio.sleep(error.wait if error.wait is not None else _backoff(failures, seed))
                continue
            usage = replace(prediction.usage, seconds=time.monotonic() - started, retries=failures)
            return replace(prediction, usage=usage, truncated=prediction.truncated or shortened)
        raise WorldFault(f"{self._who()} failed {failures} times: {reason}")

    async def _call(self, request: PredictRequest) -> Prediction:
        client, slots = self._connection()
        headers = {"x-session-id": request.session} if request.session else {}
        async with slots:
            try:
                reply = await client.post(f"{self._base}/chat/completions", json=self._body(request), headers=headers)
            except httpx.HTTPError as error:
                raise _Again(_cause(error)) from error
        self._raise_for_status(reply)
        try:
            return self._prediction(_Reply.model_validate_json(reply.content))
        except ValidationError as error:
            raise _Again(f"not a chat completion ({error.errors()[0]['msg']}): {_excerpt(reply.text)}") from error
        except ValueError as error:
            raise _Again(f"{error}: {_excerpt(reply.text)}") from error

    def _body(self, request: PredictRequest) -> dict[str, Any]:
        temperature = self.spec.temperature if request.temperature is None else request.temperature
        body: dict[str, Any] = {
            "model": self.spec.model,
            "messages": [{"role": r, "content": c} for r, c in self._dialect.messages(request)],
            "max_tokens": self.spec.max_tokens,
            "temperature": temperature,
            "seed": request.seed % 2**31,  # servers hold a seed in 32 bits
        }
        if request.session:
            body["user"] = request.session
        return body

    def _raise_for_status(self, reply: httpx.Response) -> None:
        status = reply.status_code
        if status < 400:
            return
        what = f"status {status}: {_excerpt(reply.text)}"
        if status in RETRYABLE_STATUS:
            raise _Again(what, _retry_after(reply))
        if status in (400, 413, 422) and (status == 413 or any(w in reply.text.lower() for w in CONTEXT_WORDS)):
            raise _TooLong(what)
        raise WorldFault(f"{self._who()} refuses the request: {what}")

    def _prediction(self, reply: _Reply) -> Prediction:
        choice = reply.choices[0]
        content = choice.message.content or ""
        thoughts = choice.message.reasoning_content or choice.message.reasoning or ""
        finish = Finish.LENGTH if choice.finish_reason == "length" else Finish.STOP
        if thoughts and not content and finish is Finish.LENGTH:
            raise ValueError("cut at max_tokens inside the thoughts")
        return Prediction(
            observation=self._dialect.extract(content),
            raw=f"<think>{thoughts}</think>\n{content}" if thoughts else content,
            usage=Usage(reply.usage.prompt_tokens, reply.usage.completion_tokens),
            finish=finish,
            model_id=reply.model or self.spec.model,
            truncated=finish is Finish.LENGTH,
        )


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


def base_url(url: str) -> str:
    """``http://host:8000`` and ``http://host:8000/v1/`` both mean ``http://host:8000/v1``."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _backoff(failures: int, seed: int) -> float:
    """Seconds before the next attempt: doubling, with jitter drawn from the request's seed."""
    jitter = 0.5 + random.Random(seed).random()
    return min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (failures - 1) * jitter)


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
