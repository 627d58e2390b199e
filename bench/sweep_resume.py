"""A sweep that is killed half way and resumed, against one that is left alone: the bar `sweep`.

    python -m bench.sweep_resume [--trials 8] [--out bench/results/sweep_resume.json]

Each run is a whole one: TRL trains a tiny model on groups of a scripted policy in the fake world, with checkpoints and
evaluations in an ordinary run directory; two seeds a trial, ASHA, TPE, real Ray Tune. The driver gets SIGKILL when half
of the units are done. Needed afterwards: the same table to 1e-6, no unit that was done handed out again, and no run
directory started from the beginning that had a checkpoint. Takes tens of minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.sweep.ledger import LEDGER, Assigned, Reached, Session, read
from launch.sweep.table import TABLE
from tests.distributed_case import ROOT
from trainer.attempts import read_attempts

BAR = 1e-6
DEADLINE = 7200.0  # seconds, for one driver


def start(folder: Path, kind: str, trials: int, steps: int) -> subprocess.Popen[bytes]:
    """A driver in a process of its own; its output goes to ``driver.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.sweep_case", str(folder), kind, str(trials), str(steps)]
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(driver: subprocess.Popen[bytes], folder: Path, deadline: float = DEADLINE) -> None:
    """Wait for the driver. Raises RuntimeError with the end of its log unless it ends with status 0."""
    try:
        status: int | str = driver.wait(deadline)
    except subprocess.TimeoutExpired:
        driver.kill()
        status = f"not over after {deadline:.0f} s"
    if status != 0:
        raise RuntimeError(f"driver: {status}\n{(folder / 'driver.log').read_text()[-3000:]}")


def kill_after(driver: subprocess.Popen[bytes], folder: Path, done: int, deadline: float = DEADLINE) -> int:
    """SIGKILL to the driver once ``done`` units are in the ledger; how many there were then."""
    ledger, until = folder / "sweep" / LEDGER, time.monotonic() + deadline
    while (count := len(reached(ledger))) < done:
        if driver.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"driver ended before it was killed\n{(folder / 'driver.log').read_text()[-3000:]}")
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    return count


def reached(ledger: Path) -> list[Any]:
    return [event.unit for _, event in read(ledger)[0] if isinstance(event, Reached)]


def difference(left: Path, right: Path) -> float:
    """Largest absolute difference of the numbers in two tables; infinite where anything else differs."""

    def compare(a: Any, b: Any) -> float:
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return max((compare(a[key], b[key]) for key in a), default=0.0)
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            return max(map(compare, a, b), default=0.0)
        if isinstance(a, int | float) and isinstance(b, int | float):
            return abs(a - b)
        return 0.0 if a == b else float("inf")

    return compare(*(json.loads((folder / "sweep" / TABLE).read_text()) for folder in (left, right)))


def audit(folder: Path) -> dict[str, Any]:
    """What the ledger and the run directories of a resumed sweep say about work done twice."""
    done: set[Any] = set()
    again, handed, sessions = [], 0, 0
    for _, event in read(folder / "sweep" / LEDGER)[0]:
        if isinstance(event, Session):
            sessions = event.number
        elif isinstance(event, Assigned):
            handed += 1
            again += [str(event.unit)] if event.unit in done else []
        elif isinstance(event, Reached):
            done.add(event.unit)
    restarted = [
        str(run.relative_to(folder))
        for run in sorted((folder / "sweep" / "trials").glob("*/*"))
        if any(attempt.resumed_step == 0 for attempt in read_attempts(run)[1:])
    ]
    return {
        "sessions": sessions,
        "units_done": len(done),
        "units_handed_out": handed,
        "done_and_handed_out_again": again,
        "runs_begun_again": restarted,
    }


def measure(work: Path, kind: str, trials: int, steps: int) -> dict[str, Any]:
    """Both sweeps; the comparison. A run begun again is one that was killed before its first checkpoint."""
    whole, cut = work / "whole", work / "cut"
    began = time.monotonic()
    finish(start(whole, kind, trials, steps), whole)
    alone = time.monotonic() - began
    units = len(reached(whole / "sweep" / LEDGER))
    at = kill_after(start(cut, kind, trials, steps), cut, units // 2)
    finish(start(cut, kind, trials, steps), cut)
    return {
        "trials": trials,
        "seeds": 2,
        "seconds_uninterrupted": round(alone, 1),
        "killed_after_units": at,
        "largest_difference": difference(whole, cut),
        **audit(cut),
        "table": json.loads((whole / "sweep" / TABLE).read_text())["rows"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/sweep_resume.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), "train", given.trials, given.steps)
    passed = found["largest_difference"] <= BAR and not found["done_and_handed_out_again"]
    from importlib.metadata import version

    result = {
        "command": f"python -m bench.sweep_resume --trials {given.trials} --steps {given.steps}",
        "bar": BAR,
        "passed": passed,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "trl", "ray", "optuna")},
        **found,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"largest difference {found['largest_difference']:.2g}: {'passed' if passed else 'FAILED'}; {given.out}")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
