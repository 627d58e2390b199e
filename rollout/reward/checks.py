"""Rewards that rest on checks alone.

Owns: what each predicate means, and how check results become one number.
Refuses: running probes (the environment does) and guessing a missing verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rollout.errors import TaskError
from rollout.types import CheckResult, Predicate, Trajectory


def normal(text: str) -> str:
    """``text`` without trailing whitespace on each line and at its end."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def holds(predicate: Predicate, text: str) -> bool:
    """Whether ``text``, the reply to a probe, satisfies ``predicate``.

    ``equals`` and ``same_lines`` ignore trailing whitespace of lines and of the whole; the rest is verbatim.

    Raises:
        TaskError: an unknown kind, or a regex that does not compile.
    """
    value = predicate.value
    match predicate.kind:
        case "equals":
            return normal(text) == normal(value)
        case "same_lines":
            return sorted(normal(text).splitlines()) == sorted(normal(value).splitlines())
        case "contains":
            return value in text
        case "lacks":
            return value not in text
        case "regex":
            try:
                return re.search(value, text, re.MULTILINE) is not None
            except re.error as error:
                raise TaskError(f"predicate regex {value!r}: {error}") from error
        case other:
            raise TaskError(f"predicate kind {other!r}: use equals, same_lines, contains, lacks or regex")


def seen(predicate: Predicate, text: str) -> str:
    """What ``predicate`` reads of a reply: all of it where it asks for the whole text, else only whether it holds."""
    if predicate.kind == "equals":
        return normal(text)
    if predicate.kind == "same_lines":
        return "\n".join(sorted(normal(text).splitlines()))
    return str(holds(predicate, text))


@dataclass(frozen=True, slots=True)
class ChecksReward:
    """``all``: 1.0 if every check passed, else 0.0. ``fraction``: the share that passed.

    One check without a verdict, or no check at all, leaves the episode unscored (None).
    """

    mode: Literal["all", "fraction"] = "all"

    async def __call__(self, trajectory: Trajectory, results: Sequence[CheckResult]) -> float | None:
        passed = [result.passed for result in results]
        if not passed or None in passed:
            return None
        share = sum(map(bool, passed)) / len(passed)
        return share if self.mode == "fraction" else float(share == 1.0)
