"""Known behaviours acted out in both worlds: what simulated verdicts are worth, and which tasks may be trained on.

Owns: the replays of gold, wrong and empty solutions and their pairing. Refuses: the decision (``worldmodel.vetting``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from launch.pools import replay_pool
from launch.report.build import verdict_table
from launch.worlds import REAL, SIM, real, simulated
from rollout.pool import Pool
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.types import Task
from worldmodel.config import WorldModelConfig
from worldmodel.vetting import Behaviour, Ending, Vetting, vet

EMPTY = ("done",)
Solution = tuple[Task, Behaviour, tuple[str, ...]]


def vet_tasks(config: WorldModelConfig, tasks: Sequence[Task], seed: int) -> Vetting:
    """Act out every known solution of ``tasks`` in reality and in the simulator behind ``config``, and decide."""
    with replay_pool({REAL: real(), SIM: simulated(config)}, slots=config.concurrency) as pool:
        found, _ = endings(pool, list(solutions(tasks)), seed)
    return vet(found)


def table(vetting: Vetting) -> list[tuple[str, ...]]:
    """One row a family, as text, the header first."""
    shown = verdict_table(vetting)
    return [shown.columns, *shown.rows]


def solutions(tasks: Iterable[Task]) -> Iterator[Solution]:
    """Per task: gold, every wrong solution, and doing nothing."""
    for task in tasks:
        yield task, "gold", task.reference.gold
        for wrong in task.reference.wrong:
            yield task, "wrong", wrong
        yield task, "empty", EMPTY


def endings(pool: Pool, chosen: Sequence[Solution], seed: int) -> tuple[list[Ending], int]:
    """(paired verdicts, endings left out because the real world gave none)."""
    jobs = [
        (task, actions, world, derive_seed(seed, "vet", task.id, behaviour, *actions))
        for world in (REAL, SIM)
        for task, behaviour, actions in chosen
    ]
    outcomes = pool.replay(jobs)
    real, simulated = outcomes[: len(chosen)], outcomes[len(chosen) :]
    found, lost = [], 0
    for (task, behaviour, _), in_reality, in_simulator in zip(chosen, real, simulated, strict=True):
        truth = None if in_reality.fault else success(in_reality.results)
        if truth is None:
            lost += 1
            continue
        claim = None if in_simulator.fault else success(in_simulator.results)
        found.append(Ending(task.id, task.family, behaviour, truth, claim))
    return found, lost
