"""The real terminal: a task in a throw-away machine.

Owns: the async face of ``worldmodel.sandbox``, what an action means there, verdicts from probes.
Refuses: isolation (sandbox), scoring (rollout.reward).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.terminal import TERMINAL, TERMINAL_KEYS, Form
from worldmodel.sandbox import Limits, Machine, SandboxError, Screen

T = TypeVar("T")
CONFIRM = "Is the task done? Send [] again to end the episode."


@cache
def _threads() -> ThreadPoolExecutor:
    """Machines block their thread while a command runs; the event loop never does."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="terminal")


class TerminalEnvironment:
    """Implements ``Environment``: single use, not restorable (a real machine starts again)."""

    world_id = "real:terminal"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task, form: Form = "plain", limits: Limits | None = None) -> None:
        self._task = task
        self._domain = TERMINAL if form == "plain" else TERMINAL_KEYS
        self._machine = Machine(task.world.state, limits, keys=form == "keys")
        self._asked = False  # an empty array of keystrokes was the last action
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread
        self._anchor = _digest(json.dumps(dict(task.world.state), sort_keys=True))

    async def start(self) -> Prompt:
        """Raises SandboxError where no machine can be had."""
        await self._call(self._machine.start)
        return self._domain.prompt(self._task)

    def parse(self, text: str) -> Action:
        return self._domain.parse(text)

    async def step(self, action: Action) -> Observation:
        """Deadlines, floods and a killed shell are the action's doing: ``ok`` with the partial screen."""
        anchor = self._anchor
        if action.error is not None:
            return Observation(action.error, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            return Observation("", done=True, anchor=anchor)
        asked, self._asked = self._asked, action.name == "confirm"
        if self._asked:
            return Observation(CONFIRM, done=asked, anchor=anchor)
        try:
            screen = await self._call(lambda: self._act(action))
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        self._anchor = _digest(f"{anchor}\n{self._domain.show(action)}\n{screen.text}")
        return Observation(screen.text, anchor=anchor, truncated=screen.cut)

    def _act(self, action: Action) -> Screen:
        if action.name == "keys":
            return self._machine.press(action.arguments["keys"])
        return self._machine.run(str(action.arguments["command"]))

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Every process of the episode is killed, then each probe runs in a fresh box on the read-only files.
        A probe that did not end by itself fails its check. Raises SandboxError."""
        probes = list(dict.fromkeys(probe for check in checks for probe in check.probes))
        screens = await self._call(lambda: self._machine.probe(probes))
        replies = dict(zip(probes, screens, strict=True))
        return tuple(judge(check, [replies[probe] for probe in check.probes]) for check in checks)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Ends whatever still runs, at once; safe to call at any time and twice."""
        self._machine.interrupt()
        await self._call(self._machine.close)

    async def _call(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return work()

        return await asyncio.get_running_loop().run_in_executor(_threads(), locked)


def judge(check: Check, replies: Sequence[Screen]) -> CheckResult:
    """Passed iff every probe ended by itself and its reply satisfies the predicate."""
    texts = tuple(reply.text for reply in replies)
    ends = [reply.end for reply in replies if reply.end != "ok"]
    if ends:
        return CheckResult(check.name, False, texts, f"a probe did not end by itself: {ends[0]}")
    try:
        return CheckResult(check.name, bool(texts) and all(holds(check.predicate, text) for text in texts), texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TerminalFactory:
    """Picklable ``EnvFactory``."""

    form: Form = "plain"
    limits: Limits = field(default_factory=Limits)

    def __call__(self, task: Task, seed: int) -> TerminalEnvironment:
        return TerminalEnvironment(task, self.form, self.limits)
