"""A policy behind vLLM servers: token ids in, token ids out, over HTTP. Implements ``protocols.UpdatableSampler``.

Owns: calls with their deadline, retries and typed faults; session affinity; telling every server to load published
weights and believing only what it confirms. Refuses: starting servers (``samplers.vllm_process``, ``ray_vllm``), the
form of requests and answers (``vllm_wire``), weights in memory: they travel as files (``weight_files``).

The version of each id is the one the server stamps on its answer (``vllm_gate``), not one this client believes in.
Calls in flight when new weights are published are finished under the old ones, or aborted by the gate and sampled
again. A server that came back with other weights is given the published ones before it is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from rollout.errors import ConfigError, SamplerFault
from rollout.samplers.vllm_control import (
    ABORTED,
    BROKEN,
    STALE,
    backoff,
    cause,
    certificates,
    check_server,
    error_kind,
    headers,
    load,
    stamped,
)
from rollout.samplers.vllm_gate import HEADER
from rollout.samplers.vllm_wire import (
    RETRYABLE_STATUS,
    BadAnswer,
    WrongSettings,
    completion,
    excerpt,
    ranked,
    request_body,
)
from rollout.types import Completion, Sampling, Session, Version
from rollout.weight_files import Stamp, WeightFiles

MODEL = "policy"  # the name under which servers serve it: --served-model-name
AVOID_SECONDS = 5.0  # a server that did not answer is the last choice for so long


@dataclass(frozen=True, slots=True)
class VLLMSamplerSpec:
    """Picklable ``SamplerFactory`` over running servers. Timeouts in seconds.

    Args:
        servers: roots, e.g. ``http://127.0.0.1:8000``.
        stop_ids: of the chat; a stop id ends a completion and is part of it.
        retries: further tries of a call, on the session's next server where it has several.
        call_timeout: of a call whose session has no deadline.
        update_timeout: all of an update; ``drain``: the part of it in which calls under way may end.
        api_key: of the servers; empty: the variable ``VLLM_API_KEY`` where the sampler is built.
    """

    servers: tuple[str, ...]
    stop_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    model: str = MODEL
    retries: int = 3
    call_timeout: float = 120.0
    start_timeout: float = 60.0
    update_timeout: float = 110.0
    drain: float = 30.0
    api_key: str = field(default="", repr=False)

    def __call__(self) -> VLLMSampler:
        """Raises SamplerFault where a server does not answer, ConfigError where one runs with unfit settings."""
        if not self.servers:
            raise ConfigError("no vLLM servers: name at least one URL")
        for server in self.servers:
            check_server(server, self.model, timeout=self.start_timeout, api_key=self.api_key)
        return VLLMSampler(self)


class _Again(Exception):
    """One failed try. ``reload``: the server needs the published weights first. ``away``: it did not answer."""

    def __init__(self, reason: str, *, reload: bool = False, away: bool = False) -> None:
        super().__init__(reason)
        self.reload, self.away = reload, away


class VLLMSampler:
    """See the module. Calls come from one event loop at a time, ``update`` from a thread that runs none."""

    def __init__(self, spec: VLLMSamplerSpec) -> None:
        self._spec = spec
        self._servers = tuple(server.rstrip("/") for server in spec.servers)
        self._weights: WeightFiles | None = None
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._away: dict[str, float] = {}  # server: until when it is the last choice
        self._closed = False

    @property
    def version(self) -> Version:
        """The oldest version that an answer may have."""
        return self._wanted.version

    @property
    def _wanted(self) -> Stamp:
        return self._weights.stamp if self._weights else Stamp()

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        if not context_ids or max_tokens < 1:
            raise SamplerFault(f"sampler: {len(context_ids)} context ids and max_tokens {max_tokens}: need 1 of each")
        if self._closed:
            raise SamplerFault("sampler: closed")
        body = request_body(
            self._spec.model,
            context_ids,
            max_tokens=max_tokens,
            temperature=self._spec.sampling.temperature if session.temperature is None else session.temperature,
            seed=session.seed,
            stop_ids=self._spec.stop_ids,
        )
        begun = time.monotonic()
        deadline = begun + self._spec.call_timeout if session.deadline is None else session.deadline
        reasons: list[str] = []
        try:
            async with asyncio.timeout(max(0.0, deadline - begun)):
                return await self._tries(body, session, reasons)
        except TimeoutError as error:
            last = f"; before that {reasons[-1]}" if reasons else ""
            waited = time.monotonic() - begun
            raise SamplerFault(f"vLLM gave no completion within {waited:.1f} s (deadline){last}") from error

    def update(self, version: Version, weights: WeightFiles) -> Version:
        """Every server loads ``weights``; blocks until all confirm ``version`` (or later ones), and returns it.

        Raises SamplerFault naming a server that refused, failed, or gave no confirmation in time."""
        if weights.stamp.version != version:
            raise SamplerFault(f"update to {tuple(version)} was given weights {weights.stamp}")
        asyncio.run(self._update_all(weights))
        if not self._wanted.serves(weights.stamp):
            self._weights = weights
        return version

    def close(self) -> None:
        """Later calls get a fault. Connections end with the loop that used them."""
        self._closed = True
        self._client = self._loop = None

    async def _tries(self, body: dict[str, Any], session: Session, reasons: list[str]) -> Completion:
        failed: set[str] = set()
        for attempt in range(self._spec.retries + 1):
            server = self._choose(session.id, failed)
            try:
                return await self._try(server, body, session)
            except _Again as again:
                reasons.append(f"{server}: {again}")
                if again.away:
                    self._away[server] = time.monotonic() + AVOID_SECONDS
                if again.reload and self._weights is not None:
                    await self._reload(server, self._weights, reasons)
                else:
                    failed.add(server)
                    await asyncio.sleep(backoff(attempt, session.seed) * (attempt < self._spec.retries))
        raise SamplerFault(f"vLLM failed {self._spec.retries + 1} times: {reasons[-1]}")

    def _choose(self, session: str, failed: set[str]) -> str:
        """The session's own server, unless this call failed there or it was away a moment ago."""
        now = time.monotonic()
        return min(ranked(self._servers, session), key=lambda s: (s in failed, self._away.get(s, 0.0) > now))

    async def _try(self, server: str, body: dict[str, Any], session: Session) -> Completion:
        wanted = self._wanted
        marks = {"x-session-id": session.id, HEADER: str(wanted)}
        try:
            reply = await self._connection().post(f"{server}/v1/completions", json=body, headers=marks)
        except httpx.HTTPError as error:
            raise _Again(cause(error), away=True) from error
        if reply.status_code != 200:
            raise _refusal(server, reply)
        served = stamped(server, reply)
        if not served.serves(wanted):
            raise _Again(f"answered with weights {served}, asked for {wanted}", reload=True)
        try:
            return completion(reply.content, body, served.version)
        except BadAnswer as error:
            raise _Again(f"{error}: {excerpt(reply.text)}") from error
        except WrongSettings as error:
            raise SamplerFault(f"{server}: {error}") from error

    async def _reload(self, server: str, weights: WeightFiles, reasons: list[str]) -> None:
        """Give a server that restarted its weights back; every call that meets it may ask, the gate loads once."""
        spec = self._spec
        try:
            await load(self._connection(), server, weights, drain=spec.drain, timeout=spec.update_timeout)
        except SamplerFault as fault:
            reasons.append(str(fault))

    async def _update_all(self, weights: WeightFiles) -> None:
        spec = self._spec
        async with self._new_client() as client:
            loads = (load(client, s, weights, drain=spec.drain, timeout=spec.update_timeout) for s in self._servers)
            for result in await asyncio.gather(*loads, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    def _connection(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._new_client(), loop
        return self._client

    def _new_client(self) -> httpx.AsyncClient:
        """No timeouts and no limits of its own: deadlines are the callers', concurrency is the pool's slots."""
        return httpx.AsyncClient(
            headers=headers(self._spec.api_key),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=None,
            trust_env=False,
            verify=certificates(self._servers),
        )


def _refusal(server: str, reply: httpx.Response) -> Exception:
    """What to do about an answer other than 200. Calls aborted for new weights are simply sampled again."""
    kind = error_kind(reply)
    text = f"status {reply.status_code}: {excerpt(reply.text)}"
    if kind in (STALE, BROKEN, ABORTED):
        return _Again(text, reload=kind != ABORTED)
    if reply.status_code in RETRYABLE_STATUS:
        return _Again(text)
    return SamplerFault(f"{server} refuses the request: {text}")
