"""Terminal tasks: seeded generation and the split.

Owns: ids, seeds, which families are held out. Refuses: running tasks, and the task file (``worldmodel.tasks``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

from rollout.errors import TaskError
from rollout.seeds import derive_seed
from rollout.types import Reference, Task, World
from worldmodel.domains.terminal.families import FAMILIES, HELD_OUT, TRAIN, Draft
from worldmodel.tasks import Split

MAX_TURNS = 3


def generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    """``count`` tasks, families in rotation. Equal arguments give equal tasks; splits never share a seed."""
    names = list(families or (HELD_OUT if split == "family" else TRAIN))
    return [make(names[i % len(names)], split, seed, i) for i in range(count)]


def make(family: str, split: Split, seed: int, index: int) -> Task:
    """One task. Raises TaskError for an unknown family."""
    if family not in FAMILIES:
        raise TaskError(f"unknown terminal family '{family}'; known: {', '.join(sorted(FAMILIES))}")
    if split not in get_args(Split):
        raise TaskError(f"unknown split '{split}'; known: {', '.join(get_args(Split))}")
    task_seed = derive_seed("terminal", split, seed, family, index)
    draft = FAMILIES[family](random.Random(task_seed))
    return _task(draft, family, split, task_seed, f"{family}-{split}-{seed}-{index}")


def _task(draft: Draft, family: str, split: str, seed: int, name: str) -> Task:
    state = {"files": draft.files, "dirs": list(draft.dirs), "modes": draft.modes}
    reference = Reference((*draft.gold, "done"), tuple((*w, "done") for w in draft.wrong))
    return Task(
        id=name, domain="terminal", family=family, split=split, instruction=draft.instruction,
        world=World(state=state), checks=draft.checks, reference=reference, max_turns=MAX_TURNS, seed=seed,
    )  # fmt: skip
