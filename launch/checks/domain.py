"""A domain's self-test: its real world, acted in by the reference, by nobody and by an agent that acts at random.

Owns: the three behaviours and what they must come to. Refuses: knowing the domain: tasks and factory are arguments.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from launch.agents import random_actions
from launch.checks.finding import Problem
from rollout.errors import WorldFault
from rollout.protocols import EnvFactory
from rollout.seeds import derive_seed
from rollout.spot import replay_actions, success
from rollout.types import Task

EPISODE_SECONDS, TURNS = 30.0, 4


def self_test(factory: EnvFactory, tasks: Sequence[Task], seed: int = 0) -> str:
    """On each task the reference must succeed, doing nothing must fail, and random actions, garbage among them, must
    end in a verdict. Raises Problem naming the task."""
    known = [action for task in tasks for action in task.reference.gold]
    for task in tasks:
        actions = {
            "reference": task.reference.gold,
            "idle": (),
            "random": random_actions(known, random.Random(derive_seed(seed, "doctor", task.id)), TURNS),
        }
        for who, texts in actions.items():
            verdict = _act(factory, task, texts, seed, who)
            if verdict is None or (who != "random" and verdict != (who == "reference")):
                raise Problem(f"{task.id}: the {who} agent's verdict is {verdict}")
    return f"{len(tasks)} tasks: the reference succeeds, doing nothing fails, a random agent gets a verdict"


def _act(factory: EnvFactory, task: Task, actions: Sequence[str], seed: int, who: str) -> bool | None:
    try:
        results, _ = asyncio.run(replay_actions(factory(task, seed), task, actions, time.monotonic() + EPISODE_SECONDS))
    except WorldFault as fault:
        raise Problem(f"{task.id}, {who} agent: {fault}") from fault
    return success(results)
