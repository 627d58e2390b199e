"""A class written for TRL's ``environment_factory`` as a real environment of ours.

Owns: its public methods as JSON tool calls, ``reset`` and ``get_reward``. Refuses: importing TRL; reward functions
that stand beside such a class (write a ``Reward`` for them).

As in TRL, the first reply that is no tool call ends the episode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import AgentworldError, ConfigError, WorldFault
from rollout.types import Action, Prompt, Task
from worldmodel.adapters.foreign import ForeignEnvironment, OneThread, Seen, Terms, json_object, one_line, opening

FORM = '{"name": ..., "arguments": {...}}'
RESERVED = ("reset", "get_reward")


class ToolClassSession:
    """``Session``. A fresh instance per episode; blocking methods run on a thread of the episode's own."""

    def __init__(self, make: Callable[[], Any], task: Task) -> None:
        self._task, self._make = task, make
        self._thread = OneThread("tool_class")
        self._instance: Any = None
        self._tools: dict[str, Callable[..., Any]] = {}

    async def reset(self) -> Prompt:
        self._instance = await self._thread.call(self._make)
        self._tools = tools_of(self._instance)
        row = {"prompt": [{"role": "user", "content": self._task.instruction}], **self._task.world.state}
        seen = await self._run(self._instance.reset, row)
        if seen is not None and not isinstance(seen, str):
            raise TypeError(f"reset returned {type(seen).__name__}, not a text")
        return opening(self._task.instruction, seen or "", system=manual(self._tools))

    def parse(self, text: str) -> Action:
        stripped = text.strip()
        if not stripped.startswith("{"):
            return Action(text, name="reply", arguments={"text": stripped}, final=True)
        call = json_object(stripped)
        if call is None or set(call) - {"name", "arguments"} or not isinstance(call.get("arguments", {}), dict):
            return Action(text, error=f"expected one JSON object {FORM}")
        name, arguments = call.get("name"), call.get("arguments", {})
        if not isinstance(name, str) or name not in self._tools:
            return Action(text, error=f"name: use {', '.join(self._tools)}")
        try:
            inspect.signature(self._tools[name]).bind(**arguments)
        except TypeError as error:
            return Action(text, error=f"{name}: {error}")
        return Action(text, name=name, arguments=arguments)

    async def step(self, action: Action) -> Seen:
        """A tool's exception is what TRL makes of it too, an error that the policy reads; one of the operating system
        (a lost connection) is a fault."""
        if action.final:
            return Seen("", done=True)
        try:
            return Seen(str(await self._run(self._tools[action.name], action.arguments)))
        except (OSError, AgentworldError):
            raise
        except Exception as error:  # TRL's own contract for tools
            return Seen(str({"error": one_line(error)}))

    async def reward(self) -> float | None:
        """None of ``get_reward`` means, as in TRL, that there is no verdict."""
        scores = getattr(self._instance, "get_reward", None)
        if scores is None:
            return None
        value = await self._run(scores, {})
        if value is None:
            raise WorldFault("real:trl-class: get_reward gave no reward")
        return float(value)

    async def _run(self, method: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(**arguments)
        return await self._thread.call(lambda: method(**arguments))

    async def close(self) -> None:
        await self._thread.finish(lambda: None)


def tools_of(instance: Any) -> dict[str, Callable[..., Any]]:
    """The public methods, without ``reset`` and ``get_reward``. Raises ConfigError where the class is not one for
    ``environment_factory``."""
    kind = type(instance).__name__
    if not callable(getattr(instance, "reset", None)):
        raise ConfigError(f"trl class: {kind} has no method reset")
    names = [name for name, _ in inspect.getmembers(type(instance), predicate=inspect.isfunction)]
    tools = {name: getattr(instance, name) for name in names if not name.startswith("_") and name not in RESERVED}
    if not tools:
        raise ConfigError(f"trl class: {kind} has no public method to use as a tool")
    for name, method in tools.items():
        if not inspect.getdoc(method):
            raise ConfigError(f"trl class: {kind}.{name} needs a docstring that says what it does")
    return tools


def manual(tools: Mapping[str, Callable[..., Any]]) -> str:
    """What the policy is told about the tools."""
    lines = [f"Reply with one tool call a turn: {FORM}. Any other reply ends the episode. The tools:"]
    for name, method in tools.items():
        lines.append(f"\n{name}{_signature(method)}\n{inspect.getdoc(method)}")
    return "\n".join(lines)


def _signature(method: Callable[..., Any]) -> inspect.Signature:
    """With types for names where they can be found."""
    try:
        return inspect.signature(method, eval_str=True)
    except NameError:
        return inspect.signature(method)


@dataclass(frozen=True, slots=True)
class ToolClassFactory:
    """Picklable ``EnvFactory``. ``make``: the class (or function) that TRL would be given. ``reset`` gets
    ``task.instruction`` as ``prompt`` and ``task.world.state`` as the other columns."""

    make: Callable[[], Any]
    terms: Terms = field(default_factory=Terms)

    def __call__(self, task: Task, seed: int) -> ForeignEnvironment:
        return ForeignEnvironment("trl-class", ToolClassSession(self.make, task), self.terms)
