"""Turn-level loss masking: low-information turns stay in the context but mostly leave the loss.

Owns: the word statistics, the six classes and their keep ratios (arXiv 2606.24597, section on continual
pre-training). Refuses: tokens.

With A the lower-cased set of words of the action and O that of the observation: overlap = |A & O| / |A|,
novelty = |O - A| / |O|, length ratio = characters(O) / characters(A). Where the published signatures overlap, the
narrower is tested first (echo, boilerplate, transform). The keep ratio is read as the chance of keeping a turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from worldmodel.types import Transition

TurnClass = Literal["retrieval", "expansion", "action", "transform", "boilerplate", "echo", "other"]

KEEP_RATIOS: Mapping[TurnClass, float] = {
    "retrieval": 1.0,
    "expansion": 1.0,
    "action": 1.0,
    "transform": 0.5,
    "boilerplate": 0.1,
    "echo": 0.05,
    "other": 1.0,
}
SHORT_CHARACTERS = 80  # "short" has no published threshold: one screen line

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """Shares in [0, 1]; 0 where the denominator is empty."""

    overlap: float
    novelty: float
    length_ratio: float


def statistics(action: str, observation: str) -> TurnStatistics:
    words_a = set(_WORD.findall(action.lower()))
    words_o = set(_WORD.findall(observation.lower()))
    return TurnStatistics(
        overlap=len(words_a & words_o) / len(words_a) if words_a else 0.0,
        novelty=len(words_o - words_a) / len(words_o) if words_o else 0.0,
        length_ratio=len(observation) / len(action) if action else 0.0,
    )


def turn_class(action: str, observation: str) -> TurnClass:
    """The class of one turn, by word statistics alone."""
    s = statistics(action, observation)
    if s.overlap >= 0.7 and s.novelty < 0.3:
        return "echo"
    if s.overlap >= 0.5 and s.novelty < 0.5:
        return "boilerplate"
    if s.novelty < 0.5 and s.length_ratio < 1:
        return "transform"
    if s.novelty >= 0.6 and s.length_ratio > 1:
        return "retrieval"
    if s.overlap >= 0.5 and s.novelty >= 0.5 and s.length_ratio > 1.5:
        return "expansion"
    if s.novelty >= 0.5 and (s.length_ratio <= 1 or len(observation) <= SHORT_CHARACTERS):
        return "action"
    return "other"


def keep_all(transition: Transition) -> bool:
    """Loss on every observation."""
    return True


@dataclass(frozen=True)
class TurnMasking:
    """Keeps a turn with its class's ratio, decided by a hash of (seed, episode, turn): the same turn is in or out
    on every machine. Probes are always kept: verdicts hang on them."""

    seed: int = 0
    ratios: Mapping[TurnClass, float] = field(default_factory=lambda: dict(KEEP_RATIOS))

    def __call__(self, transition: Transition) -> bool:
        if transition.probe:
            return True
        ratio = self.ratios[turn_class(transition.action, transition.observation)]
        digest = hashlib.sha256(f"{self.seed}/{transition.episode}/{transition.turn}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < ratio
