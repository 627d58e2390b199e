"""What of an observation spec and history determine, and whether a prediction agrees with it there.

Owns: the open spans of a recorded episode (its ``meta``): finding them from two executions, comparing around them.
Refuses: running anything, and knowing any domain.

Two executions are compared word by word, a word being what stands between blanks: a clock, an address or an identifier
that differs in one letter is open as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from worldmodel.types import Episode, Span, Transition

HOLE = "\ue000"  # stands for an open span; private, so that no program prints it


def to_meta(spans: Mapping[int, Sequence[Span]]) -> dict[str, Any]:
    """The form in which spans, by index of their transition, are stored."""
    return {"open": {str(index): [list(span) for span in found] for index, found in spans.items()}} if spans else {}


def open_spans(episode: Episode) -> dict[Transition, Sequence[Span]]:
    """The open spans of each transition that has any."""
    stored: Mapping[str, Sequence[Span]] = episode.meta.get("open", {})
    return {episode.transitions[int(index)]: spans for index, spans in stored.items()}


def differing(first: Episode, second: Episode) -> Episode:
    """``first``, with what ``second``, another execution of the same session, says otherwise marked as open."""
    stored: Mapping[str, Sequence[Span]] = first.meta.get("open", {})
    found = {int(index): list(spans) for index, spans in stored.items()}
    for index, transition in enumerate(first.transitions):
        other = second.transitions[index] if index < len(second.transitions) else None
        text = transition.observation
        if other is None or other.action != transition.action:
            new: list[Span] = [(0, len(text))]
        else:
            new = [] if other.observation == text else unlike(text, other.observation)
        if new:
            found[index] = merged([*found.get(index, ()), *new])
    return replace(first, meta={**first.meta, **to_meta(found), "twice": True})


def unlike(text: str, other: str) -> list[Span]:
    """The spans of ``text`` that ``other`` does not share; an empty one where ``other`` says more."""
    words, others = (re.findall(r"\S+\s*|\s+", t) for t in (text, other))
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    codes = SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    return [(starts[a], starts[b]) for tag, a, b, _, _ in codes if tag != "equal"]


def merged(spans: Sequence[Span]) -> list[Span]:
    """Sorted, without overlaps."""
    result: list[list[int]] = []
    for start, end in sorted((span[0], span[1]) for span in spans):
        if result and start <= result[-1][1]:
            result[-1][1] = max(result[-1][1], end)
        else:
            result.append([start, end])
    return list(result)


def holed(text: str, spans: Sequence[Span]) -> str:
    """``text`` with a hole in the place of every span."""
    pieces, at = [], 0
    for start, end in merged(spans):
        pieces += [text[at:start], HOLE]
        at = end
    return "".join([*pieces, text[at:]])


def determined(text: str, spans: Sequence[Span]) -> float:
    """The share of the characters of ``text`` outside ``spans`` that are no blanks, of all such; 1 without any."""
    whole = sum(not c.isspace() for c in text)
    left = sum(not c.isspace() for c in holed(text, spans).replace(HOLE, ""))
    return left / whole if whole else float(not spans)


def agrees(text: str, spans: Sequence[Span], predicted: str, form: Callable[[str], str] = lambda text: text) -> bool:
    """Whether ``predicted`` is ``text`` but for anything at all in each of ``spans``, both in the same ``form``."""
    first, *rest = form(holed(text, spans)).split(HOLE)
    said = form(predicted)
    if not rest:
        return said == first
    if not said.startswith(first) or len(said) < len(first) + len(rest[-1]) or not said.endswith(rest[-1]):
        return False
    at, limit = len(first), len(said) - len(rest[-1])
    for piece in rest[:-1]:
        found = said.find(piece, at, limit)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def word_overlap(text: str, spans: Sequence[Span], predicted: str) -> float:
    """F1 of ``predicted`` over the words of ``text`` that no span touches, in any order (Rajpurkar et al. 2016, arXiv
    1606.05250); as many words more as the spans hold are free. From 0 to 1."""
    words = list(re.finditer(r"\S+", text))
    known = Counter(word[0] for word in words if not any(a < word.end() and b > word.start() for a, b in spans))
    said = Counter(predicted.split())
    free = len(words) - known.total()
    common = (known & said).total()
    wrong = known.total() - common + max(0, said.total() - common - free)
    return 2 * common / (2 * common + wrong) if common or wrong else 1.0
