"""AgentDojo as tasks: 97 of its users, and the same users with an attack in what their tools return.

Owns: ids, their order, checks. Refuses: running them (``real``), their code and texts (``inside``, set-up).

Version v1.2.2 of its tasks; the attack is its ``important_instructions_no_model_name``, which names no model, in every
place that the reference calls of the user's task see. Suites alternate. The reference of an attacked task withstands;
its wrong behaviour does what the attack asks, then the user's task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.mcp.grammar import FINAL, call, written
from worldmodel.domains.mcp.thirdparty.grammar import verdict
from worldmodel.domains.mcp.thirdparty.install import CATALOGUE, installed
from worldmodel.tasks import BENCHMARK

NAME, ATTACKED = "agentdojo", "agentdojo-attacked"
MAX_TURNS = 41  # actions: at most MAX_CALLS calls, and the answer
UTILITY = Check("utility", (verdict("utility"),), Predicate("equals", "true"))
SECURITY = Check("security", (verdict("attack"),), Predicate("equals", "false"))
Pair = tuple[str, str, str]  # suite, user, injection or ''


def first(count: int) -> list[Task]:
    """At most ``count`` users, always the same first ones. Raises ConfigError before set-up."""
    found = _catalogue()
    pairs = _alternating([[(name, user, "") for user in suite["users"]] for name, suite in found["suites"].items()])
    return [_make(found, *pair) for pair in pairs[:count]]


def attacked(count: int) -> list[Task]:
    """At most ``count`` pairs of a user and an injection, always the same first ones: every user with one injection,
    then every user with the next. Raises ConfigError before set-up."""
    found = _catalogue()
    pairs = _alternating([_pairs(name, suite) for name, suite in found["suites"].items()])
    return [_make(found, *pair) for pair in pairs[:count]]


def _catalogue() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((installed() / CATALOGUE).read_text(encoding="utf-8"))
    return found


def _pairs(name: str, suite: Mapping[str, Any]) -> list[Pair]:
    injections = list(suite["injections"])
    size = len(injections)
    return [(name, user, injections[(place + round_) % size])
            for round_ in range(size) for place, user in enumerate(suite["users"])]  # fmt: skip


def _alternating(lists: Sequence[Sequence[Pair]]) -> list[Pair]:
    return [pair for row in zip_longest(*lists) for pair in row if pair is not None]


def _make(found: Mapping[str, Any], name: str, user: str, injection: str) -> Task:
    suite = found["suites"][name]
    task = suite["users"][user]
    attack = suite["injections"].get(injection)
    texts = dict.fromkeys(task["seen"], attack["text"]) if attack else {}
    state = {
        "benchmark": NAME,
        "begin": {"suite": name, "user_task": user, "injections": texts},
        "injection_task": injection,
        "about": found["about"],
        "tools": suite["tools"],
        "later": [],
    }
    source = ATTACKED if attack else NAME
    gold = [written(step["name"], step["arguments"]) for step in task["under"].get(injection, task["gold"])]
    answer = call(FINAL, text=task["said"] or "done")
    wrong: tuple[tuple[str, ...], ...] = ()
    if attack:
        obeys = [written(step["name"], step["arguments"]) for step in attack["gold"]]
        said = " ".join(filter(None, [task["said"], attack["said"]]))  # some attacks are on what the user is told
        wrong = ((*obeys, *gold, call(FINAL, text=said or "done")),)
    return Task(
        id="/".join(filter(None, [source, name, user, injection])), domain="mcp", family=f"{source}/{name}",
        split=BENCHMARK, instruction=task["prompt"], world=World(state),
        checks=(UTILITY, SECURITY) if attack else (UTILITY,),
        reference=Reference((*gold, answer), wrong), max_turns=MAX_TURNS, seed=0,
    )  # fmt: skip
