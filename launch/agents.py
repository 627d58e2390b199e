"""Agents that need no model: the reference, nobody, and one that acts at random.

Owns: what each of them says on a task. Refuses: acting it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from rollout.samplers.text import Recited
from rollout.seeds import derive_seed
from rollout.types import Task
from worldmodel.domains import kit
from worldmodel.tasks import BENCHMARK

Agent = Literal["gold", "empty", "random"]
AGENTS: tuple[Agent, ...] = ("gold", "empty", "random")
RANDOM_TASKS = 20  # of a domain's training split, whose actions a random agent says
JUNK = ("", "\x00\x1b[2J", "'", "$(", "\n\n", "done done", "x" * 5000, "".join(map(chr, range(0x2500, 0x2540))))


def random_actions(known: Sequence[str], rng: random.Random, turns: int) -> tuple[str, ...]:
    """``known`` actions out of place, and texts that are no action at all."""
    return tuple(rng.choice(known if known and rng.random() < 0.5 else JUNK) for _ in range(turns))


def scripted(agent: Agent, tasks: Iterable[Task], seed: int) -> Recited:
    """What ``agent`` says on each of ``tasks``. The random one says actions of its domain's training tasks, on one of a
    benchmark those of the benchmark's other tasks. After its actions an agent says what ends an episode there."""
    tasks = list(tasks)
    actions: dict[str, tuple[str, ...]] = {}
    known: dict[str, list[str]] = {}
    last: dict[str, str] = {}
    for task in tasks:
        found = kit(task.domain)
        last[task.id] = found.empty[-1]
        if agent == "gold":
            actions[task.id] = task.reference.gold
        elif agent == "empty":
            actions[task.id] = found.empty
        else:
            if task.domain not in known:
                shown = found.generate("train", RANDOM_TASKS, seed)
                known[task.domain] = [text for other in shown for text in other.reference.gold]
            rng = random.Random(derive_seed(seed, "random agent", task.id))
            near = _of_others(task, tasks) if task.split == BENCHMARK else []
            actions[task.id] = random_actions(near or known[task.domain], rng, task.max_turns)
    return Recited(actions, last)


def _of_others(task: Task, tasks: Sequence[Task]) -> list[str]:
    """The actions that solve the other ``tasks`` of the benchmark that ``task`` belongs to."""
    benchmark = task.id.partition("/")[0]
    others = [other for other in tasks if other.id.startswith(f"{benchmark}/") and other.id != task.id]
    return [text for other in others for text in other.reference.gold]
