"""The tasks of tau2-bench in our form.

Owns: ids, instructions, checks, known solutions. Refuses: what the tasks say (``install.catalogue``), running them.

Every part of a task's reward that needs no judge is one check; tau2's assertions in natural language are no part of the
reward of any of these tasks. A check's probe asks for tau2's own verdict: see ``real``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.mcp.grammar import FINAL, call, written
from worldmodel.domains.mcp.tau2 import KEY, source
from worldmodel.domains.mcp.tau2.install import catalogue
from worldmodel.domains.mcp.tau2.schema import shown
from worldmodel.tasks import BENCHMARK

VERDICT, MET = "verdict", "met"  # the probe; what it prints where a part of the reward is earned
MAX_TURNS = 100  # tau2's 200 steps are a call and its reply each
NOTHING_SAID = "done"


def first(domain: str, count: int) -> list[Task]:
    """At most ``count`` tasks, in tau2's order. Raises ConfigError where it is not installed."""
    found = catalogue(domain)
    world = {
        KEY: domain,
        "policy": found["policy"],
        "tools": [
            {"name": tool["name"], "text": shown(tool["name"], tool["help"], tool["parameters"]),
             "writes": tool["writes"]}
            for tool in found["tools"]
        ],
    }  # fmt: skip
    return [make(domain, world, task, number) for number, task in enumerate(found["tasks"][:count])]


def make(domain: str, world: Mapping[str, Any], task: Mapping[str, Any], number: int) -> Task:
    criteria = task["evaluation_criteria"]
    return Task(
        id=f"{source(domain)}/{task['id']}", domain="mcp", family=source(domain), split=BENCHMARK,
        instruction=instruction(task), world=World({**world, "task": task["id"]}),
        checks=tuple(Check(part, (call(VERDICT, part=part),), Predicate("equals", MET))
                     for part in criteria["reward_basis"]),
        reference=Reference(gold(criteria)), max_turns=MAX_TURNS, seed=number,
    )  # fmt: skip


def gold(criteria: Mapping[str, Any]) -> tuple[str, ...]:
    """The actions that tau2 expects, whoever is to take them, then an answer of all that has to be said."""
    actions = [written(action["name"], action["arguments"]) for action in criteria["actions"] or ()]
    return (*actions, call(FINAL, text="; ".join(criteria["communicate_info"] or ()) or NOTHING_SAID))


def instruction(task: Mapping[str, Any]) -> str:
    """The ticket where there is one, else all that the customer's simulator would be told."""
    if ticket := task.get("ticket"):
        return f"Ticket:\n{ticket.strip()}"
    scenario = task["user_scenario"]["instructions"]
    if isinstance(scenario, str):
        return f"{REQUEST}\n{scenario.strip()}"
    parts = [f"{title}: {scenario[key].strip()}" for key, title in PARTS.items() if (scenario.get(key) or "").strip()]
    return "\n".join([REQUEST, *parts])


REQUEST = """\
What follows was written for the customer, who is "you" in it. Do what the customer would be granted in a whole \
conversation, as far as the policy allows it; "the agent" in it is you."""
PARTS = {
    "reason_for_call": "Reason for the call",
    "known_info": "What the customer knows",
    "unknown_info": "What the customer does not know",
    "task_instructions": "How the customer goes on",
}
