"""The batch that is being decoded: requests in, answers out, one step at a time. Single-threaded, no asyncio.

Owns: who is in the batch, sampling, what is kept for later contexts. Refuses: waiting, threads, weights of two
versions in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rollout.errors import SamplerFault
from rollout.samplers.hf_prefix import BLOCK, Prefix, PrefixStore, block_keys
from rollout.samplers.hf_rows import Decoder, join, prefill, probe
from rollout.types import Completion, Finish, Version

SHARED = 64  # ids that two new contexts must share before one waits for the other's prefill
CROWDED = 0.75  # share of live rows under which the batch is compacted


@dataclass(slots=True, eq=False)
class Request:
    """One call. ``resolve`` takes its answer or its fault, once; ``abandoned`` says that nobody waits any more."""

    ids: tuple[int, ...]
    limit: int
    temperature: float
    seed: int
    deadline: float
    resolve: Callable[[Completion | SamplerFault], None]
    abandoned: Callable[[], bool]
    keys: tuple[int, ...] = ()
    parent: Prefix | None = None


@dataclass(slots=True)
class _Drawn:
    """What was sampled so far; axes: B row, T sampled id."""

    temperature_B: Tensor  # 0: greedy
    uniform_BT: Tensor  # one draw per id, from the request's seed alone
    limit_B: Tensor
    made_B: Tensor
    ids_BT: Tensor
    logprobs_BT: Tensor

    def select(self, indices: Tensor) -> _Drawn:
        return _Drawn(*(getattr(self, name).index_select(0, indices) for name in self.__slots__))

    def join(self, other: _Drawn) -> _Drawn:
        width = max(self.ids_BT.shape[1], other.ids_BT.shape[1])
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return _Drawn(*(torch.cat([_widen(a, width), _widen(b, width)]) for a, b in pairs))


@dataclass(slots=True)
class _Batch:
    requests: list[Request]
    live: list[bool]
    decoder: Decoder
    drawn: _Drawn


class Engine:
    """``stop_ids`` end a row and are part of its answer; ``prefix_bytes`` bounds the states kept after a row ends."""

    def __init__(self, model: Any, *, pad_id: int, stop_ids: Sequence[int], prefix_bytes: int) -> None:
        self._model = model
        self._shape = probe(model)
        self._pad_id = pad_id
        self._stops = torch.tensor(sorted(stop_ids), device=self._shape.device)
        self._prefixes = PrefixStore(prefix_bytes, divisible=not self._shape.convolution)
        self._batch: _Batch | None = None
        self.version = Version(0, 0)

    @property
    def alive(self) -> int:
        return sum(self._batch.live) if self._batch else 0

    def forget(self) -> None:
        """Drops every kept state: the weights changed, or an error left them in doubt."""
        self._prefixes.clear()

    def abandon(self, fault: SamplerFault) -> None:
        """Ends every row with ``fault``."""
        if self._batch is not None:
            for request, live in zip(self._batch.requests, self._batch.live, strict=True):
                if live:
                    request.resolve(fault)
        self._batch = None

    def admit(self, requests: Sequence[Request]) -> None:
        """Reads the contexts of ``requests`` and adds them to the batch."""
        now = time.monotonic()
        wanted = []
        for request in requests:
            if now >= request.deadline:
                request.resolve(SamplerFault("sampler: the deadline passed before a row was free"))
            elif not request.abandoned():
                request.keys = block_keys(request.ids)
                wanted.append(request)
        leaders, followers, shared = self._waves(wanted)
        for wave in (leaders, followers):
            if wave:
                self._read(wave, keep=shared)

    def step(self) -> None:
        """One id for each row; rows that end are answered, rows past their deadline get a fault."""
        batch = self._batch
        if batch is None:
            return
        tokens, ended = _draw(batch.decoder.rows.logits, batch.drawn, self._stops)
        self._settle(batch, ended)
        alive = sum(batch.live)
        if alive == 0:
            self._batch = None
            return
        if alive <= CROWDED * len(batch.live):
            batch = self._compact(batch)
            tokens = batch.drawn.ids_BT.gather(1, batch.drawn.made_B[:, None] - 1)[:, 0]
        batch.decoder.step(tokens)

    def _waves(self, requests: Sequence[Request]) -> tuple[list[Request], list[Request], set[int]]:
        """Contexts to read first, those that can then reuse their states (members of a group share most of what
        they read), and the ``id()`` of requests whose states are wanted."""
        leaders: list[Request] = []
        followers: list[Request] = []
        planned: dict[Any, Request] = {}
        shared: set[int] = set()
        for request in requests:
            _, known = self._prefixes.find(request.ids, request.keys)
            if self._prefixes.divisible:
                marks: Sequence[Any] = request.keys[(known + SHARED) // BLOCK - 1 :]
            else:
                marks = (request.ids,) if request.keys and known < len(request.ids) else ()
            leader = next((planned[mark] for mark in reversed(marks) if mark in planned), None)
            if leader is None:
                leaders.append(request)
                planned.update(dict.fromkeys(marks, request))
            else:
                followers.append(request)
                shared.add(id(leader))
        return leaders, followers, shared

    def _read(self, requests: Sequence[Request], keep: set[int]) -> None:
        known = [self._prefixes.find(request.ids, request.keys) for request in requests]
        room = max(request.limit for request in requests)
        contexts = [request.ids for request in requests]
        rows, order = prefill(self._model, self._shape, contexts, known, room, self._pad_id)
        ordered = [requests[i] for i in order]
        for row, (request, i) in enumerate(zip(ordered, order, strict=True)):
            request.parent = known[i][0]
            if id(request) in keep:
                request.parent = rows.prefix(row, request.ids, request.keys, with_logits=True)
                self._prefixes.put(request.parent)
        drawn = _blank(ordered, self._shape.device)
        live = [True] * len(ordered)
        if self._batch is not None:
            old = self._compact(self._batch)
            left = max(int((old.drawn.limit_B - old.drawn.made_B).max()), room)
            rows = join(old.decoder.rows, rows, left)
            drawn, ordered, live = old.drawn.join(drawn), [*old.requests, *ordered], [*old.live, *live]
        self._batch = _Batch(ordered, live, Decoder(self._model, self._shape, rows), drawn)

    def _compact(self, batch: _Batch) -> _Batch:
        if all(batch.live):
            return batch
        kept = [row for row, live in enumerate(batch.live) if live]
        indices = torch.tensor(kept, device=self._shape.device)
        decoder = Decoder(self._model, self._shape, batch.decoder.rows.select(indices))
        self._batch = _Batch(
            [batch.requests[row] for row in kept], [True] * len(kept), decoder, batch.drawn.select(indices)
        )
        return self._batch

    def _settle(self, batch: _Batch, ended: list[bool]) -> None:
        now = time.monotonic()
        for row, request in enumerate(batch.requests):
            if not batch.live[row]:
                continue
            if ended[row]:
                batch.live[row] = False
                request.resolve(self._answer(batch, row, request))
            elif request.abandoned():
                batch.live[row] = False
            elif now >= request.deadline:
                batch.live[row] = False
                made = int(batch.drawn.made_B[row])
                request.resolve(SamplerFault(f"sampler: the deadline passed after {made} of {request.limit} ids"))

    def _answer(self, batch: _Batch, row: int, request: Request) -> Completion | SamplerFault:
        made = int(batch.drawn.made_B[row])
        ids = tuple(batch.drawn.ids_BT[row, :made].tolist())
        logprobs = tuple(batch.drawn.logprobs_BT[row, :made].tolist())
        if not all(np.isfinite(logprobs)):
            return SamplerFault("sampler: the model's logits are not finite")
        read = request.ids + ids[:-1]  # the last id was never fed
        prefix = batch.decoder.rows.prefix(row, read, block_keys(read))
        self._prefixes.put(prefix, replaces=request.parent)
        finish = Finish.STOP if ids[-1] in self._stops.tolist() else Finish.LENGTH
        return Completion(ids, logprobs, "", finish, (self.version,) * made)


def _draw(logits: Tensor, drawn: _Drawn, stops: Tensor) -> tuple[Tensor, list[bool]]:
    """Samples one id per row into ``drawn``; returns the ids and whether each row has ended.

    By inversion: the id is the first whose cumulative probability exceeds the row's uniform draw.
    """
    greedy = drawn.temperature_B == 0
    scale = torch.where(greedy, 1.0, drawn.temperature_B)
    logprobs = torch.log_softmax(logits.float() / scale[:, None], dim=-1)
    # A row that ended but was not yet compacted stays at its last column.
    column = drawn.made_B.clamp(max=drawn.ids_BT.shape[1] - 1)[:, None]
    tokens = logprobs.argmax(-1)
    if not bool(greedy.all()):
        cumulative = logprobs.exp().cumsum(-1)
        target = drawn.uniform_BT.gather(1, column) * cumulative[:, -1:]
        sampled = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        tokens = torch.where(greedy, tokens, sampled)
    drawn.ids_BT.scatter_(1, column, tokens[:, None])
    drawn.logprobs_BT.scatter_(1, column, logprobs.gather(1, tokens[:, None]))
    drawn.made_B += 1
    ended = torch.isin(tokens, stops) | (drawn.made_B >= drawn.limit_B)
    return tokens, ended.tolist()


def _blank(requests: Sequence[Request], device: torch.device) -> _Drawn:
    width = max(request.limit for request in requests)
    uniform = np.zeros((len(requests), width), dtype=np.float32)
    for row, request in enumerate(requests):
        if request.temperature:
            uniform[row, : request.limit] = np.random.default_rng(request.seed).random(request.limit, np.float32)
    return _Drawn(
        temperature_B=torch.tensor([request.temperature for request in requests], device=device),
        uniform_BT=torch.from_numpy(uniform).to(device),
        limit_B=torch.tensor([request.limit for request in requests], device=device),
        made_B=torch.zeros(len(requests), dtype=torch.long, device=device),
        ids_BT=torch.zeros(len(requests), width, dtype=torch.long, device=device),
        logprobs_BT=torch.zeros(len(requests), width, device=device),
    )


def _widen(tensor: Tensor, width: int) -> Tensor:
    if tensor.dim() == 1 or tensor.shape[1] == width:
        return tensor
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))
