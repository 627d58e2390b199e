"""HumanEval repairs in the swe world: another checkout and another verdict, the same tools.

Owns: the checkout of one problem, its hidden tests. Refuses: which bug it has (``humaneval``).

The hidden tests come into being after the episode, in a machine of their own, beside the one module that is taken from
it. They are judged as those of packages are (``verdict``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.protocols import Environment
from rollout.types import Task
from worldmodel.domains.swe.humaneval import HIDDEN, MODULE, PACKAGE, SOURCE, TEST, broken, files, problem
from worldmodel.domains.swe.packages import Package
from worldmodel.domains.swe.real import SweEnvironment
from worldmodel.domains.swe.testing import Bench
from worldmodel.domains.swe.verdict import judged


class HumanEvalEnvironment(SweEnvironment):
    """``SweEnvironment`` over one problem. Raises ConfigError at the start where the problems are not installed."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._number = int(task.world.state["number"])

    def _checkout(self) -> tuple[Package, dict[str, str]]:
        return PACKAGE, files(broken(self._number))

    def _judged_files(self, found: Mapping[str, str]) -> dict[str, str]:
        return {**files(found.get(MODULE, "")), TEST: problem(self._number).hidden}

    def _verdict(self, bench: Bench, arguments: Mapping[str, Any]) -> str:
        return judged(bench, PACKAGE, [TEST], {HIDDEN}, problem(self._number).forbidden)


@dataclass(frozen=True, slots=True)
class SweWorlds:
    """Picklable ``EnvFactory``: own tasks and HumanEval's."""

    def __call__(self, task: Task, seed: int) -> Environment:
        return HumanEvalEnvironment(task) if task.id.startswith(f"{SOURCE}/") else SweEnvironment(task)
