"""The real web environment: a task on a made site, in the shared Chromium.

Owns: what an action returns, verdicts from probes on the site's last state. Refuses: the browser (``browser``),
scoring (rollout.reward).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.web import WEB, opening
from worldmodel.domains.web.browser import Visitor, on_thread
from worldmodel.domains.web.dump import dump, message
from worldmodel.domains.web.grammar import PROBE
from worldmodel.sandbox import SandboxError
from worldmodel.types import refusal

# What a page of MiniWoB++ itself awards: no action, so that no simulator can be asked for it.
PAGE_REWARD = "page_reward"


class WebEnvironment:
    """Implements ``Environment``: single use, not restorable (a real browser starts again)."""

    world_id = "real:web"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._task = task
        self._visitor = Visitor(str(task.world.state.get("site", "")), task.world.state)
        self._screen, self._message = "", ""
        self._end: dict[str, Any] | None = None

    async def start(self) -> Prompt:
        """Raises SandboxError where the browser cannot be had."""
        self._screen = await on_thread(self._visitor.start)
        return opening(" ".join(filter(None, (self._task.instruction, self._visitor.goal))), self._screen)

    def parse(self, text: str) -> Action:
        return WEB.parse(text)

    async def step(self, action: Action) -> Observation:
        """The page after the action. One that cannot be done says why above the page."""
        anchor = hashlib.sha256(self._screen.encode("utf-8", "replace")).hexdigest()[:32]
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            self._message = message(action)
            return Observation("", done=True, anchor=anchor)
        try:
            self._screen = await on_thread(lambda: self._visitor.act(action.name, action.arguments))
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        return Observation(self._screen, anchor=anchor)

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """The browser's context is closed and the site stopped; probes read the state it left. Raises SandboxError."""
        if self._end is None:
            self._end = await on_thread(self._visitor.end)
        return tuple(self._judge(check) for check in checks)

    def _judge(self, check: Check) -> CheckResult:
        end = self._end or {}
        if check.probes == (PAGE_REWARD,):
            return judge(check, [None if end.get("reward") is None else f"{float(end['reward']):g}"])
        tables = end.get("state", {}).get("tables", {})
        return judge(check, [probed(tables, self._message, probe) for probe in check.probes])

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Safe at any time and twice; the browser stays for the next episode."""
        await on_thread(self._visitor.close)


def probed(tables: Mapping[str, Any], message: str, probe: str) -> str | None:
    """The reply to a probe; None where it is none."""
    action = WEB.parse(probe)
    return dump(tables, str(action.arguments["what"]), message) if action.name == PROBE else None


def judge(check: Check, replies: Sequence[str | None]) -> CheckResult:
    """Passed iff there are probes and every reply satisfies the predicate; no verdict where a reply is missing."""
    texts = tuple(reply or "" for reply in replies)
    if None in replies:
        return CheckResult(check.name, None, texts, f"a probe is no {PROBE}")
    try:
        return CheckResult(check.name, bool(texts) and all(holds(check.predicate, text) for text in texts), texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))


@dataclass(frozen=True, slots=True)
class WebFactory:
    """Picklable ``EnvFactory``."""

    def __call__(self, task: Task, seed: int) -> WebEnvironment:
        return WebEnvironment(task)
