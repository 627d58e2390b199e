"""Latency of the web domain: start of an episode and one step, warm and cold.

Run on an idle machine: ``python bench/web_latency.py``. Warm: the process's Chromium runs already, each episode has a
new context on a new site. Cold: the first episode of a process, which starts box, driver and Chromium. Writes
bench/results/web_latency.json and exits 1 where a bar is missed: start 400 ms, step 100 ms (medians).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worldmodel.domains.web import browser
from worldmodel.domains.web.grammar import parse
from worldmodel.domains.web.kit import KIT
from worldmodel.domains.web.real import WebEnvironment
from worldmodel.domains.web.tasks import generate

BARS = {"start": 400.0, "step": 100.0}  # milliseconds, median


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = await work
    return (time.perf_counter() - begun) * 1000, result


async def measure(count: int) -> tuple[float, dict[str, list[float]], int]:
    """Cold start, milliseconds per operation over ``count`` warm episodes of gold behaviour, episodes that passed."""
    times: dict[str, list[float]] = defaultdict(list)
    tasks = generate("heldout", count + 1, 0)
    cold, passed = 0.0, 0
    for number, task in enumerate(tasks):
        environment = WebEnvironment(task)
        start, _ = await timed(environment.start())
        cold, warm = (start, False) if number == 0 else (cold, True)
        if warm:
            times["start"].append(start)
        for text in task.reference.gold[:-1]:
            action = parse(text)
            spent, _ = await timed(environment.step(action))
            if warm:
                times["step"].append(spent)
                times[f"step {action.name}"].append(spent)
        await environment.step(parse(task.reference.gold[-1]))
        spent, results = await timed(environment.verify(task.checks))
        if warm:
            times["verify"].append(spent)
            passed += all(result.passed for result in results)
        await environment.close()
    await browser.on_thread(browser.stop)
    return cold, times, passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "web_latency.json")
    options = parser.parse_args()
    if lacking := KIT.missing():
        print(f"web: missing {lacking}")
        return 2
    load = os.getloadavg()[0]
    cold, times, passed = asyncio.run(measure(options.count))
    result = {
        "command": " ".join(["python", "bench/web_latency.py", *sys.argv[1:]]),
        "episodes": options.count,
        "gold_passed": passed,
        "unit": "milliseconds",
        "load_before": round(load, 2),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "cold_start": round(cold, 1),
        "latency": {
            name: {
                "n": len(values),
                "median": round(statistics.median(values), 1),
                "p95": round(statistics.quantiles(values, n=20)[-1], 1) if len(values) > 1 else None,
            }
            for name, values in times.items()
        },
    }
    missed = [name for name, bar in BARS.items() if statistics.median(times[name]) > bar]
    result["bars"] = {**BARS, "missed": missed}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
