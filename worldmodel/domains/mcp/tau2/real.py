"""A tau2 world: one process in a box that answers calls, and a fresh one that gives tau2's verdict on them.

Owns: the life of an episode's process, the grammar with the task's own tools, what a verdict is asked about.
Refuses: tools and evaluators (``inside``, which are tau2's), isolation (sandbox).

A call that kills the process or outlasts its deadline is the call's doing: the policy is told, a new process repeats
all earlier calls, and the call is no part of what is judged. As in tau2, an episode ends at the tenth error of a tool,
and earns nothing where the agent did not end it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.mcp.client import in_thread
from worldmodel.domains.mcp.grammar import FINAL, MAX_ANSWER, read
from worldmodel.domains.mcp.tau2 import KEY, prompt
from worldmodel.domains.mcp.tau2.install import COMMAND, NAME, machine, missing
from worldmodel.domains.mcp.tau2.tasks import VERDICT
from worldmodel.installed import folder
from worldmodel.sandbox import Machine, SandboxError, Service
from worldmodel.types import refusal

T = TypeVar("T")
MAX_ERRORS = 10
START_SECONDS, JUDGE_SECONDS = 60.0, 100.0  # a busy machine needs some


def parse(text: str, tools: Sequence[str]) -> Action:
    """Never raises. What a tool's arguments must be is the tool's affair; the text is what JSON and tau2 can carry."""
    found = read(text)
    if isinstance(found, str):
        return Action(text, error=found)
    name, arguments = found.get("name"), found.get("arguments", {})
    if not isinstance(name, str) or name not in (*tools, FINAL, VERDICT):
        return Action(text, error=f"{ascii(name[:40]) if isinstance(name, str) else 'that'} is no tool")
    if not isinstance(arguments, dict):
        return Action(text, error=f"{name}: arguments must be an object")
    try:
        json.dumps(arguments, allow_nan=False)
    except ValueError:
        return Action(text, error=f"{name}: a number is not finite")
    if name == FINAL:
        said = arguments.get("text")
        if set(arguments) != {"text"} or not isinstance(said, str) or not 0 < len(said.strip()) <= MAX_ANSWER:
            return Action(text, error=f"{FINAL}: arguments.text must have 1 to {MAX_ANSWER} characters")
    return Action(text, name=name, arguments=arguments, final=name == FINAL, probe=name == VERDICT,
                  executes=name == VERDICT)  # fmt: skip


class Tau2Environment:
    """Implements ``Environment``: single use, not restorable."""

    world_id = "real:mcp"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._task = task
        self._state: Mapping[str, Any] = task.world.state
        self._writes = {tool["name"]: tool["writes"] for tool in self._state["tools"]}
        self._machine: Machine | None = None
        self._service: Service | None = None
        self._calls: list[dict[str, Any]] = []
        self._answer: str | None = None
        self._errors = 0
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread
        self._anchor = _digest(task.id)

    async def start(self) -> Prompt:
        """Raises SandboxError where the machine or the process cannot be had."""
        await self._call(self._begin)
        return prompt(self._task)

    def _begin(self) -> None:
        if lacking := missing():
            raise SandboxError(f"mcp: missing {lacking}")
        self._machine = machine(folder(NAME))
        self._machine.start()
        self._service = self._started()

    def _started(self) -> Service:
        """A process at the beginning of the task."""
        if self._machine is None:
            raise SandboxError("mcp: the episode has not begun")
        service = self._machine.serve(COMMAND)
        ask(service, START_SECONDS, op="begin", **self._which())
        return service

    def _which(self) -> dict[str, str]:
        return {"domain": self._state[KEY], "task": self._state["task"]}

    def parse(self, text: str) -> Action:
        return parse(text, tuple(self._writes))

    async def step(self, action: Action) -> Observation:
        anchor = self._anchor
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            self._answer = action.arguments["text"]
            return Observation("", done=True, anchor=anchor)
        try:
            text, error = await self._call(partial(self._act, action))
        except SandboxError as fault:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(fault))
        self._errors += error
        if self._writes[action.name] and not error:
            self._anchor = _digest(f"{anchor}\n{action.name} {json.dumps(action.arguments, sort_keys=True)}")
        return Observation(text, done=self._errors >= MAX_ERRORS, anchor=anchor)

    def _act(self, action: Action) -> tuple[str, bool]:
        """What a tool says, and whether that is an error."""
        if self._service is None:
            raise SandboxError("mcp: the episode has not begun")
        call = {"name": action.name, "arguments": dict(action.arguments)}
        try:
            reply = ask(self._service, op="call", name=action.name, arguments=call["arguments"])
        except SandboxError:
            self._service.kill()
            self._service = self._started()
            for earlier in self._calls:
                ask(self._service, op="call", name=earlier["name"], arguments=earlier["arguments"])
            return "Error: the tool gave no answer; nothing was changed", True
        self._calls.append({**call, **reply})
        return str(reply["content"]), bool(reply["error"])

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """The episode's process is ended, and a fresh one that cannot write judges the calls. Raises SandboxError."""
        verdicts = await self._call(self._judged)
        return tuple(self._result(check, verdicts) for check in checks)

    def _judged(self) -> Mapping[str, str]:
        if self._machine is None:
            raise SandboxError("mcp: the episode has not begun")
        self._machine.freeze()
        service = self._machine.serve(COMMAND, writable=False)
        reply = ask(service, JUDGE_SECONDS, op="judge", **self._which(), calls=self._calls, answer=self._answer)
        self._machine.freeze()
        verdicts: Mapping[str, str] = reply["verdicts"]
        return verdicts

    def _result(self, check: Check, verdicts: Mapping[str, str]) -> CheckResult:
        asked = [self.parse(probe) for probe in check.probes]
        parts = [str(action.arguments.get("part")) if action.probe else "" for action in asked]
        replies = tuple(verdicts.get(part, "") for part in parts)
        if not all(replies):
            return CheckResult(check.name, None, replies, "a probe asks for no part of the reward")
        return CheckResult(check.name, bool(replies) and all(holds(check.predicate, text) for text in replies), replies)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Ends whatever still runs, at once; safe to call at any time and twice."""
        if self._machine is not None:
            self._machine.interrupt()
            await self._call(self._machine.close)

    async def _call(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return work()

        return await in_thread(locked)


def ask(service: Service, seconds: float | None = None, **request: Any) -> dict[str, Any]:
    """Raises SandboxError where there is no answer, or it is that the program failed."""
    try:
        reply: dict[str, Any] = json.loads(service.ask(json.dumps(request).encode(), seconds))
    except ValueError as error:
        raise SandboxError(f"mcp: the reply was not understood: {str(error)[:200]}") from error
    if "fault" in reply:
        raise SandboxError(f"mcp: {reply['fault']}")
    return reply


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:32]
