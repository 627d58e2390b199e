"""The operating-system tasks of AgentBench, for evaluation: read in place from the wheel that set-up installs.

Owns: which of them can be done in a box of ours, their ids and instructions, reading what hides behind them.
Refuses: training data, running anything (``agentbench_real``), and holding any of their text (no licence is proven).

They were written for a root account in a container. Here an ordinary user does them in a throw-away machine, so paths
are rewritten (``here``), and what needs another account, a container's process table or a file that the wheel lacks is
left out (``LEFT_OUT``). An answer is a file, because the terminal's actions are commands.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.terminal import FINAL
from worldmodel.sandbox.limits import HOME
from worldmodel.tasks import BENCHMARK
from worldmodel.wheels import Wheel

SOURCE = "agentbench-os"
MAX_TURNS = 8
ANSWER_FILE = "/tmp/answer"
ASK = (
    f"Write the answer to the file {ANSWER_FILE}: a bare integer for a number, else the exact text asked for, "
    "and nothing more. Then say done."
)
CHANGE = f"You are an ordinary user. Programs that you make belong into {HOME}/bin, which is on PATH. Then say done."
VERDICT, PASSED = f": verdict of {SOURCE}", "passed"  # as a command it does nothing
DATA = "inspect_evals/agent_bench/data"
FILES = {"test": "agent_bench_os_test.json", "dev": "agent_bench_os.json"}
WHEEL = Wheel(
    "agentbench-os", "inspect-evals", "0.26.0", "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0",
    lambda member: member.startswith(f"{DATA}/") or member.endswith("/licenses/LICENSE"),
)  # fmt: skip

# Measured with python -m bench.agentbench_audit, by cause.
LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "it needs root or another account": (
        "test-28", "test-29", "test-30", "test-33", "test-34", "test-35", "test-41",
        "dev-18", "dev-19", "dev-20", "dev-24",
    ),
    "it counts processes as a container would have them": ("test-37", "test-38", "test-112"),
    "it needs /var/log, which a box does not have": ("test-74", "test-104"),
    "its check needs more processes than a box may have": ("test-19",),
}  # fmt: skip
# Their reference makes files that the policy is asked to make, so it is run in a second machine.
MAKES_FILES = ("test-89", "test-92")


@dataclass(frozen=True, slots=True)
class Exercise:
    """One record. ``initial``: what makes the world; ``background``: what runs during the episode; ``reference``:
    prints the answer, or '' where ``answer`` is it; ``check``: a shell script, or Python with answer and reference as
    arguments where ``compares``; ``solution``: the reference as a policy would act it."""

    key: str
    description: str
    initial: str = ""
    background: str = ""
    reference: str = ""
    answer: str = ""
    check: str = ""
    compares: bool = False
    lacking: str = ""

    @property
    def solution(self) -> str:
        if self.answer:
            return f"printf %s {shlex.quote(self.answer)} > {ANSWER_FILE}"
        run = f"bash -c {shlex.quote(self.reference)}"
        return f"{run} > {ANSWER_FILE}" if self.compares else run


def here(text: str) -> str:
    """A text of theirs with its paths as they are in a box: everybody's home is the user's."""
    text = re.sub(r"/home/agent\b|/root\b|/home\b(?!/user\b)", HOME, text)
    return text.replace("/usr/local/bin", f"{HOME}/bin")


@cache
def _folder(path: Path) -> dict[str, Exercise]:
    found = {}
    for split, name in FILES.items():
        records = json.loads((path / DATA / name).read_text(encoding="utf-8"))
        for record in records:
            key = f"{split}-{record['id']}"
            found[key] = _read(key, record, path / DATA / "scripts")
    return found


def exercises() -> dict[str, Exercise]:
    """Every record by key, usable or not. Raises ConfigError before set-up."""
    if WHEEL.missing():
        raise ConfigError(f"{SOURCE}: not installed: agentworld setup terminal")
    return _folder(WHEEL.path)


def _read(key: str, record: Mapping[str, Any], scripts: Path) -> Exercise:
    asked, create = record["evaluation"], record.get("create")
    lacking: list[str] = []

    def script(value: object) -> str:
        """A script of theirs: text, ``code``, a ``file``, or several of them."""
        if isinstance(value, list):
            return "\n".join(script(part) for part in value)
        if isinstance(value, dict) and "file" in value:
            file = scripts / value["file"]
            if file.is_file():
                return here(file.read_text(encoding="utf-8"))
            lacking.append(value["file"])
            return ""
        return here(str(value.get("code", "") if isinstance(value, dict) else value or ""))

    initial = script(create.get("init")) if isinstance(create, dict) else ""
    check = asked.get("check")
    compares = isinstance(check, list) and None in check
    if "bin/find" in initial:  # as upstream's container has it
        initial = f"mkdir -p ~/bin && cp /usr/bin/find ~/bin/find\n{initial}"
    parts = [part for part in check if part is not None] if isinstance(check, list) else check
    alone = check is None  # right is one text, which no script computes
    return Exercise(
        key=key,
        description=here(record["description"]).strip(),
        initial=initial,
        background=here(record.get("start", "")),
        reference="" if alone else script(asked.get("example")),
        answer=str(asked["match"]) if alone else "",
        check="" if alone else script(parts),
        compares=compares,
        lacking=", ".join(lacking),
    )


def usable() -> list[Exercise]:
    left = {key for keys in LEFT_OUT.values() for key in keys}
    return [exercise for key, exercise in exercises().items() if key not in left and not exercise.lacking]


def tasks(count: int) -> list[Task]:
    """At most ``count`` tasks, always the same first ones. Raises ConfigError before set-up."""
    return [task(exercise) for exercise in usable()[:count]]


def task(exercise: Exercise) -> Task:
    """The world of a task is empty: the real one reads it in place."""
    answers = exercise.compares or bool(exercise.answer)
    return Task(
        id=f"{SOURCE}/{exercise.key}", domain="terminal", family=f"{SOURCE}/{'answer' if answers else 'change'}",
        split=BENCHMARK, instruction=f"{exercise.description}\n\n{ASK if answers else CHANGE}",
        world=World({} if answers else {"dirs": ["bin"]}),
        checks=(Check("verdict", (VERDICT,), Predicate("equals", PASSED)),),
        reference=Reference((exercise.solution, FINAL)), max_turns=MAX_TURNS, seed=0,
    )  # fmt: skip
