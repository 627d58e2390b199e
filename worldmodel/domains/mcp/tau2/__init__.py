"""tau2-bench for evaluation, as sources of the tool domain: customer service by tool calls under a written policy.

Owns: names, what of an episode's world a policy reads. Refuses: the packages (``install`` gets them, ``inside`` runs
them in a box), acting (``real``), tasks (``tasks``), training data and simulators: a world is a data base of megabytes.

``state`` of a task's world: {"tau2": domain, "task": tau2's id, "policy": text, "tools": [{"name", "text", "writes"}]}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.types import Message, Prompt, Task

DOMAINS = ("airline", "retail", "telecom", "banking")
KEY = "tau2"  # in a world's state: whose world it is
HEAD = """\
You work for the company whose policy is below, through its tools. Reply with one JSON object, one call a turn: \
{"name": "...", "arguments": {...}}
Nobody can be asked and nothing said in between: what would be asked is answered in the request, consent included.
Tools ("?" marks what may be left out):"""
TAIL = "answer(text: string): ends the task; the text is all that the customer is told."


def source(domain: str) -> str:
    """The name of the source, with which the ids of its tasks begin."""
    return f"tau2-{domain}"


def prompt(task: Task) -> Prompt:
    """What the policy reads first: tools, the company's policy, and the request."""
    state: Mapping[str, Any] = task.world.state
    tools = "\n".join(tool["text"] for tool in state["tools"])
    system = "\n".join([HEAD, tools, TAIL, "", "<policy>", state["policy"].strip(), "</policy>"])
    return Prompt((Message("system", system), Message("user", task.instruction)))
