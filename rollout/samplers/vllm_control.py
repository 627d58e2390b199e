"""The control side of vLLM servers: whether one is fit for training, and giving it weights.

Owns: the checks at start-up, the update that ends in a confirmation, the small words both sides of the client share.
Refuses: completions (``samplers.vllm``).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx

from rollout.errors import ConfigError, SamplerFault
from rollout.samplers.vllm_gate import ABORTED, BROKEN, HEADER, KEY_VARIABLE, PATH, STALE
from rollout.samplers.vllm_wire import BadAnswer, WrongSettings, excerpt, probe_bodies, temperature_shows
from rollout.weight_files import Stamp, WeightFiles

__all__ = [
    "ABORTED",
    "BROKEN",
    "STALE",
    "backoff",
    "cause",
    "certificates",
    "check_server",
    "error_kind",
    "headers",
    "load",
    "stamped",
]

BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0
PROBES = 8  # prompts tried until the logprob mode shows
BUSY_STATUS = frozenset({408, 429, 502, 503, 504})  # of an update: starting, or still draining


def check_server(server: str, model: str, *, timeout: float, api_key: str = "") -> str:
    """What the server is, in one line. ``timeout`` in seconds, for each of a handful of small calls.

    Raises:
        SamplerFault: it does not answer, or not as vLLM does.
        ConfigError: it has no gate, another model name, or the wrong logprob mode; the message names the option.
    """
    begun = time.monotonic()
    server = server.rstrip("/")
    try:
        options: dict[str, Any] = {"timeout": timeout, "trust_env": False, "verify": certificates([server])}
        with httpx.Client(headers=headers(api_key), **options) as client:
            _check_model(server, client.get(f"{server}/v1/models"), model)
            weights = _gate_says(server, client.get(f"{server}{PATH}"))
            if weights is not None:  # else it has to be given weights before it can be asked anything
                _check_logprobs(client, server, model)
    except (httpx.HTTPError, BadAnswer) as error:
        waited = time.monotonic() - begun
        raise SamplerFault(f"{server} does not answer as vLLM does ({cause(error)}, {waited:.1f} s)") from error
    return f"{server}: serves {model}, weights {weights}, logprobs after temperature"


async def load(client: httpx.AsyncClient, server: str, weights: WeightFiles, *, drain: float, timeout: float) -> Stamp:
    """Make ``server`` serve ``weights`` or later ones; returns once it says so. ``drain`` and ``timeout`` in seconds.

    Tries again while the server is away or busy: it may be starting. Raises SamplerFault."""
    deadline = time.monotonic() + timeout
    attempt, reason = 0, "no try fitted in"
    while (left := deadline - time.monotonic()) > 0:
        body = {
            "weights": str(weights.stamp),
            "folder": weights.folder,
            "drain": min(drain, left / 2),
            "timeout": left,
        }
        try:
            async with asyncio.timeout(left):
                reply = await client.post(f"{server}{PATH}", json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            reason = cause(error)
        else:
            if reply.status_code == 200:
                return _confirmed(server, reply, weights.stamp)
            reason = f"status {reply.status_code}: {excerpt(reply.text)}"
            if reply.status_code not in BUSY_STATUS:
                raise SamplerFault(f"{server} did not load weights {weights.stamp}: {reason}")
        await asyncio.sleep(max(0.0, min(backoff(attempt, attempt), deadline - time.monotonic())))
        attempt += 1
    raise SamplerFault(f"{server} did not confirm weights {weights.stamp} within {timeout:g} s: {reason}")


def stamped(server: str, reply: httpx.Response) -> Stamp:
    """The weights an answer was made with. Raises SamplerFault where it does not say."""
    try:
        return Stamp.parse(reply.headers.get(HEADER, ""))
    except ValueError as error:
        raise SamplerFault(f"{server} does not say which weights it serves: start it with the weight gate") from error


def headers(api_key: str) -> dict[str, str]:
    key = api_key or os.environ.get(KEY_VARIABLE, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def certificates(servers: Sequence[str]) -> bool:
    """Whether a client of ``servers`` needs the certificates, which take longer to read than a call takes."""
    return any(server.startswith("https:") for server in servers)


def error_kind(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["type"])
    except (ValueError, KeyError, TypeError):
        return ""


def cause(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    return type(error).__name__ + (f": {error}" if str(error) else "")


def backoff(attempt: int, seed: int) -> float:
    """Seconds before the next try: doubling, with jitter drawn from ``seed``."""
    return float(min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempt) * (0.5 + random.Random(seed).random()))


def _confirmed(server: str, reply: httpx.Response, wanted: Stamp) -> Stamp:
    served = stamped(server, reply)
    if not served.serves(wanted):
        raise SamplerFault(f"{server} serves {served} after an update to {wanted}")
    return served


def _gate_says(server: str, reply: httpx.Response) -> str | None:
    """The weights behind the gate; None where there are none now."""
    try:
        weights = reply.json()["weights"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{server}: no weight gate (status {reply.status_code}): start it with the options in docs/samplers.md"
        ) from error
    return None if weights is None else str(weights)


def _check_model(server: str, reply: httpx.Response, model: str) -> None:
    if reply.status_code == 401:
        raise ConfigError(f"{server}: wrong or missing API key: set {KEY_VARIABLE} here to the server's")
    try:
        names = [str(item["id"]) for item in reply.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadAnswer(f"/v1/models: status {reply.status_code}, {excerpt(reply.text)}") from error
    if model not in names:
        raise ConfigError(f"{server} serves {', '.join(names)}: start it with --served-model-name {model}")


def _check_logprobs(client: httpx.Client, server: str, model: str) -> None:
    """A model that is sure of itself after every probe has the same logprobs in either mode: nothing to refuse."""
    for start in range(PROBES):
        replies = [client.post(f"{server}/v1/completions", json=b) for b in probe_bodies(model, [start, start + 1])]
        for reply in replies:
            if reply.status_code != 200:
                raise BadAnswer(f"a probe: status {reply.status_code}, {excerpt(reply.text)}")
        try:
            shows = temperature_shows(replies[0].content, replies[1].content)
        except WrongSettings as error:
            raise ConfigError(f"{server}: {error}") from error
        if shows is False:
            raise ConfigError(
                f"{server} reports logprobs before temperature: start it with --logprobs-mode processed_logprobs"
            )
        if shows:
            return
