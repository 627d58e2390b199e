"""The banking_knowledge world, by the package of inspect-evals.

Owns: stand-ins for the framework that its tools are written for, and which of its parts are used. Refuses: rules and
verdicts of its own. Nobody plays the customer: the agent has the customer's tools too, as in telecom's solo mode.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema


class StoreModel(BaseModel):
    """What inspect_ai keeps between calls; here a plain object."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    instance: object = None


class ToolError(Exception):
    """What a tool raises to tell the agent."""


def _decorator(*given: Any, **_: Any) -> Any:
    return given[0] if given and callable(given[0]) else lambda function: function


class _Anything:
    """A class of the framework that is only named."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.any_schema()


class _Framework(types.ModuleType):
    """A module of inspect_ai: the names that matter, and for any other a class or a decorator that does nothing."""

    StoreModel, ToolError = StoreModel, ToolError

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made: Any = type(name, (_Anything,), {}) if name[0].isupper() else _decorator
        setattr(self, name, made)
        return made


for _name in ("", ".agent", ".model", ".scorer", ".solver", ".tool", ".util", ".dataset"):
    sys.modules[f"inspect_ai{_name}"] = _Framework(f"inspect_ai{_name}")
_PYTHON = next(folder for folder in sys.path if Path(folder, "inspect_evals").is_dir())
for _name in (
    "inspect_evals",
    "inspect_evals.tau2",
    "inspect_evals.tau2.banking",
):  # their __init__ import all the rest
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__path__ = [f"{_PYTHON}/{_name.replace('.', '/')}"]

from inspect_evals.tau2.banking import agents, environment, scorer, tools, user_tools  # noqa: E402
from inspect_evals.tau2.banking.BankingAgentTools import BankingAgentTools  # noqa: E402
from inspect_evals.tau2.banking.BankingUserTools import BankingUserTools  # noqa: E402
from inspect_evals.tau2.banking.utils import BANKING_TASKS_FILE  # noqa: E402
from inspect_evals.tau2.common.scorer import find_unused_actions  # noqa: E402
from inspect_evals.tau2.data_model.tasks import Task  # noqa: E402

PREFIX = "banking_"
READS = ("get_", "list_", "grep")  # how the names of tools begin that change nothing


def _offered(makers: Sequence[Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    return {make.__name__.removeprefix(PREFIX): make for make in makers}


AGENT = _offered([*tools.all_banking_agent_tools, tools.banking_grep])
CUSTOMER = _offered(user_tools.all_banking_user_tools)


def describe(domain: str) -> dict[str, Any]:
    customer, as_tool = importlib.import_module("customer"), importlib.import_module("tau2.environment.tool").as_tool
    found = []
    for name, make in {**AGENT, **CUSTOMER}.items():
        function = make()
        function.__name__ = name
        schema = as_tool(function).openai_schema["function"]
        found.append(customer.described(name, schema, not name.startswith(READS)))
    with open(BANKING_TASKS_FILE, encoding="utf-8") as stream:
        tasks = [Task.model_validate(task).model_dump(mode="json") for task in json.load(stream)]
    return {"policy": agents._get_domain_policy("grep"), "tools": found, "tasks": tasks}


class World:
    """An episode's world, at the beginning of ``task``."""

    def __init__(self, domain: str, task: Mapping[str, Any]) -> None:
        self.agent, self.customer = BankingAgentTools(), BankingUserTools()
        self.agent.initialize()
        self.customer.db, self.customer.initialized = self.agent.db, True
        environment.apply_initial_state(self.agent, self.customer, Task.model_validate(task).initial_state)

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if name == "grep":
                return {"content": tools._get_knowledge_base().grep(**arguments), "error": False}
            kit = self.agent if name in AGENT else self.customer
            return {"content": str(getattr(kit, name)(**arguments)), "error": False}
        except Exception as error:  # as tau2 does: whatever a tool raises is told
            return {"content": f"Error: {error}", "error": True}


def judge(
    domain: str, task: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], answer: str | None
) -> dict[str, str]:
    """The benchmark's verdict on each part that the task's reward rests on."""
    known = Task.model_validate(task)
    criteria = known.evaluation_criteria
    parts = [part.value for part in criteria.reward_basis]
    if answer is None:
        return dict.fromkeys(parts, "not met: the agent did not end the task")
    lacking: dict[str, list[str]] = {"DB": [], "ACTION": []}
    if "DB" in parts:
        reached = World(domain, task)
        for call in calls:
            reached.call(call["name"], call["arguments"])
        wanted = scorer._build_expected_db(criteria.actions or [], known.initial_state)
        lacking["DB"] = (
            [] if reached.agent.db.get_hash() == wanted.get_hash() else ["the data base is in another state"]
        )
    if "ACTION" in parts:
        agent, customer = (_said([call for call in calls if call["name"] in side]) for side in (AGENT, CUSTOMER))
        lacking["ACTION"] = [action.name for action in find_unused_actions(agent, customer, known)]
    return {part: f"not met: {', '.join(lacking[part])}" if lacking[part] else "met" for part in parts}


def _said(calls: Sequence[Mapping[str, Any]]) -> types.SimpleNamespace:
    """The calls as messages of one side."""
    message = sys.modules["inspect_ai.model"].ChatMessageAssistant()
    message.tool_calls = [types.SimpleNamespace(function=call["name"], arguments=call["arguments"]) for call in calls]
    return types.SimpleNamespace(messages=[message])
