"""Latency of the swe world: start (checkout and commit), one call of each tool, the verdict, close.

Run on an idle machine after ``agentworld setup swe``: ``python bench/swe_latency.py``. Writes
bench/results/swe_latency.json with the command, medians and 95th percentiles in milliseconds, and the load average
before the run. Exits 1 where a bar is missed: start under 300 ms, a step without tests under 50 ms (medians).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.latency import facts, publish, summary
from rollout.types import Task
from worldmodel.domains.swe.grammar import call
from worldmodel.domains.swe.real import SweEnvironment
from worldmodel.domains.swe.tasks import generate

BARS = {"start": 300.0, "step": 50.0}  # milliseconds, median


async def timed(work: Awaitable[object]) -> float:
    begun = time.perf_counter()
    await work
    return (time.perf_counter() - begun) * 1000


async def measure(tasks: list[Task], verdicts: int) -> dict[str, list[float]]:
    """Milliseconds per operation; one episode a task, a verdict in the first ``verdicts``."""
    times: dict[str, list[float]] = {"start": [], "step": [], "verdict": [], "close": []}
    for number, task in enumerate(tasks):
        environment = SweEnvironment(task)
        times["start"].append(await timed(environment.start()))
        path = task.world.state["bug"]["path"]
        shell, read, search = (
            call("shell", command="git status"),
            call("read", path=path),
            call("search", pattern="def "),
        )
        for text in (shell, call("list"), read, search, *task.reference.gold[:-1]):
            times["step"].append(await timed(environment.step(environment.parse(text))))
        if number < verdicts:
            times["verdict"].append(await timed(environment.verify(task.checks)))
        times["close"].append(await timed(environment.close()))
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--verdicts", type=int, default=20)
    default = Path(__file__).parent / "results" / "swe_latency.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    known = facts("python bench/swe_latency.py")
    tasks = generate("heldout", options.count + 1, 0)
    cold = asyncio.run(measure(tasks[:1], 0))  # also starts the keeper
    times = asyncio.run(measure(tasks[1:], options.verdicts))
    result = {
        **known,
        "count": options.count,
        "first_start_with_keeper": round(cold["start"][0], 2),
        "latency": summary({name: row for name, row in times.items() if len(row) > 1}),
    }
    missed = [name for name, bar in BARS.items() if statistics.median(times[name]) >= bar]
    result["bars"] = {**BARS, "missed": missed}
    publish(result, options.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
