"""Does anything wait that need not? Episodes beside each other, and rollouts beside training.

    python -m bench.overlap [--out bench/results/overlap.json]

``slots``: a world that takes 0.2 s a step and a probe, episodes of four turns, scripted policy in the worker.
Throughput of 16 slots over 16 times that of one slot, for 1 actor of 16 slots, 2 of 8 and 16 of 1; each slot has at
least 20 episodes after a warm-up wave. Bar: 0.8.

``trainer``: rollouts of a batch sleep for as long as a training step takes, staleness 1, 50 steps. Bar: the trainer
waits for at most 20 % of the wall.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, connected
from launch.supervisor import supervise
from rollout.ray_pool import RayPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSamplerSpec
from rollout.types import Session
from rollout.worker import PoolSpec
from tests.distributed_case import ROOT, Case, Recorded, Scripted, recorded_batches, save_model, train
from tests.fakes import FakeFactory, Faults, make_tasks, save_tokenizer

LATENCY, TURNS, WAVES = 0.2, 4, 20
SHAPES = ((1, 16), (2, 8), (16, 1))  # actors, slots each
STEPS = 50


def look(context: str, session: Session) -> str:
    """The same harmless command every turn."""
    return "get a"


def episodes_per_second(actors: int, slots: int, folder: Path) -> float:
    """Episodes a second over ``WAVES`` waves, after one wave of warm-up."""
    slow = Faults(hangs={**dict.fromkeys(range(TURNS), LATENCY), "verify": LATENCY})
    size = actors * slots
    tasks = make_tasks(size * WAVES, max_turns=TURNS)
    chat = save_tokenizer(folder)
    worlds = {"sim": FakeFactory({task.id: slow for task in tasks})}
    spec = PoolSpec(actors, slots, worlds, ScriptedSamplerSpec(chat, look), chat, ChecksReward(), start_timeout=300.0)
    with RayPool(spec) as pool:
        pool.run_tasks(tasks[:size])
        began = time.perf_counter()
        found = pool.run_tasks(tasks)
        seconds = time.perf_counter() - began
    if any(len(trajectory.turns) != TURNS for trajectory in found):
        raise SystemExit("an episode ended early: the measurement means nothing")
    return len(found) / seconds


def slots_side_by_side(folder: Path) -> dict[str, Any]:
    alone = episodes_per_second(1, 1, folder)
    rows = {f"{a}x{s}": episodes_per_second(a, s, folder) / (16 * alone) for a, s in SHAPES}
    return {"alone_episodes_per_s": round(alone, 3), "efficiency": {k: round(v, 3) for k, v in rows.items()}}


def trainer_waits(folder: Path) -> dict[str, Any]:
    """Share of the wall that the trainer waits when a batch of rollouts takes as long as a training step."""
    model = save_model(folder / "model")
    one = ClusterSettings(num_processes=1)
    recorded = Case(model, Recorded(recorded_batches(20)), steps=20, save_steps=1000)
    supervise(train, recorded, folder / "recorded", one, say=lambda _: None)
    step = statistics.median(intervals(folder / "recorded"))
    # 8 episodes of a batch in 8 slots, at most two turns each: one after the other, the turns last as long as a step
    rollouts = Scripted(model, "ray", STEPS, max_staleness=1, workers=2, latency=step / 2)
    asynchronous = Case(model, rollouts, steps=STEPS, save_steps=1000)
    supervise(train, asynchronous, folder / "run", one, say=lambda _: None)
    rows = metrics(folder / "run")
    waited = [row["perf/rollout_wait_s"] for row in rows if "perf/rollout_wait_s" in row][1:]  # the first one is empty
    wall = sum(intervals(folder / "run"))
    return {
        "step_s": round(step, 3),
        "steps": len(waited),
        "waited_s": round(sum(waited), 2),
        "wall_s": round(wall, 2),
        "share": round(sum(waited) / wall, 3),
    }


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def intervals(run_dir: Path) -> list[float]:
    """Seconds between optimiser steps."""
    times = [row["time"] for row in metrics(run_dir) if "loss" in row]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/overlap.json")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with tempfile.TemporaryDirectory() as name, connected(None):
        folder = Path(name)
        result = {
            "command": "python -m bench.overlap",
            "latency_s": LATENCY,
            "turns": TURNS,
            "waves": WAVES,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "load_average_1m": round(os.getloadavg()[0], 1),
            "slots": slots_side_by_side(folder / "chat"),
            "trainer": trainer_waits(folder),
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
