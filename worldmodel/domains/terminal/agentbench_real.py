"""AgentBench's operating-system tasks in a throw-away machine.

Owns: preparing the machine, the expected answer, the verdict. Refuses: which tasks there are (``agentbench``).

The expected answer is computed before the policy acts, in a box of its own, and kept out of the machine, so that no
change of the machine makes an answer right. After the episode its processes are dead; a fresh box reads the answer,
another one runs the check with it on files that are read-only by then. No script of theirs lies in the machine, except
where a task has a program in the background.
"""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.protocols import Environment
from rollout.types import Check, CheckResult, Prompt, Task
from worldmodel.domains.terminal.agentbench import (
    ANSWER_FILE,
    HOME,
    MAKES_FILES,
    PASSED,
    SOURCE,
    VERDICT,
    Exercise,
    exercises,
)
from worldmodel.domains.terminal.real import TerminalEnvironment, TerminalFactory, judge
from worldmodel.sandbox import Limits, Machine, SandboxError, Screen

LIMITS = Limits(deadline=30.0)  # a check of theirs starts Python ninety times
MAX_ANSWER = 2000  # bytes, of which the last ones are read
QUIET = "</dev/null >/dev/null 2>&1"
PATH = f'export PATH="{HOME}/bin:{HOME}:$PATH"'


class AgentBenchEnvironment(TerminalEnvironment):
    """A terminal whose machine a script has prepared, and whose verdict is a script's."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, limits=LIMITS)
        self._exercise: Exercise | None = None
        self._expected = ""

    async def start(self) -> Prompt:
        """Raises ConfigError before set-up, SandboxError where no machine can be had or it cannot be prepared."""
        self._exercise = exercises()[self._task.id.removeprefix(f"{SOURCE}/")]
        prompt = await super().start()
        await self._call(self._prepare)
        return prompt

    def _prepare(self) -> None:
        exercise = self._running()
        prepare(self._machine, exercise)
        if exercise.compares and exercise.key in MAKES_FILES:
            with Machine(self._task.world.state, LIMITS) as twin:
                prepare(twin, exercise)
                self._expected = printed(twin.run(encoded(exercise.reference)), exercise)
        elif exercise.compares:
            self._expected = printed(self._machine.probe([encoded(exercise.reference)])[0], exercise)
        if exercise.background:
            self._machine.run(f"{{ {exercise.background} }} {QUIET}")
        if not exercise.compares and not exercise.answer:
            self._machine.run(PATH)

    def _running(self) -> Exercise:
        if self._exercise is None:
            raise SandboxError(f"{SOURCE}: the environment was not started")
        return self._exercise

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """No verdict on a probe that is not ``VERDICT``. Raises SandboxError."""
        if any(set(check.probes) != {VERDICT} for check in checks):
            return tuple(CheckResult(check.name, None, (), f"a probe is not {VERDICT!r}") for check in checks)
        reply = await self._call(self._verdict)
        return tuple(judge(check, [reply]) for check in checks)

    def _verdict(self) -> Screen:
        exercise = self._running()
        if not exercise.compares and not exercise.answer:
            (screen,) = self._machine.probe([f"{PATH}; bash -c {shlex.quote(exercise.check)} {QUIET}"])
            return outcome(screen, "the check says no")
        (screen,) = self._machine.probe([f"[ -f {ANSWER_FILE} ] && tail -c {MAX_ANSWER} {ANSWER_FILE} | base64 -w 0"])
        if screen.status != 0 or screen.end != "ok":
            return Screen(f"failed\nthere is no file {ANSWER_FILE}", 0)
        answer = decoded(screen.text).strip()
        if exercise.answer:
            return outcome(Screen("", int(answer != exercise.answer)), "another answer")
        words = ["python3", "-I", "-S", "-c", exercise.check, answer, self._expected]
        (screen,) = self._machine.probe([f"{shlex.join(words)} {QUIET}"])
        return outcome(screen, "another answer")


def prepare(machine: Machine, exercise: Exercise) -> None:
    """Run the initial script. Its status says nothing; that it does not end is a fault."""
    if exercise.initial:
        screen = machine.run(f"bash -c {shlex.quote(exercise.initial)} {QUIET}")
        if screen.end != "ok":
            raise SandboxError(f"{SOURCE}/{exercise.key}: its initial script ended by {screen.end}")


def encoded(script: str) -> str:
    """A command that prints the end of what ``script`` prints, in a form that a screen does not change."""
    return f"bash -c {shlex.quote(script)} 2>/dev/null | tail -c {MAX_ANSWER} | base64 -w 0"


def decoded(text: str) -> str:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return raw.decode("utf-8", errors="replace").replace("\0", "")


def printed(screen: Screen, exercise: Exercise) -> str:
    answer = decoded(screen.text).strip() if screen.end == "ok" else ""
    if not answer:
        raise SandboxError(f"{SOURCE}/{exercise.key}: its reference printed nothing")
    return answer


def outcome(screen: Screen, why: str) -> Screen:
    """The reply of ``VERDICT``: a check passes by its exit status."""
    return Screen(PASSED if screen.end == "ok" and screen.status == 0 else f"failed\n{why}", 0)


@dataclass(frozen=True, slots=True)
class TerminalWorlds:
    """Picklable ``EnvFactory``: own tasks and those of AgentBench."""

    def __call__(self, task: Task, seed: int) -> Environment:
        if task.id.startswith(f"{SOURCE}/"):
            return AgentBenchEnvironment(task)
        return TerminalFactory()(task, seed)
