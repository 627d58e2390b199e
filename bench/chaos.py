"""Chaos: runs that lose a process to SIGKILL at a random moment, and what becomes of them.

    python -m bench.chaos [--runs 60] [--first 0] [--out bench/results/chaos.jsonl]

Each seed is one small run (scripted policy on Ray workers, staleness 1, one process or two under ZeRO-2) and one
victim: a rollout worker (which holds its sampler), a trainer rank, rank 0 (which holds the scheduler), Ray Train's
controller, the driver, or whoever saves, in the middle of a save. A driver that dies is started again with the same
command. A run that is over before its victim could be killed shows nothing: it is run again with an earlier moment, and
the row counts the tries. Bar: every start ends within its deadline, and in the final lineage every issued group has
exactly one fate, every asked step is trained and no group is older than the bound. Finished seeds are not run again,
but those of which nothing could be killed are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVE_STEPS, STALENESS = 12, 3, 1
DEADLINE = 300.0  # seconds for one start to end
NOTHING = "this seed shows nothing"
STARTS = 4
TRIES, EARLIER = 5, 0.75  # of a seed whose victim was gone, and what its moment is multiplied by
VICTIMS = ("worker", "rank", "scheduler", "controller", "driver", "saving")
NAMES = {"worker": "ray::RayWorker", "rank": "RayTrainWorker", "controller": "ray::TrainController"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one seed. ``moment``: share of the time that an undisturbed run takes."""

    seed: int
    processes: int
    victim: str
    moment: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """``problem`` is empty where the bar is met. ``killed``: the process that really was, or ''."""

    seed: int
    processes: int
    victim: str
    moment: float
    killed: str
    starts: int
    seconds: float
    fates: dict[str, int]
    leftovers: int
    problem: str
    tries: int = 1


def plan(seed: int) -> Plan:
    rng = random.Random(seed)
    processes = 1 if rng.random() < 0.6 else 2
    possible = VICTIMS if processes == 2 else ("worker", "driver", "saving")
    return Plan(seed, processes, rng.choice(possible), rng.uniform(0.05, 0.95))


# ------------------------------------------------------------------------------------------------ the run


def drive(run_dir: Path, processes: int) -> None:
    """One start of the run, in this process: what a user's command does."""
    from launch.cluster import ClusterSettings
    from launch.supervisor import supervise
    from tests.distributed_case import Case, Scripted, save_model, train

    model = run_dir.parent / "model"
    if not model.is_dir():  # whole or not there: what is killed may be killed while it writes it
        written = model.with_name(f"{model.name}.{os.getpid()}")
        save_model(written)
        written.rename(model)
    rollouts = Scripted(str(model), "ray", STEPS, max_staleness=STALENESS, workers=2, latency=0.05)
    case = Case(str(model), rollouts, steps=STEPS, save_steps=SAVE_STEPS)
    deepspeed = str(ROOT / "configs/deepspeed_zero2.json") if processes > 1 else None
    settings = ClusterSettings(processes, deepspeed, stuck_seconds=120.0, start_seconds=200.0)
    supervise(train, case, run_dir, settings, max_restarts=2)


