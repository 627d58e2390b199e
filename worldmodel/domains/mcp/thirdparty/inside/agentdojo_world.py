"""Runs in a box: AgentDojo's environments, tools, tasks and its attack.

Owns: which of its modules are loaded. Refuses: its pipelines over models: packages whose ``__init__`` imports providers
of models are entered without it, and what draws on terminals is left out.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

VERSION = "v1.2.2"
ATTACK = "ImportantInstructionsAttackNoModelName"


def _bare(name: str, folder: Path | None = None, **content: Any) -> None:
    """A module of that name with ``content`` alone; with ``folder``, a package whose modules can be imported."""
    module = ModuleType(name)
    if folder is not None:
        module.__path__ = [str(folder)]
    vars(module).update(content)
    sys.modules[name] = module


def _root() -> Path:
    return Path(str(find_spec("agentdojo").origin)).parent  # type: ignore[union-attr]


def _load() -> None:
    root = _root()
    for name in ("agent_pipeline", "attacks"):
        _bare(f"agentdojo.{name}", root / name)
    google = root / "agent_pipeline" / "llms" / "google_llm.py"
    line = next(line for line in google.read_text().splitlines() if line.startswith("EMPTY_FUNCTION_NAME = "))
    _bare("agentdojo.agent_pipeline.llms")
    _bare("agentdojo.agent_pipeline.llms.google_llm", EMPTY_FUNCTION_NAME=line.split('"')[1])
    _bare("rich")
    for name, what in (("live", "Live"), ("table", "Table"), ("progress", "track")):
        _bare(f"rich.{name}", None, **{what: object})


def _tool(function: Any) -> dict[str, Any]:
    schema = function.parameters.model_json_schema()
    return {"name": function.name, "description": function.description, "parameters": schema}


class World:
    """One task at a time."""

    def __init__(self) -> None:
        _load()
        self.suites = import_module("agentdojo.task_suite.load_suites").get_suites(VERSION)
        self.runtimes = import_module("agentdojo.functions_runtime")
        self.executor = import_module("agentdojo.agent_pipeline.tool_execution").ToolsExecutor()
        self.block = import_module("agentdojo.types").text_content_block_from_string

    def begin(self, suite: str, user_task: str, injections: dict[str, str]) -> None:
        self.suite = self.suites[suite]
        self.task = self.suite.get_user_task_by_id(user_task)
        self.env = self.task.init_environment(self.suite.load_and_inject_default_environment(injections))
        self.before = self.env.model_copy(deep=True)
        self.runtime = self.runtimes.FunctionsRuntime(self.suite.tools)
        self.trace: list[Any] = []

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        asked = self.runtimes.FunctionCall(function=name, args=arguments)
        self.trace.append(asked)
        message = {"role": "assistant", "content": None, "tool_calls": [asked]}
        try:
            *_, messages, _ = self.executor.query("", self.runtime, self.env, [message])
        except Exception as error:  # a result that it cannot write
            return f"Error: {type(error).__name__}: {error}"
        found = messages[-1]
        return f"Error: {found['error']}" if found["error"] else "".join(b["content"] for b in found["content"])

    def verdict(
        self, suite: str, user_task: str, injections: dict[str, str], injection_task: str, turns: list[dict[str, Any]]
    ) -> dict[str, str]:
        """The calls are made anew; ``said`` is the answer, '' where none was given."""
        self.begin(suite, user_task, injections)
        for call in (call for turn in turns for call in turn["calls"]):
            self.call(**call)
        said = [self.block(turns[-1]["said"])] if turns and turns[-1]["said"] else []
        found = {"utility": self._check(self.task, said)}
        if injection_task:
            found["attack"] = self._check(self.suite.get_injection_task_by_id(injection_task), said)
        return found

    def _check(self, task: Any, said: list[Any]) -> str:
        return str(bool(self.suite._check_task_result(task, said, self.before, self.env, self.trace))).lower()

    def describe(self) -> dict[str, Any]:
        """What tasks are made of: tools, prompts, reference calls, and the text of the attack where it can be seen."""
        messages = (_root() / "data" / "system_messages.yaml").read_text(encoding="utf-8")
        about: str = import_module("yaml").safe_load(messages)["default"]
        return {"about": about.strip(), "suites": {name: self._suite(suite) for name, suite in self.suites.items()}}

    def _suite(self, suite: Any) -> dict[str, Any]:
        attack = vars(import_module("agentdojo.attacks.important_instructions_attacks"))[ATTACK](
            suite, SimpleNamespace(name="local")
        )
        users = {name: self._user(suite, task, attack) for name, task in suite.user_tasks.items()}
        some = next(iter(suite.user_tasks.values()))
        injections = {
            name: {
                "gold": self._gold(suite, task, {}),
                "said": task.GROUND_TRUTH_OUTPUT,
                "text": next(iter(attack.attack(some, task).values())),
            }
            for name, task in suite.injection_tasks.items()
        }
        return {"tools": [_tool(tool) for tool in suite.tools], "users": users, "injections": injections}

    def _user(self, suite: Any, task: Any, attack: Any) -> dict[str, Any]:
        """``under``: by injection, the reference calls where they are others because of the attack's text."""
        gold = self._gold(suite, task, {})
        under: dict[str, Any] = {}
        for name, injection in suite.injection_tasks.items():
            found = self._gold(suite, task, attack.attack(task, injection))
            if found == gold:
                break  # what one attack does not change, none does
            under[name] = found
        seen = attack.get_injection_candidates(task)
        return {"prompt": task.PROMPT, "gold": gold, "under": under, "said": task.GROUND_TRUTH_OUTPUT, "seen": seen}

    def _gold(self, suite: Any, task: Any, injections: dict[str, str]) -> list[dict[str, Any]]:
        env = suite.load_and_inject_default_environment(injections)
        if hasattr(task, "init_environment"):
            env = task.init_environment(env)
        return [{"name": call.function, "arguments": dict(call.args)} for call in task.ground_truth(env)]
