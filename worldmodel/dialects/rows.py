"""Recorded episodes as training conversations, with a loss flag per message.

Owns: which messages a world model is trained on. Refuses: tokens, tensors (the trainer turns rows into them), and
anything outside the episode's world: instruction, checks and reference never enter a row.

A probe is conditioned on the whole history and on no other probe, so every probe ends a row of its own. The first
probe shares its row with the losses of the history, the others repeat the history without loss::

    history a b, probes p q   ->   [sys a* b* p*]   [sys a b q*]        (* = loss on its observation)
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollout.types import Message
from worldmodel.dialects.wire import Wire, opening
from worldmodel.types import Episode, Exchange, Transition, WorldSpec, split_probes

Keep = Callable[[Transition], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One training conversation. ``loss`` has one flag per message and is True on assistant messages only."""

    episode: str
    messages: tuple[Message, ...]
    loss: tuple[bool, ...]


def rows(episode: Episode, spec: WorldSpec, wire: Wire, keep: Keep, max_probes: int | None = None) -> list[Row]:
    """Training rows of ``episode``; ``spec`` is ``domain.spec(episode.world)``. ``keep`` decides which observations
    are in the loss (``worldmodel.masking``). ``max_probes`` bounds the probes used, drawn by a stable hash of the
    episode's id. A row without any loss is left out."""
    history, probes = split_probes(episode.transitions)
    base = _messages(opening(wire, spec, [Exchange(t.action, t.observation) for t in history]))
    history_flags = [False]
    for transition in history:
        history_flags += [False, keep(transition)]
    branches: list[Transition | None] = list(_draw(episode.id, probes, max_probes))
    result = []
    for index, probe in enumerate(branches or [None]):
        flags = history_flags if index == 0 else [False] * len(base)
        messages = base
        if probe is not None:
            messages = base + _probe(wire, probe, len(history))
            flags = [*flags, False, keep(probe)]
        if any(flags):
            result.append(Row(episode.id, messages, tuple(flags)))
    return result


def session_row(episode: Episode, spec: WorldSpec, wire: Wire, keep: Keep, rng: random.Random) -> Row | None:
    """The whole episode as one row: the history, then every probe in random order. A read-only probe changes nothing,
    so this is a session that could have happened, and each token of it is paid for once. None without any loss."""
    history, probes = split_probes(episode.transitions)
    steps = [*history, *rng.sample(probes, len(probes))]
    flags = [False]
    for step in steps:
        flags += [False, keep(step)]
    messages = _messages(opening(wire, spec, [Exchange(t.action, t.observation) for t in steps]))
    return Row(episode.id, messages, tuple(flags)) if any(flags) else None


def _probe(wire: Wire, probe: Transition, turn: int) -> tuple[Message, Message]:
    return Message("user", wire.user(probe.action, turn)), Message("assistant", wire.assistant(probe.observation))


def _messages(pairs: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    roles = {"system": "system", "user": "user", "assistant": "assistant"}
    return tuple(Message(roles[role], content) for role, content in pairs)  # type: ignore[arg-type]


def _draw(episode: str, probes: Sequence[Transition], limit: int | None) -> Sequence[Transition]:
    if limit is None or len(probes) <= limit:
        return probes

    def order(index: int) -> bytes:
        return hashlib.sha256(f"{episode}/{index}".encode()).digest()

    chosen = sorted(sorted(range(len(probes)), key=order)[:limit])
    return [probes[i] for i in chosen]
