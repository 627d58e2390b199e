"""tau2's airline, retail and telecom worlds, by tau2's own package.

Owns: which of its parts are used, and how. Refuses: rules and verdicts of its own (tools, states and evaluators are
tau2's). Nobody plays the customer: telecom runs in tau2's solo mode, in which the agent has the tools of the customer's
phone too; the other two domains have none for the customer, and no solo mode.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any


def _stand_in(name: str, *attributes: str) -> None:
    """A package that tau2 imports for its reports and that nothing here calls."""
    module = types.ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, object)
    sys.modules[name] = module


_stand_in("pandas", "DataFrame")
_stand_in("deepdiff", "DeepDiff")

from loguru import logger  # noqa: E402

logger.remove()

from tau2.data_model.message import AssistantMessage, ToolCall, ToolMessage  # noqa: E402
from tau2.data_model.tasks import Task  # noqa: E402
from tau2.environment.toolkit import ToolType  # noqa: E402
from tau2.evaluator.evaluator_action import ActionEvaluator  # noqa: E402
from tau2.evaluator.evaluator_communicate import CommunicateEvaluator  # noqa: E402
from tau2.evaluator.evaluator_env import EnvironmentEvaluator  # noqa: E402

SOLO = ("telecom",)


class _Counted:
    """In place of ``uuid`` where telecom makes the id of a new bill, so that equal calls lead to equal states."""

    def __init__(self) -> None:
        self.made = 0

    def uuid4(self) -> types.SimpleNamespace:
        self.made += 1
        return types.SimpleNamespace(hex=f"{self.made:032d}"[::-1])


def environment(domain: str, solo_mode: bool = False) -> Any:
    """A fresh world of ``domain``."""
    module = importlib.import_module(f"tau2.domains.{domain}.environment")
    if domain == "telecom":
        vars(importlib.import_module("tau2.domains.telecom.tools"))["uuid"] = _Counted()
    return module.get_environment(solo_mode=solo_mode)


def describe(domain: str) -> dict[str, Any]:
    found = environment(domain, domain in SOLO)
    kits = [found.tools] + ([found.user_tools] if domain in SOLO else [])
    tools = []
    for kit in kits:
        for name, tool in kit.get_tools().items():
            schema = tool.openai_schema["function"]
            writes = kit.tool_type(name) == ToolType.WRITE
            tools.append(described(name, schema, writes))
    tasks = importlib.import_module(f"tau2.domains.{domain}.environment").get_tasks("base")
    return {"policy": found.get_policy(), "tools": tools, "tasks": [task.model_dump(mode="json") for task in tasks]}


def described(name: str, schema: Mapping[str, Any], writes: bool) -> dict[str, Any]:
    """A tool as the catalogue has it, from its OpenAI schema."""
    return {"name": name, "help": schema["description"], "parameters": schema["parameters"], "writes": writes}


class World:
    """An episode's world, at the beginning of ``task``."""

    def __init__(self, domain: str, task: Mapping[str, Any]) -> None:
        start = Task.model_validate(task).initial_state
        self._made = environment(domain, domain in SOLO)
        self._made.set_state(
            start.initialization_data if start else None,
            start.initialization_actions if start else None,
            (start.message_history if start else None) or [],
        )

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._made.get_response(ToolCall(id="0", name=name, arguments=arguments, requestor="assistant"))
        return {"content": reply.content, "error": reply.error}


def judge(
    domain: str, task: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], answer: str | None
) -> dict[str, str]:
    """tau2's verdict on each part that the task's reward rests on."""
    known, solo = Task.model_validate(task), domain in SOLO
    if answer is None:
        return {
            part.value: "not met: the agent did not end the task" for part in known.evaluation_criteria.reward_basis
        }
    said = _messages(known, calls, answer)
    state = EnvironmentEvaluator.calculate_reward(
        lambda solo_mode=False: environment(domain, solo_mode), known, said, solo_mode=solo
    )
    told = CommunicateEvaluator.calculate_reward(known, said)
    done = ActionEvaluator.calculate_reward(known, said)
    same = state.db_check is not None and state.db_check.db_match
    lacking = {
        "DB": [] if same else ["the data base is in another state"],
        "ENV_ASSERTION": [check.env_assertion.func_name for check in state.env_assertions or [] if not check.met],
        "COMMUNICATE": [check.info for check in told.communicate_checks or [] if not check.met],
        "ACTION": [check.action.name for check in done.action_checks or [] if not check.action_match],
    }
    return {part.value: _written(lacking[part.value]) for part in known.evaluation_criteria.reward_basis}


def _written(lacking: Sequence[str]) -> str:
    return f"not met: {', '.join(lacking)}" if lacking else "met"


def _messages(task: Any, calls: Sequence[Mapping[str, Any]], answer: str) -> list[Any]:
    """The episode as tau2 records one."""
    said = list((task.initial_state.message_history if task.initial_state else None) or [])
    for number, call in enumerate(calls):
        made = ToolCall(id=str(number), name=call["name"], arguments=call["arguments"], requestor="assistant")
        reply = ToolMessage(id=str(number), role="tool", content=call["content"], error=call["error"])
        said += [AssistantMessage(role="assistant", tool_calls=[made]), reply]
    return [*said, AssistantMessage(role="assistant", content=answer)]
