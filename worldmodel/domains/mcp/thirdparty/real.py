"""The real environment of a third-party benchmark: its process in a box, and its checker in a fresh one.

Owns: turns of the user, what a call returns, the record of calls, verdicts. Refuses: the programs (``inside``), actions
(``grammar``).

The process where a policy's calls are carried out reaches no verdict: its box is ended, and a fresh process carries the
recorded calls out anew, as BFCL's own evaluation does. A process that dies or hangs under a call is started again with
what was called before it, and the policy is told so.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rollout.errors import ConfigError
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.mcp.client import in_thread
from worldmodel.domains.mcp.grammar import FINAL
from worldmodel.domains.mcp.judge import judge
from worldmodel.domains.mcp.thirdparty import bfcl
from worldmodel.domains.mcp.thirdparty.grammar import lines, parse, prompt
from worldmodel.domains.mcp.thirdparty.install import START_SECONDS, ask, installed, machine, serve
from worldmodel.sandbox import Machine, SandboxError, Service
from worldmodel.types import refusal

T = TypeVar("T")
MAX_CALLS = 40  # in one turn of the user; the longest reference has 34


class BenchmarkEnvironment:
    """Implements ``Environment``: single use, not restorable."""

    world_id = "real:mcp"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._task = task
        self._state = task.world.state
        self._later = list(self._state["later"])
        # a tool that is withheld is not shown; called all the same, BFCL carries it out, and so do we
        self._tools = [*self._state["tools"], *(tool for turn in self._later for tool in turn["tools"])]
        self._ended: list[dict[str, Any]] = []  # turns of the user that were answered
        self._calls: list[dict[str, Any]] = []  # of the turn under way
        self._tried = 0  # actions in this turn, calls or none
        self._machine: Machine | None = None
        self._service: Service | None = None
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread

    async def start(self) -> Prompt:
        """Raises SandboxError where the packages, the box or the process cannot be had."""
        self._machine = machine(_place())
        await self._call(self._begin)
        return prompt(self._task)

    def _begin(self) -> None:
        self._running().start()
        self._live(())

    def _live(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """A process that has carried out ``calls``."""
        self._service = serve(self._running(), self._state["benchmark"])
        ask(self._service, "begin", self._state["begin"], START_SECONDS)
        for earlier in calls:
            ask(self._service, "call", earlier)

    def _running(self) -> Machine:
        if self._machine is None:
            raise SandboxError("mcp: the episode has not begun")
        return self._machine

    def parse(self, text: str) -> Action:
        return parse(text, self._tools, last=not self._later)

    async def step(self, action: Action) -> Observation:
        anchor = self._anchor()
        if action.name == FINAL and action.error is None:
            return self._answered(action.arguments["text"], anchor)
        if self._tried >= MAX_CALLS:
            return Observation("The turn has too many calls.", done=True, anchor=anchor)
        self._tried += 1
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        try:
            return Observation(await self._call(lambda: self._act(action)), anchor=anchor)
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))

    def _answered(self, text: str, anchor: str) -> Observation:
        self._ended.append({"calls": self._calls, "said": text})
        self._calls, self._tried = [], 0
        if not self._later:
            return Observation("", done=True, anchor=anchor)
        now = self._later.pop(0)
        more = ["There are more tools now:", *lines(now["tools"])] if now["tools"] else []
        return Observation("\n".join([*more, f"The user says: {now['says']}"]), anchor=anchor)

    def _act(self, action: Action) -> str:
        asked = {"name": action.name, "arguments": dict(action.arguments)}
        if self._service is None:
            raise SandboxError("mcp: the episode has not begun")
        before = [call for turn in self._ended for call in turn["calls"]] + self._calls
        try:
            text = str(ask(self._service, "call", asked))
        except SandboxError:
            self._service.kill()
            self._live(before)
            return "Error: the tool gave no answer"
        self._calls.append(asked)
        return text

    def _anchor(self) -> str:
        """Identity of what was called and answered so far."""
        return hashlib.sha256(json.dumps([self._ended, self._calls]).encode()).hexdigest()[:32]

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Every process of the episode is ended, then a fresh one that cannot write is asked. Raises SandboxError."""
        found: dict[str, str] = await self._call(self._judged)
        asked = {probe: self.parse(probe) for check in checks for probe in check.probes}
        replies = {probe: found.get(action.arguments.get("of", "")) for probe, action in asked.items() if action.probe}
        return tuple(judge(check, [replies.get(probe) for probe in check.probes]) for check in checks)

    def _judged(self) -> dict[str, str]:
        made = self._running()
        made.freeze()
        turns = list(self._ended)
        if self._state["benchmark"] == bfcl.NAME:
            entry = self._state["begin"]["entry"]
            asked = {"entry": entry, "truth": bfcl.truth(_place() / "python" / "bfcl_eval", entry["id"])}
        else:
            asked = {**self._state["begin"], "injection_task": self._state["injection_task"]}
            turns += [{"calls": self._calls, "said": ""}] if self._calls else []
        service = serve(made, self._state["benchmark"], writable=False)
        judged: dict[str, str] = ask(service, "verdict", {**asked, "turns": turns}, 2 * START_SECONDS)
        made.freeze()
        return judged

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


def _place() -> Path:
    try:
        return installed()
    except ConfigError as error:
        raise SandboxError(str(error)) from error
