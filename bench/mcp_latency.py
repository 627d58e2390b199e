"""Latency of tool episodes over real MCP servers: start, each call, verdict, close.

Run on an idle machine: ``python bench/mcp_latency.py``. Plays the known good behaviour of own tasks, families in
rotation, so that the mixture of servers is the one of training. Writes bench/results/mcp_latency.json with the
command, medians and 95th percentiles in milliseconds, per set of servers for the start and per tool for the calls, and
the load average before the run. Exits 1 where a bar is missed: start under 1 s, a call under 30 ms (medians).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.latency import facts, publish, summary
from rollout.types import ObservationKind, Task
from worldmodel.domains.mcp.kit import KIT
from worldmodel.domains.mcp.real import McpEnvironment
from worldmodel.domains.mcp.tasks import HELD_OUT, TRAIN, generate

BARS = {"start": 1000.0, "step": 30.0}  # milliseconds, median
Times = dict[str, list[float]]


async def timed(work: Awaitable[Any], into: list[float]) -> Any:
    begun = time.perf_counter()
    result = await work
    into.append((time.perf_counter() - begun) * 1000)
    return result


async def episode(task: Task, times: Times, starts: Times, calls: Times) -> None:
    """One task, acted out as known good; raises where it does not succeed."""
    environment = McpEnvironment(task)
    try:
        await timed(environment.start(), times["start"])
        starts["+".join(task.world.state["servers"])].append(times["start"][-1])
        for text in task.reference.gold[:-1]:
            action = environment.parse(text)
            seen = await timed(environment.step(action), times["step"])
            calls[action.name].append(times["step"][-1])
            assert seen.kind is ObservationKind.OK, seen
        await environment.step(environment.parse(task.reference.gold[-1]))
        results = await timed(environment.verify(task.checks), times["verify"])
        assert all(result.passed for result in results), task.id
    finally:
        await timed(environment.close(), times["close"])


async def measure(count: int) -> tuple[Times, Times, Times, float]:
    """(times, starts, calls) in milliseconds after one cold episode, whose start comes last."""
    families = [*TRAIN, *HELD_OUT]
    times, starts, calls = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list), defaultdict(list)
    cold: Times = defaultdict(list)
    await episode(generate("train", 1, 1, ["edit_and_commit"])[0], cold, defaultdict(list), defaultdict(list))
    for task in generate("heldout", count, 0, families):
        await episode(task, times, starts, calls)
    return times, starts, calls, cold["start"][0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100)
    default = Path(__file__).parent / "results" / "mcp_latency.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    if lacking := KIT.missing():
        print(f"missing {lacking}")
        return 2
    known = facts("python bench/mcp_latency.py")
    times, starts, calls, cold = asyncio.run(measure(options.count))
    missed = [name for name, bar in BARS.items() if statistics.median(times[name]) >= bar]
    result = {
        **known,
        "episodes": options.count,
        "first_start_with_imports_and_keeper": round(cold, 2),
        "latency": summary(times),
        "start_by_servers": summary(starts),
        "step_by_tool": summary(calls),
        "bars": {**BARS, "missed": missed},
    }
    publish(result, options.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
