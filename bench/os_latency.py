"""Latency of desktops: cold start, warm start from a pool, one block with its screen, verdict.

Run on an idle machine: ``python bench/os_latency.py``. Writes bench/results/os_latency.json with the command, medians
and 95th percentiles in seconds, and the load average before the run. Exits 1 where a bar is missed: warm start at most
3 s, a step at most 0.3 s (medians; the office suite is measured beside it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worldmodel.domains.os.desktop import Desktop, Pool
from worldmodel.domains.os.install import missing
from worldmodel.domains.os.real import OsEnvironment
from worldmodel.domains.os.tasks import make

BARS = {"start": 3.0, "step": 0.3}  # seconds, median
STEPS = {
    "plain": ("pyautogui.write('ab')", "print(1)", "pyautogui.press('enter')", "click('File')"),
    "office": ("print(1)", "pyautogui.press('down')", "pyautogui.write('7')", "pyautogui.press('enter')"),
}


async def episode(kind: str, pool: Pool, times: dict[str, list[float]]) -> None:
    """One episode; what opens an application counts as a step of its own."""
    task = make("sheet_cell" if kind == "office" else "editor_append", "train", 0, len(times["start"]))
    environment = OsEnvironment(task, pool)
    begun = time.perf_counter()
    await environment.start()
    times["start"].append(time.perf_counter() - begun)
    try:
        for place, block in enumerate([task.reference.gold[0], *STEPS[kind]]):
            begun = time.perf_counter()
            await environment.step(environment.parse(block))
            times["open" if place == 0 else "step"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await environment.verify(task.checks)
        times["verify"].append(time.perf_counter() - begun)
    finally:
        await environment.close()


def cold(office: bool) -> float:
    """Seconds until a desktop that nobody prepared is there."""
    begun = time.perf_counter()
    Desktop(office).start().machine.close()
    return time.perf_counter() - begun


def measure(kind: str, count: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"start": [], "open": [], "step": [], "verify": []}
    pool = Pool()
    try:
        for _ in range(count):
            pool.wait(kind == "office", 120.0)
            asyncio.run(episode(kind, pool, times))
    finally:
        pool.close()
    found: dict[str, Any] = {"cold_start": round(cold(kind == "office"), 3)}
    for name, values in times.items():
        p95 = statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
        found[name] = {"median": round(statistics.median(values), 3), "p95": round(p95, 3), "count": len(values)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "os_latency.json")
    options = parser.parse_args()
    if lacking := missing():
        print(f"os: missing {lacking}")
        return 2
    load = round(os.getloadavg()[0], 2)
    result: dict[str, Any] = {kind: measure(kind, options.count) for kind in STEPS}
    missed = [name for name, bar in BARS.items() if result["plain"][name]["median"] > bar]
    command = " ".join(["python", "bench/os_latency.py", *sys.argv[1:]])
    result |= {"command": command, "unit": "seconds", "load_before": load, "cpus": os.cpu_count()}
    result["bars"] = {**BARS, "missed": missed}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
