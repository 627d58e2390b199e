"""A language model as a world model: history and action in, one observation out.

Owns: the prompt's token budget, the per-request retry budget, the deadline, and turning sampler faults into
``WorldFault``. Refuses: loading tokenizers, batching (the sampler's), any domain knowledge.

Importing this module loads no torch: ``LocalModelSpec`` imports its sampler when it is called, on the worker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rollout.errors import ConfigError, SamplerFault, WorldFault
from rollout.protocols import Chat, Sampler
from rollout.seeds import derive_seed
from rollout.types import Completion, Finish, Message, Role, Sampling, Session, Usage
from worldmodel.dialects import DialectName, dialect
from worldmodel.types import Dialect, Prediction, PredictRequest, WorldModel

DEFAULT_CONTEXT = 2048


def as_messages(pairs: list[tuple[str, str]]) -> list[Message]:
    return [Message(cast(Role, role), content) for role, content in pairs]


def drop_oldest(request: PredictRequest, fits: Callable[[PredictRequest], bool]) -> PredictRequest | None:
    """The request with as few of its oldest exchanges dropped as ``fits`` allows (found by bisection); the spec
    always stays. None where even an empty history does not fit."""
    if fits(request):
        return request
    low, high = 1, len(request.history)  # invariant: dropping low - 1 does not fit
    best: PredictRequest | None = None
    while low <= high:
        middle = (low + high) // 2
        candidate = replace(request, history=request.history[middle:])
        if fits(candidate):
            best, high = candidate, middle - 1
        else:
            low = middle + 1
    return best


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """``max_context`` counts prompt and answer, in tokens; ``retries`` is one budget for faults of any kind;
    ``temperature`` holds where a request names none."""

    max_tokens: int = 256
    max_context: int = DEFAULT_CONTEXT
    temperature: float = 1.0
    retries: int = 2


class LanguageWorldModel:
    """Implements ``WorldModel`` over a sampler, a chat template and a dialect."""

    def __init__(
        self,
        sampler: Sampler,
        chat: Chat,
        dialect: Dialect,
        settings: LanguageSettings,
        model_id: str = "language",
        release: Callable[[], None] | None = None,
    ) -> None:
        self.model_id = model_id
        self._sampler = sampler
        self._chat = chat
        self._dialect = dialect
        self._settings = settings
        self._release = release

    async def predict(self, request: PredictRequest) -> Prediction:
        """One observation. ``truncated`` where old exchanges had to be dropped or the answer was cut. Raises
        ``WorldFault`` at the deadline, when the retry budget is spent, or when the world's description alone does
        not fit the context."""
        started = time.monotonic()
        ids, dropped = self._context(request)
        try:
            async with asyncio.timeout(max(0.0, request.deadline - started)):
                answer = await self._answer(ids, request)
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise WorldFault(f"world model {self.model_id}: no observation after {waited:.1f} s (deadline)") from error
        usage = replace(answer.usage, seconds=time.monotonic() - started)
        return replace(answer, usage=usage, truncated=answer.truncated or dropped)

    async def close(self) -> None:
        """Calls ``release`` (it may block, so in a thread) where the sampler holds something."""
        if self._release is not None:
            await asyncio.to_thread(self._release)

    def _context(self, request: PredictRequest) -> tuple[tuple[int, ...], bool]:
        room = self._settings.max_context - self._settings.max_tokens

        def fits(candidate: PredictRequest) -> bool:
            return len(self._ids(candidate)) <= room

        kept = drop_oldest(request, fits)
        if kept is None:
            bare = len(self._ids(replace(request, history=())))
            raise WorldFault(
                f"world model {self.model_id}: the world's description and the action take {bare} tokens, more than "
                f"the {room} that max_context ({self._settings.max_context}) leaves beside max_tokens"
            )
        return self._ids(kept), kept is not request

    def _ids(self, request: PredictRequest) -> tuple[int, ...]:
        return self._chat.prompt(as_messages(self._dialect.messages(request)))

    async def _answer(self, ids: tuple[int, ...], request: PredictRequest) -> Prediction:
        settings = self._settings
        temperature = settings.temperature if request.temperature is None else request.temperature
        reason: Exception | None = None
        for attempt in range(settings.retries + 1):
            seed = request.seed if attempt == 0 else derive_seed(request.seed, "retry", attempt)
            session = Session(request.session, seed, request.deadline, temperature)
            try:
                completion = await self._sampler(ids, settings.max_tokens, session)
                return self._prediction(ids, completion, attempt)
            except (SamplerFault, ValueError) as error:
                reason = error
        raise WorldFault(
            f"world model {self.model_id}: no observation in {settings.retries + 1} attempts: {reason}"
        ) from reason

    def _prediction(self, ids: tuple[int, ...], completion: Completion, retries: int) -> Prediction:
        raw = self._chat.decode(completion.ids)
        return Prediction(
            observation=self._dialect.extract(raw),
            raw=raw,
            usage=Usage(len(ids), len(completion.ids), 0.0, retries),
            finish=completion.finish,
            model_id=self.model_id,
            truncated=completion.finish is Finish.LENGTH,
        )


@dataclass(frozen=True, slots=True)
class LocalModelSpec:
    """Picklable recipe of a ``LanguageWorldModel`` over a Hugging Face model folder, built where it is called.
    ``max_context`` None: what the model's config allows. ``dtype``: bfloat16 or float32."""

    path: str
    max_tokens: int = 256
    temperature: float = 1.0
    dtype: str = "bfloat16"
    max_batch: int = 16
    threads: int | None = None
    max_context: int | None = None
    retries: int = 2
    dialect: DialectName = "transcript"
    device: str = "cpu"

    def __call__(self) -> WorldModel:
        """Raises ``ConfigError`` where the folder is not a model."""
        from rollout.chat import load_chat  # both load transformers, so only on the worker that predicts
        from rollout.samplers.hf import HFSamplerSpec

        context = self.max_context or read_max_context(self.path)
        sampling = Sampling(self.temperature, self.max_tokens)
        sampler = HFSamplerSpec(self.path, sampling, self.max_batch, self.dtype, self.threads, self.device)()
        settings = LanguageSettings(self.max_tokens, context, self.temperature, self.retries)
        chat, wire, name = load_chat(self.path), dialect(self.dialect), Path(self.path).name
        return LanguageWorldModel(sampler, chat, wire, settings, name, sampler.close)


def read_max_context(path: str) -> int:
    """``max_position_embeddings`` of a model folder, in tokens. Raises ``ConfigError`` if there is no config."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: no readable model config ({error}); point world_model.path at a model") from error
    return int(config.get("max_position_embeddings", DEFAULT_CONTEXT))
