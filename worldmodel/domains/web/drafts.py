"""What a family of web tasks is made of: a draft, and the checks that it needs.

Owns: ``Draft`` and checks over expected tables. Refuses: single families. The expected tables are computed by changing
plain data, never by running a site: that gold reaches them is proved by a test.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rollout.types import Check, Predicate
from worldmodel.domains.web import grammar
from worldmodel.domains.web.dump import MESSAGE, dump
from worldmodel.domains.web.visit import Visit
from worldmodel.domains.web.vocabulary import State


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it has an identity. ``gold`` and ``wrong`` end in a message to the user."""

    instruction: str
    state: State
    gold: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]


Family = Callable[[random.Random], Draft]
Steps = Callable[[Visit], Visit | tuple[str, ...]]


def draft(state: State, instruction: str, checks: tuple[Check, ...], gold: Steps, *wrong: Steps) -> Draft:
    """Each way of acting is a visit of its own; one that tells the user nothing ends in "done"."""
    taken = []
    for steps in (gold, *wrong):
        found = steps(Visit(state))
        taken.append(found.tell("done") if isinstance(found, Visit) else found)
    return Draft(instruction, state, taken[0], tuple(taken[1:]), checks)


def expect(state: State, change: Callable[[State], object], *paths: str) -> tuple[Check, ...]:
    """The dumps of ``paths`` are those of the tables after ``change``; the order of lines is free."""
    wanted = copy.deepcopy(state["tables"])
    change(wanted)
    return tuple(Check(path, (_probe(path),), Predicate("same_lines", dump(wanted, path))) for path in paths)


def answers(text: str) -> tuple[Check, ...]:
    return (Check(MESSAGE, (_probe(MESSAGE),), Predicate("equals", text)),)


def _probe(path: str) -> str:
    return grammar.call(grammar.PROBE, what=path)


def named(records: list[State], **wanted: object) -> State:
    """The first record with these values."""
    return next(record for record in records if all(record[key] == value for key, value in wanted.items()))


def told(state: Mapping[str, Any]) -> str:
    """How an instruction gives the visitor's account."""
    name, password = state["tables"]["users"][0]["name"], state["tables"]["users"][0]["password"]
    return f'Your user name is "{name}", your password "{password}".'
