"""Latency of throw-away machines: start, one plain command, one probe box, close; and transitions per second.

Run on an idle machine: ``python bench/sandbox_latency.py``. Writes bench/results/sandbox_latency.json with the
command, medians and 95th percentiles in milliseconds, and the load average before the run. Exits 1 where a bar is
missed: start under 150 ms, a plain command under 10 ms (medians of 100).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.latency import facts, publish, summary
from worldmodel.sandbox import Machine

STATE = {"files": {"a.txt": "b\na\nc\n", "notes/todo.txt": "milk\n"}, "dirs": ["out"], "modes": {"a.txt": "644"}}
COMMANDS = ("cat a.txt", "sort a.txt > b.txt", "cat b.txt", "grep -c a a.txt", "ls")
BARS = {"start": 150.0, "command": 10.0}  # milliseconds, median


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def measure(count: int) -> dict[str, list[float]]:
    """Milliseconds per operation; one machine per round."""
    times: dict[str, list[float]] = {"start": [], "command": [], "probe": [], "close": []}
    for _ in range(count):
        machine = Machine(STATE)
        times["start"].append(timed(machine.start))
        times["command"].append(timed(lambda machine=machine: machine.run("cat a.txt")))  # type: ignore[misc]
        times["probe"].append(timed(lambda machine=machine: machine.probe(["cat a.txt"])))  # type: ignore[misc]
        times["close"].append(timed(machine.close))
    return times


def transitions_per_second(episodes: int) -> float:
    """One process, episodes of five commands and three probes: what trace collection does."""
    begun = time.perf_counter()
    for _ in range(episodes):
        with Machine(STATE) as machine:
            for command in COMMANDS:
                machine.run(command)
            machine.probe(["cat b.txt", "cat a.txt", "ls"])
    return episodes * 8 / (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100)
    default = Path(__file__).parent / "results" / "sandbox_latency.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    known = facts("python bench/sandbox_latency.py")
    keeper = timed(lambda: Machine(STATE).__enter__().close())  # the first machine also starts the keeper
    times = measure(options.count)
    result = {
        **known,
        "count": options.count,
        "root": os.getuid() == 0,
        "first_machine_with_keeper": round(keeper, 2),
        "latency": summary(times),
        "transitions_per_second_one_process": round(transitions_per_second(max(1, options.count // 4)), 1),
    }
    missed = [name for name, bar in BARS.items() if statistics.median(times[name]) >= bar]
    result["bars"] = {**BARS, "missed": missed}
    publish(result, options.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
