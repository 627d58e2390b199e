"""tau2's airline, retail and telecom worlds, by tau2's own package.

Owns: which of its parts are used, and how. Refuses: rules and verdicts of its own (tools, states and evaluators are
tau2's). Nobody plays the customer: telecom runs in tau2's solo mode, in which the agent has the tools of the customer's
phone too; the other two domains have none for the customer, and no solo mode.

The packages are there in the box only, so they are imported where they are first needed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

SOLO = ("telecom",)
PARTS = {
    "message": "data_model.message",
    "task": "data_model.tasks",
    "tool": "environment.tool",
    "toolkit": "environment.toolkit",
    "action": "evaluator.evaluator_action",
    "communicate": "evaluator.evaluator_communicate",
    "state": "evaluator.evaluator_env",
}


@cache
def tau2() -> types.SimpleNamespace:
    """The parts of tau2 by the names above. pandas and deepdiff, which it imports for reports, are made up: nothing
    here calls them."""
    for name, attribute in (("pandas", "DataFrame"), ("deepdiff", "DeepDiff")):
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], attribute, object)
    import_module("loguru").logger.remove()
    return types.SimpleNamespace(**{key: import_module(f"tau2.{name}") for key, name in PARTS.items()})


class _Counted:
    """In place of ``uuid`` where telecom makes the id of a new bill, so that equal calls lead to equal states."""

    def __init__(self) -> None:
        self.made = 0

    def uuid4(self) -> types.SimpleNamespace:
        self.made += 1
        return types.SimpleNamespace(hex=f"{self.made:032d}"[::-1])


def environment(domain: str, solo_mode: bool = False) -> Any:
    """A fresh world of ``domain``."""
    module = import_module(f"tau2.domains.{domain}.environment")
    if domain == "telecom":
        vars(import_module("tau2.domains.telecom.tools"))["uuid"] = _Counted()
    return module.get_environment(solo_mode=solo_mode)


def described(name: str, schema: Mapping[str, Any], writes: bool) -> dict[str, Any]:
    """A tool as the catalogue has it, from its OpenAI schema."""
    return {"name": name, "help": schema["description"], "parameters": schema["parameters"], "writes": writes}


def describe(domain: str) -> dict[str, Any]:
    write = tau2().toolkit.ToolType.WRITE
    found = environment(domain, domain in SOLO)
    kits = [found.tools] + ([found.user_tools] if domain in SOLO else [])
    tools = [
        described(name, tool.openai_schema["function"], kit.tool_type(name) == write)
        for kit in kits
        for name, tool in kit.get_tools().items()
    ]
    tasks = import_module(f"tau2.domains.{domain}.environment").get_tasks("base")
    return {"policy": found.get_policy(), "tools": tools, "tasks": [task.model_dump(mode="json") for task in tasks]}


class World:
    """An episode's world, at the beginning of ``task``."""

    def __init__(self, domain: str, task: Mapping[str, Any]) -> None:
        start = tau2().task.Task.model_validate(task).initial_state
        self._made = environment(domain, domain in SOLO)
        self._made.set_state(
            start.initialization_data if start else None,
            start.initialization_actions if start else None,
            (start.message_history if start else None) or [],
        )

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._made.get_response(_call(0, name, arguments))
        return {"content": reply.content, "error": reply.error}


def _call(number: int, name: str, arguments: Mapping[str, Any]) -> Any:
    return tau2().message.ToolCall(id=str(number), name=name, arguments=arguments, requestor="assistant")


def judge(
    domain: str, task: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], answer: str | None
) -> dict[str, str]:
    """tau2's verdict on each part that the task's reward rests on."""
    known, solo = tau2().task.Task.model_validate(task), domain in SOLO
    parts = [part.value for part in known.evaluation_criteria.reward_basis]
    if answer is None:
        return dict.fromkeys(parts, "not met: the agent did not end the task")
    said = _messages(known, calls, answer)
    state = tau2().state.EnvironmentEvaluator.calculate_reward(
        lambda solo_mode=False: environment(domain, solo_mode), known, said, solo_mode=solo
    )
    told = tau2().communicate.CommunicateEvaluator.calculate_reward(known, said)
    done = tau2().action.ActionEvaluator.calculate_reward(known, said)
    same = state.db_check is not None and state.db_check.db_match
    lacking = {
        "DB": [] if same else ["the data base is in another state"],
        "ENV_ASSERTION": [check.env_assertion.func_name for check in state.env_assertions or [] if not check.met],
        "COMMUNICATE": [check.info for check in told.communicate_checks or [] if not check.met],
        "ACTION": [check.action.name for check in done.action_checks or [] if not check.action_match],
    }
    return {part: f"not met: {', '.join(lacking[part])}" if lacking[part] else "met" for part in parts}


def _messages(task: Any, calls: Sequence[Mapping[str, Any]], answer: str) -> list[Any]:
    """The episode as tau2 records one."""
    message = tau2().message
    said = list((task.initial_state.message_history if task.initial_state else None) or [])
    for number, call in enumerate(calls):
        made = _call(number, call["name"], call["arguments"])
        reply = message.ToolMessage(id=str(number), role="tool", content=call["content"], error=call["error"])
        said += [message.AssistantMessage(role="assistant", tool_calls=[made]), reply]
    return [*said, message.AssistantMessage(role="assistant", content=answer)]
