"""What two answers have in common.

Owns: the normal form of answers, which a check compares, and F1 over items and over rows, which reports may show.
Refuses: guessing at meaning: no synonyms, no rounding, no spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.types import Action
from worldmodel.domains.search.grammar import FINAL, PROBE

NO_ANSWER = "(no answer)"
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_ROUND = re.compile(r"([+-]?\d+)\.0+")


@dataclass(frozen=True, slots=True)
class F1:
    """Shares in 0..1. Two empty sides agree wholly."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def normal(value: object) -> str:
    """One item: lower case, single blanks, no final full stop or surrounding quotes, plain digits."""
    text = " ".join(unicodedata.normalize("NFKC", str(value)).casefold().split())
    text = text.rstrip(".").strip("\"'` ").rstrip(".")
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    whole = _ROUND.fullmatch(text)
    return whole.group(1) if whole else text


def items(text: str) -> tuple[str, ...]:
    """The items of a free answer, in normal form, sorted, once each. Separators: line ends, semicolons, and commas
    that a blank follows (so that 67,000 stays one number)."""
    pieces = re.split(r"[;\n]|,\s", text)
    found = {normal(re.sub(r"^\s*[-*•]\s+", "", piece)) for piece in pieces}
    return tuple(sorted(found - {""}))


def row_text(row: Mapping[str, Any]) -> str:
    """A row as ``key=value; key=value``, keys sorted, both sides in normal form."""
    return "; ".join(sorted(f"{normal(key)}={normal(value)}" for key, value in row.items()))


def answered(arguments: Mapping[str, Any] | None) -> str:
    """The arguments of an ``answer`` call in the form that the probe prints: one item, or one row, a line."""
    if arguments is None:
        return NO_ANSWER
    if "rows" in arguments:
        return "\n".join(sorted({row_text(row) for row in arguments["rows"]}))
    return "\n".join(items(str(arguments["text"]))) or NO_ANSWER


def told(actions: Sequence[Action], probe: Action) -> str | None:
    """What ``answer_given`` prints after ``actions``."""
    if probe.name != PROBE:
        return None
    return answered(next((action.arguments for action in reversed(actions) if action.name == FINAL), None))


def item_f1(given: Iterable[object], wanted: Iterable[object]) -> F1:
    """Over items in normal form, each counted once."""
    return _overlap({normal(item) for item in given}, {normal(item) for item in wanted})


def row_f1(given: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> F1:
    """Over whole rows: one wrong cell loses the row."""
    return _overlap({row_text(row) for row in given}, {row_text(row) for row in wanted})


def _overlap(given: set[str], wanted: set[str]) -> F1:
    if not given and not wanted:
        return F1(1.0, 1.0)
    common = len(given & wanted)
    return F1(common / len(given) if given else 0.0, common / len(wanted) if wanted else 0.0)
