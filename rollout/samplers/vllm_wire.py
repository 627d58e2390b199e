"""The words between the vLLM client and its servers: bodies of requests, and what an answer must look like.

Owns: ``/v1/completions`` with token ids in and out, and the checks that make an answer trainable. Refuses: HTTP,
retries, choosing a server (``samplers.vllm``).

Everything that shapes the distribution is written out, because a server fills gaps from the model's
``generation_config.json``. ``ignore_eos`` with ``stop_token_ids`` makes the chat's stop ids the only ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from rollout.types import Completion, Finish, Version

RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
PROBE_TEMPERATURES = (1.0, 0.25)
PROBE_TOP = 5  # logprobs asked for beside the sampled one; servers allow 20


class BadAnswer(Exception):
    """An answer that cannot be trained on; another try may bring a good one."""


class WrongSettings(Exception):
    """The server runs with settings under which no answer can be good; the message says which."""


class _Logprobs(BaseModel):
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] = Field(default_factory=list)


class _Choice(BaseModel):
    text: str
    finish_reason: str | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Answer(BaseModel):
    """What is read of an answer; servers add fields of their own."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)


def request_body(
    model: str, ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int, stop_ids: Sequence[int]
) -> dict[str, Any]:
    """A request for one completion of ``ids`` with the logprob of each sampled id. ``seed`` fits in 63 bits."""
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": True,
        "logprobs": 0,  # the sampled id's alone
        "return_token_ids": True,
        "n": 1,
        "stream": False,
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def completion(content: bytes, sent: dict[str, Any], version: Version) -> Completion:
    """The answer to ``sent`` as a Completion whose ids were all sampled under ``version``.

    Raises:
        BadAnswer: not JSON, fields missing, other prompt ids than were sent, counts that differ, a logprob that is
            no logprob, an abort.
        WrongSettings: cut short of ``max_tokens`` by the server's own limit, or stopped at an id not asked for.
    """
    choice = _choice(content)
    if choice.token_ids is None or choice.prompt_token_ids is None or choice.logprobs is None:
        raise BadAnswer("no token_ids, prompt_token_ids or logprobs in it: vLLM 0.22 or later is needed")
    ids, logprobs = choice.token_ids, choice.logprobs.token_logprobs
    if choice.prompt_token_ids != sent["prompt"]:
        raise BadAnswer(f"it read {len(choice.prompt_token_ids)} prompt ids, not the {len(sent['prompt'])} sent")
    if not 1 <= len(ids) <= sent["max_tokens"] or len(logprobs) != len(ids):
        raise BadAnswer(f"{len(ids)} ids and {len(logprobs)} logprobs where 1 to {sent['max_tokens']} were asked for")
    if choice.finish_reason == "stop":
        if ids[-1] not in sent["stop_token_ids"]:
            raise WrongSettings(f"it stopped at id {ids[-1]}, which is no stop id of the chat")
    elif choice.finish_reason != "length":
        raise BadAnswer(f"finish reason {choice.finish_reason!r}")
    elif len(ids) < sent["max_tokens"]:
        raise WrongSettings(
            f"it cut at {len(sent['prompt']) + len(ids)} ids: start it with a --max-model-len of rollout.max_context"
        )
    finish = Finish.STOP if choice.finish_reason == "stop" else Finish.LENGTH
    return Completion(tuple(ids), _checked(logprobs), choice.text, finish, (version,) * len(ids))


def probe_bodies(model: str, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Two requests for one id after ``ids``, at the two ``PROBE_TEMPERATURES``."""
    fixed: dict[str, Any] = {"max_tokens": 1, "seed": 0, "stop_ids": ()}
    return [
        request_body(model, ids, temperature=t, **fixed) | {"logprobs": PROBE_TOP, "return_tokens_as_token_ids": True}
        for t in PROBE_TEMPERATURES
    ]


def temperature_shows(warm: bytes, cold: bytes) -> bool | None:
    """Whether the logprobs of the two probes' answers follow the temperature (``processed_logprobs``) or not (the
    default, ``raw_logprobs``). None where the model is so sure that both look alike. Raises BadAnswer."""
    top = []
    for content in (warm, cold):
        logprobs = _choice(content).logprobs
        if logprobs is None or not logprobs.top_logprobs or not logprobs.top_logprobs[0]:
            raise BadAnswer("no top_logprobs in it")
        found = logprobs.top_logprobs[0].values()
        if sum(math.exp(min(value, 1.0)) for value in found) > 1.0 + 1e-2:
            raise WrongSettings("its logprobs are no logprobs: start it with --logprobs-mode processed_logprobs")
        top.append(max(found))
    if top[0] > -1e-3:
        return None
    return abs(top[0] - top[1]) > 1e-3


def ranked(servers: Sequence[str], session: str) -> list[str]:
    """``servers`` in the order in which ``session`` prefers them (highest random weight): a session always meets
    the same server, and one that goes away moves its own sessions only."""
    return sorted(servers, key=lambda server: hashlib.sha256(f"{session}\n{server}".encode()).digest())


def excerpt(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _choice(content: bytes) -> _Choice:
    try:
        return _Answer.model_validate_json(content).choices[0]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BadAnswer(f"no completion ({where}: {first['msg']})") from error


def _checked(logprobs: Sequence[float | None]) -> tuple[float, ...]:
    found = []
    for value in logprobs:
        if value is None or not math.isfinite(value) or value > 1e-4:
            raise BadAnswer(f"{value} is no logprob")
        found.append(min(0.0, value))
    return tuple(found)
