"""What a family of android tasks is made of: a draft, and the checks that it needs.

Owns: ``Draft`` and checks over expected data. Refuses: single families. The expected data is computed here by changing
plain data, never by running the device: that gold reaches it is proved by a test.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollout.types import Check, Predicate
from worldmodel.domains.android import actions
from worldmodel.domains.android.dump import ANSWER, dump
from worldmodel.domains.android.planner import User
from worldmodel.domains.android.ui import quoted
from worldmodel.domains.android.vocabulary import State


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it has an identity. ``gold`` and ``wrong`` end in ``status``."""

    instruction: str
    state: State
    gold: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]


Family = Callable[[random.Random], Draft]
Steps = Callable[[User], User]


def draft(state: State, instruction: str, checks: tuple[Check, ...], gold: Steps, *wrong: Steps) -> Draft:
    """Each way of acting is taken on a device of its own."""
    taken = [steps(User(state)).done() for steps in (gold, *wrong)]
    return Draft(instruction, state, taken[0], tuple(taken[1:]), checks)


def expect(state: State, change: Callable[[State], object], *paths: str) -> tuple[Check, ...]:
    """The dumps of ``paths`` are those of ``state`` after ``change``; the order of lines is free."""
    wanted = copy.deepcopy(state)
    change(wanted)
    return tuple(Check(path, (_probe(path),), Predicate("same_lines", dump(wanted, path))) for path in paths)


def answers(text: str) -> tuple[Check, ...]:
    return (Check(ANSWER, (_probe(ANSWER),), Predicate("equals", quoted(text))),)


def _probe(path: str) -> str:
    return actions.written(actions.PROBE, what=path)


def fill(user: User, *form: tuple[str, str]) -> User:
    """Write into fields: (hint, text) each."""
    for hint, text in form:
        user.write(hint, text)
    return user


def named(records: list[dict[str, Any]], key: str, value: object) -> dict[str, Any]:
    """The first record with ``value`` under ``key``."""
    return next(record for record in records if record[key] == value)


def drop(records: list[dict[str, Any]], key: str, value: object) -> None:
    records.remove(named(records, key, value))
