"""Latency of the worlds that need no process of their own, android and search: start, one step, verdict.

Run on an idle machine: ``python -m bench.inprocess_latency``. Plays the known good behaviour of held-out tasks, the
families in turn. Writes bench/results/inprocess_latency.json with the command, medians and 95th percentiles in
milliseconds, the steps by action, the cold first episode of the process (imports, corpus, index) and the load average
before the run. Exits 1 where a bar is missed (medians), 2 where search is not set up.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.latency import facts, publish, summary
from rollout.protocols import EnvFactory
from rollout.types import ObservationKind, Task
from worldmodel.domains import kit

BARS = {"android": {"start": 5.0, "step": 2.0}, "search": {"start": 10.0, "step": 10.0}}  # milliseconds, median
Times = dict[str, list[float]]


async def episode(factory: EnvFactory, task: Task, times: Times, actions: Times) -> None:
    """One task, acted out as known good; raises where it does not succeed."""
    begun = time.perf_counter()
    environment = factory(task, 1)
    try:
        await environment.start()
        times["start"].append((time.perf_counter() - begun) * 1000)
        for text in task.reference.gold:
            begun = time.perf_counter()
            action = environment.parse(text)
            seen = await environment.step(action)
            times["step"].append((time.perf_counter() - begun) * 1000)
            actions[action.name].append(times["step"][-1])
            if seen.kind is not ObservationKind.OK:
                raise RuntimeError(f"{task.id}: {text!r} was answered {seen.text!r}")
        begun = time.perf_counter()
        results = await environment.verify(task.checks)
        times["verify"].append((time.perf_counter() - begun) * 1000)
        if not all(result.passed for result in results):
            raise RuntimeError(f"{task.id}: the known solution did not succeed")
    finally:
        await environment.close()


def drawn(name: str, count: int) -> list[Task]:
    """One task of training, then ``count`` held-out ones. For a process of its own: it loads the corpus."""
    return [kit(name).generate("train", 1, 1)[0], *kit(name).generate("heldout", count, 0)]


async def measure(name: str, first: Task, tasks: Sequence[Task]) -> dict[str, Any]:
    """The first episode of the process apart."""
    found = kit(name)
    cold: Times = defaultdict(list)
    times, actions = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    factory = found.real()
    await episode(factory, first, cold, defaultdict(list))
    for task in tasks:
        await episode(factory, task, times, actions)
    medians = {key: statistics.median(row) for key, row in times.items()}
    return {
        "episodes": len(tasks),
        "cold": {"start": round(cold["start"][0], 3), "first_step": round(cold["step"][0], 3)},
        "latency": summary(times, 3),
        "step_by_action": summary(actions, 3),
        "bars": {**BARS[name], "missed": [key for key, bar in BARS[name].items() if medians[key] >= bar]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100)
    default = Path(__file__).parent / "results" / "inprocess_latency.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    for name in BARS:
        if lacking := kit(name).missing():
            print(f"{name}: missing {lacking}")
            return 2
    known = facts("python -m bench.inprocess_latency")
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        tasks = {name: apart.submit(drawn, name, options.count).result() for name in BARS}
    measured = {name: asyncio.run(measure(name, first, rest)) for name, (first, *rest) in tasks.items()}
    publish(known | measured, options.out)
    return 1 if any(found["bars"]["missed"] for found in measured.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
