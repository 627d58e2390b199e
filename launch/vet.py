"""Known behaviours acted out in both worlds: what simulated verdicts are worth, and which tasks may be trained on.

Owns: the replays of gold, wrong and empty solutions and their pairing. Refuses: the decision (``worldmodel.vetting``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence

from launch.counting import counting
from launch.pools import REPLAY_SECONDS, bearable, replay_pool
from launch.report.build import verdict_table
from launch.worlds import REAL, SIM, real, simulated
from rollout.pool import Pool
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.types import Observation, Task
from worldmodel.config import WorldModelConfig
from worldmodel.domains import behaviours, kit
from worldmodel.mixture import family
from worldmodel.vetting import Behaviour, Ending, Vetting, vet

NEAR_MISSES = 2  # a task
Solution = tuple[Task, Behaviour, tuple[str, ...]]


def vet_tasks(config: WorldModelConfig, tasks: Sequence[Task], seed: int) -> Vetting:
    """Act out every known solution of ``tasks`` in reality and in the simulator behind ``config``, and decide."""
    domains = {task.domain for task in tasks}
    worlds = {REAL: real(domains), SIM: simulated(config)}
    with replay_pool(worlds, slots=bearable(domains, config.concurrency)) as pool:
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
        yield task, "empty", kit(task.domain).empty


def trying(pool: Pool, tasks: Sequence[Task], seed: int) -> list[Ending]:
    """Endings of every solution of ``tasks`` and of near misses, where a policy looks for rewards that are not there.
    Where gold has no success in the simulator, nothing else is tried."""
    gold, _ = endings(pool, [(task, "gold", task.reference.gold) for task in tasks], seed)
    alive = {ending.task_id for ending in gold if ending.simulated}
    rest = [solution for solution in solutions(t for t in tasks if t.id in alive) if solution[1] != "gold"]
    rest += [(task, "policy", slips(task, seed + n)) for task in tasks if task.id in alive for n in range(NEAR_MISSES)]
    return gold + endings(pool, rest, seed)[0]


def slips(task: Task, seed: int) -> tuple[str, ...]:
    """A near miss of the gold solution, as its domain makes them."""
    return behaviours(task.domain).slip(task, random.Random(derive_seed(seed, "slip", task.id)))


def endings(pool: Pool, chosen: Sequence[Solution], seed: int, reality: Pool | None = None) -> tuple[list[Ending], int]:
    """(paired verdicts, endings left out because the real world gave none). Families of several domains carry theirs in
    their name. ``reality``: for the real half, where a machine bears fewer episodes at once than the world model."""
    mixed = len({task.domain for task, _, _ in chosen}) > 1
    jobs = [
        (task, actions, world, derive_seed(seed, "vet", task.id, behaviour, *actions))
        for world in (REAL, SIM)
        for task, behaviour, actions in chosen
    ]
    reality = reality or pool
    with counting(reality, "known solutions, real"):
        real = reality.replay(jobs[: len(chosen)], timeout=REPLAY_SECONDS)
    with counting(pool, "known solutions, simulated"):
        simulated = pool.replay(jobs[len(chosen) :], timeout=REPLAY_SECONDS)
    found, lost = [], 0
    for (task, behaviour, actions), in_reality, in_simulator in zip(chosen, real, simulated, strict=True):
        truth = None if in_reality.fault else success(in_reality.results)
        if truth is None:
            lost += 1
            continue
        claim = None if in_simulator.fault else success(in_simulator.results)
        group = family(task) if mixed else task.family
        seen = supported(task, actions, in_reality.observations, in_simulator.observations)
        found.append(Ending(task.id, group, behaviour, truth, claim, seen))
    return found, lost


def supported(task: Task, actions: Sequence[str], real: Sequence[Observation], sim: Sequence[Observation]) -> bool:
    """Whether ``sim`` shows every word of the answer that ``real`` shows. True where the verdict does not rest on the
    policy's words alone."""
    replies = own_words(task, actions)
    if replies is None:
        return True
    answer, shown, predicted = _words(replies), _words(_texts(real)), _words(_texts(sim))
    return answer & shown <= predicted


def own_words(task: Task, actions: Sequence[str]) -> list[str] | None:
    """The replies to the probes of ``task`` after ``actions``; None where one of them reads the world."""
    parse, tell = kit(task.domain).domain.parse, kit(task.domain).told
    said = [parse(action) for action in actions]
    replies = [tell(said, parse(probe)) for check in task.checks for probe in check.probes]
    told = [reply for reply in replies if reply is not None]
    return told if told and len(told) == len(replies) else None


def _texts(observations: Iterable[Observation]) -> Iterator[str]:
    return (observation.text for observation in observations)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.casefold())}
