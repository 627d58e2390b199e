"""Desktop tasks: seeded generation and the split.

Owns: ids, seeds, turn limits. Refuses: running tasks, and the task file (``worldmodel.tasks``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

from rollout.errors import TaskError
from rollout.seeds import derive_seed
from rollout.types import Reference, Task, World
from worldmodel.domains.os.families import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.os.grammar import DONE
from worldmodel.tasks import Split

MAX_TURNS = 12


def generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    """``count`` tasks, families in rotation. Equal arguments give equal tasks; splits never share a seed."""
    names = list(families or (HELD_OUT if split == "family" else TRAIN))
    return [make(names[i % len(names)], split, seed, i) for i in range(count)]


def make(family: str, split: Split, seed: int, index: int) -> Task:
    """One task. Raises TaskError for an unknown family or split."""
    if family not in FAMILIES:
        raise TaskError(f"unknown os family '{family}'; known: {', '.join(sorted(FAMILIES))}")
    if split not in get_args(Split):
        raise TaskError(f"unknown split '{split}'; known: {', '.join(get_args(Split))}")
    task_seed = derive_seed("os", split, seed, family, index)
    draft = FAMILIES[family](random.Random(task_seed))
    return Task(
        id=f"{family}-{split}-{seed}-{index}", domain="os", family=family, split=split,
        instruction=draft.instruction, world=World(state=draft.state), checks=draft.checks,
        reference=Reference((*draft.gold, DONE), tuple((*way, DONE) for way in draft.wrong)), max_turns=MAX_TURNS,
        seed=task_seed,
    )  # fmt: skip
