"""The banking_knowledge world, by the package of inspect-evals.

Owns: stand-ins for the framework that its tools are written for, and which of its parts are used. Refuses: rules and
verdicts of its own. Nobody plays the customer: the agent has the customer's tools too, as in telecom's solo mode.

The packages are there in the box only, so they are imported where they are first needed.
"""

from __future__ import annotations

import copy
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

FRAMEWORK = ("inspect_ai", *(f"inspect_ai.{name}" for name in "agent model scorer solver tool util".split()))
HOLLOW = (
    "inspect_evals",
    "inspect_evals.tau2",
    "inspect_evals.tau2.banking",
)  # each __init__ would import all the rest
PREFIX = "banking_"
SEARCH = "grep"
READS = ("get_", "list_", SEARCH)  # how the names of tools begin that change nothing


class ToolError(Exception):
    """What a tool raises to tell the agent."""


class _Anything:
    """A class of the framework that is only named."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return import_module("pydantic_core").core_schema.any_schema()


def _decorator(*given: Any, **_: Any) -> Any:
    return given[0] if given and callable(given[0]) else lambda function: function


class _Framework(types.ModuleType):
    """A module of inspect_ai: what it was given, and for any other name a class or a decorator that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made: Any = type(name, (_Anything,), {}) if name[0].isupper() else _decorator
        setattr(self, name, made)
        return made


def _store_model() -> Any:
    """What inspect_ai keeps between calls; here a plain object."""
    config = {"arbitrary_types_allowed": True}
    return import_module("pydantic").create_model("StoreModel", __config__=config, instance=(Any, None))


@cache
def bank() -> types.SimpleNamespace:
    """The parts that are used, on the stand-ins."""
    for name in FRAMEWORK:
        sys.modules[name] = _Framework(name)
        vars(sys.modules[name]).update(__path__=[], StoreModel=_store_model(), ToolError=ToolError)
    root = next(folder for folder in sys.path if Path(folder, HOLLOW[0]).is_dir())
    for name in HOLLOW:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [f"{root}/{name.replace('.', '/')}"]
    names = "agents environment scorer tools user_tools utils BankingAgentTools BankingUserTools".split()
    found = {name: import_module(f"{HOLLOW[2]}.{name}") for name in names}
    common, task = import_module(f"{HOLLOW[1]}.common.scorer"), import_module(f"{HOLLOW[1]}.data_model.tasks").Task
    return types.SimpleNamespace(**found, unused=common.find_unused_actions, task=task)


def _named(makers: Sequence[Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    return {make.__name__.removeprefix(PREFIX): make for make in makers}


def agent_tools() -> dict[str, Callable[[], Any]]:
    return _named([*bank().tools.all_banking_agent_tools, bank().tools.banking_grep])


def customer_tools() -> dict[str, Callable[[], Any]]:
    return _named(bank().user_tools.all_banking_user_tools)


def describe(domain: str) -> dict[str, Any]:
    customer = import_module("customer")
    found = []
    for name, make in {**agent_tools(), **customer_tools()}.items():
        function = make()
        function.__name__ = name
        schema = customer.tau2().tool.as_tool(function).openai_schema["function"]
        found.append(customer.described(name, schema, not name.startswith(READS)))
    with open(bank().utils.BANKING_TASKS_FILE, encoding="utf-8") as stream:
        tasks = [bank().task.model_validate(task).model_dump(mode="json") for task in json.load(stream)]
    return {"policy": bank().agents._get_domain_policy("grep"), "tools": found, "tasks": tasks}


class World:
    """An episode's world, at the beginning of ``task``."""

    def __init__(self, domain: str, task: Mapping[str, Any]) -> None:
        self.agent = bank().BankingAgentTools.BankingAgentTools()
        self._customer = bank().BankingUserTools.BankingUserTools()
        self.agent.initialize()
        self._customer.db, self._customer.initialized = self.agent.db, True
        # a copy: the data base takes the task's own rows in and changes them, and a verdict begins from them once more
        start = bank().task.model_validate(copy.deepcopy(task)).initial_state
        bank().environment.apply_initial_state(self.agent, self._customer, start)
        self._agents = frozenset(agent_tools())

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if name == SEARCH:
                return {"content": bank().tools._get_knowledge_base().grep(**arguments), "error": False}
            kit = self.agent if name in self._agents else self._customer
            return {"content": str(getattr(kit, name)(**arguments)), "error": False}
        except Exception as error:  # as tau2 does: whatever a tool raises is told
            return {"content": f"Error: {error}", "error": True}


def judge(
    domain: str, task: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], answer: str | None
) -> dict[str, str]:
    """The benchmark's verdict on each part that the task's reward rests on."""
    known = bank().task.model_validate(task)
    criteria = known.evaluation_criteria
    parts = [part.value for part in criteria.reward_basis]
    if answer is None:
        return dict.fromkeys(parts, "not met: the agent did not end the task")
    lacking: dict[str, list[str]] = {"DB": [], "ACTION": []}
    if "DB" in parts:
        reached = World(domain, task)
        for call in calls:
            if call["name"] != SEARCH:  # which may take long, and changes nothing
                reached.call(call["name"], call["arguments"])
        wanted = bank().scorer._build_expected_db(criteria.actions or [], known.initial_state)
        same = reached.agent.db.get_hash() == wanted.get_hash()
        lacking["DB"] = [] if same else ["the data base is in another state"]
    if "ACTION" in parts:
        sides = (agent_tools(), customer_tools())
        said = [_said([call for call in calls if call["name"] in side]) for side in sides]
        lacking["ACTION"] = [action.name for action in bank().unused(*said, known)]
    return {part: f"not met: {', '.join(lacking[part])}" if lacking[part] else "met" for part in parts}


def _said(calls: Sequence[Mapping[str, Any]]) -> types.SimpleNamespace:
    """The calls as messages of one side."""
    message = sys.modules["inspect_ai.model"].ChatMessageAssistant()
    message.tool_calls = [types.SimpleNamespace(function=call["name"], arguments=call["arguments"]) for call in calls]
    return types.SimpleNamespace(messages=[message])
