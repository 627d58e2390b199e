"""The real android environment of this repository: a task on a reference device of its own.

Owns: what an action returns there, verdicts from probes, continuing after whole turns.
Refuses: the device itself (``engine``), scoring (rollout.reward). It is not an Android system and no claim about one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.android import ANDROID
from worldmodel.domains.android.actions import PROBE
from worldmodel.domains.android.dump import dump
from worldmodel.domains.android.engine import act, boot, digest, render
from worldmodel.types import refusal


class AndroidEnvironment:
    """Implements ``Environment``: single use, restorable after any whole turn."""

    world_id = "real:android:reference-device"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._task = task
        self._device = boot(task.world.state)

    async def start(self) -> Prompt:
        return ANDROID.prompt(self._task)

    def parse(self, text: str) -> Action:
        return ANDROID.parse(text)

    async def step(self, action: Action) -> Observation:
        """The complete next screen. A probe is refused: reading state is for checks, not for the policy."""
        anchor = digest(self._device)
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            return Observation("", done=True, anchor=anchor)
        act(self._device, action.name, action.arguments)
        return Observation(render(self._device), anchor=anchor)

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Every probe reads a copy of the final state."""
        data, answer = copy.deepcopy(self._device.data), self._device.answer
        return tuple(judge(check, [_probe(data, answer, probe) for probe in check.probes]) for check in checks)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        """Act out ``turns`` on a fresh device; False where one was a fault or returned another screen then."""
        device = boot(self._task.world.state)
        for turn in turns:
            action, seen = turn.action, turn.observation
            if seen.kind is ObservationKind.WORLD_ERROR:
                return False
            if seen.kind is ObservationKind.OK and action.error is None and not action.final:
                act(device, action.name, action.arguments)
                if render(device) != seen.text:
                    return False
        self._device = device
        return True

    async def close(self) -> None:
        """Nothing is held."""


def _probe(data: dict[str, object], answer: str, probe: str) -> str | None:
    """The reply to a probe; None where it is none."""
    action = ANDROID.parse(probe)
    return dump(data, str(action.arguments["what"]), answer) if action.name == PROBE else None


def judge(check: Check, replies: Sequence[str | None]) -> CheckResult:
    """Passed iff there are probes and every reply satisfies the predicate; no verdict where a reply is missing."""
    texts = tuple(reply or "" for reply in replies)
    if None in replies:
        return CheckResult(check.name, None, texts, "a probe is no dump action, or nothing here can answer it")
    try:
        return CheckResult(check.name, bool(texts) and all(holds(check.predicate, text) for text in texts), texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))


@dataclass(frozen=True, slots=True)
class AndroidFactory:
    """Picklable ``EnvFactory``."""

    def __call__(self, task: Task, seed: int) -> AndroidEnvironment:
        return AndroidEnvironment(task)