def start(run_dir: Path, processes: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.chaos", "--drive", str(run_dir), "--processes", str(processes)]
    environment = {**os.environ, "WANDB_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)


# ------------------------------------------------------------------------------------------------ the killing


def strike(victim: str, driver: psutil.Process, run_dir: Path) -> str:
    """SIGKILL ``victim``, if it is there now; returns what was killed."""
    try:
        for process in find(victim, driver, run_dir)[:1]:
            name = Path(" ".join(process.cmdline()[:1]) or process.name()).name
            process.send_signal(signal.SIGKILL)
            return name
    except psutil.NoSuchProcess:  # it ended by itself meanwhile
        return ""
    return ""


def find(victim: str, driver: psutil.Process, run_dir: Path) -> list[psutil.Process]:
    if victim == "driver":
        return [driver]
    if victim in ("scheduler", "saving"):
        pids = sorted(run_dir.glob("logs/attempt_*/rank_0.pid"), key=lambda file: file.stat().st_mtime)
        running = [int(pids[-1].read_text())] if pids else []
        return [psutil.Process(pid) for pid in running if psutil.pid_exists(pid)] or [driver]
    found = []
    for child in driver.children(recursive=True):
        try:
            if NAMES[victim] in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def saving(run_dir: Path) -> bool:
    """A checkpoint's folder is there and its manifest is not."""
    return any(not (folder / "manifest.json").exists() for folder in run_dir.glob("checkpoint-*"))


def until(condition: Callable[[], bool], seconds: float, step: float = 0.002) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(step)
    return False


# ------------------------------------------------------------------------------------------------ one seed


def trial(chosen: Plan, expected: float, folder: Path) -> Verdict:
    """Run, kill once, start again until it is done, and judge."""
    run_dir, log = folder / "run", folder / "driver.log"
    began, starts, killed, problem, leftovers = time.monotonic(), 0, "", "", 0
    while starts < STARTS:
        starts += 1
        process = start(run_dir, chosen.processes, log)
        driver = psutil.Process(process.pid)
        if starts == 1:
            until(lambda p=process: p.poll() is not None, chosen.moment * expected, 0.05)
            if chosen.victim == "saving":
                until(lambda p=process: saving(run_dir) or p.poll() is not None, expected)
            family = []
            while process.poll() is None and not killed:  # a victim that is not there yet is waited for
                family = driver.children(recursive=True)
                killed = strike(chosen.victim, driver, run_dir)
                time.sleep(0.05)
        else:
            family = []
        if not until(lambda p=process: p.poll() is not None, DEADLINE, 0.05):
            problem = f"start {starts} did not end within {DEADLINE:.0f} s"
            family = driver.children(recursive=True)
            process.kill()
        leftovers += reap(family)
        if problem or process.returncode == 0:
            break
    if not problem and process.returncode != 0:
        problem = f"{starts} starts, none of them finished: {last_line(log)}"
    if not problem and not killed:
        problem = f"the run ended before a {chosen.victim} could be killed: {NOTHING}"
    counts, wrong = judge(run_dir) if not problem else ({}, problem)
    return Verdict(**asdict(chosen), killed=killed, starts=starts, seconds=round(time.monotonic() - began, 1),
                   fates=counts, leftovers=leftovers, problem=wrong)  # fmt: skip


def struck(chosen: Plan, expected: float) -> Verdict:
    """``trial``, again and earlier while nothing was killed."""
    for tries in range(1, TRIES + 1):
        with tempfile.TemporaryDirectory() as name:
            verdict = replace(trial(chosen, expected, Path(name)), tries=tries)
        if verdict.killed or verdict.starts > 1:
            break
        chosen = replace(chosen, moment=chosen.moment * EARLIER)
    return verdict


def reap(family: list[psutil.Process]) -> int:
    """How many processes of a start outlived it by ten seconds; they are ended."""
    _, alive = psutil.wait_procs(family, timeout=10.0)
    for process in alive:
        process.kill()
    return len(alive)


def judge(run_dir: Path) -> tuple[dict[str, int], str]:
    """(groups by fate, what is wrong or '')."""
    from rollout.events import GroupHanded
    from rollout.store import fates, lineage
    from tests.distributed_case import GROUPS
    from trainer.attempts import read_attempts
    from trainer.checkpoint import latest

    attempt = read_attempts(run_dir)[-1].attempt
    events = lineage(run_dir / "rollouts", attempt)
    found = fates(events)
    counts: dict[str, int] = {}
    for fate in found.values():
        for name in fate:
            counts[name] = counts.get(name, 0) + 1
    several = [group for group, fate in found.items() if len(fate) != 1]
    if several:
        return counts, f"{len(several)} groups without exactly one fate, first {several[0]}: {found[several[0]]}"
    newest = latest(run_dir)
    if newest is None or newest.manifest.step != STEPS:
        return counts, f"the last whole checkpoint is {newest.path.name if newest else 'missing'}, not {STEPS}"
    batches = STEPS  # one optimiser step a generation batch
    if counts.get("trained") != batches * GROUPS:
        return counts, f"{counts.get('trained')} groups trained, {batches * GROUPS} were asked for"
    oldest = max((event.staleness for event in events if isinstance(event, GroupHanded)), default=0)
    return counts, f"a group was {oldest} batches old" if oldest > STALENESS else ""


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def undisturbed(processes: int) -> float:
    """Seconds of a run that nobody disturbs."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        process = start(Path(name) / "run", processes, Path(name) / "driver.log")
        if process.wait(DEADLINE) != 0:
            raise SystemExit(f"the undisturbed run failed: {last_line(Path(name) / 'driver.log')}")
        return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/chaos.jsonl")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive, options.processes)
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    rows = [row for row in rows if not row["problem"].endswith(NOTHING)]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = {row["seed"] for row in rows}
    expected: dict[int, float] = {}
    for seed in range(options.first, options.first + options.runs):
        if seed in done:
            continue
        chosen = plan(seed)
        if chosen.processes not in expected:
            expected[chosen.processes] = undisturbed(chosen.processes)
        verdict = struck(chosen, expected[chosen.processes])
        with options.out.open("a") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")
        rows.append(asdict(verdict))
        print(f"seed {seed}: {chosen.victim} of {chosen.processes}, {verdict.starts} starts, "
              f"{verdict.seconds:.0f} s: {verdict.problem or 'ok'}", flush=True)  # fmt: skip
    return report(rows)


def report(rows: list[dict[str, Any]]) -> int:
    bad = [row for row in rows if row["problem"]]
    print(f"{len(rows)} runs, {len(bad)} with a problem, {sum(r['leftovers'] for r in rows)} processes left over")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
