"""What the verdicts of a world model are worth, domain by domain: known endings of held-out tasks in both worlds.

    python -m bench.verdicts MODEL [--domains terminal,mcp,...] [--tasks 60] [--samples 3] [--seed 5] [--out FILE]

Every task is acted out with its gold solution, each wrong one, nothing at all, and a near miss of gold. ``predicted``
is about the families whose verdicts rest on predicted replies; the rest are those that the policy's own words decide.
A domain whose checks need execution (swe) has no simulated verdicts to measure. Each domain is written as soon as it
is there; those of other weights are dropped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from launch.evaluate import write_json
from launch.pools import bearable, replay_pool
from launch.vet import Solution, endings, own_words, slips, solutions
from launch.worlds import training_worlds, world_model_config
from worldmodel.config import WorldModelConfig
from worldmodel.mixture import generate
from worldmodel.vetting import verdict_quality, vet

RESULTS = Path(__file__).resolve().parents[1] / "bench/results/verdicts.json"
DOMAINS = "terminal,mcp,web,android,os,search"
WORKERS = 2  # each has a world model and reads several episodes at once


def measured(config: WorldModelConfig, domain: str, count: int, seed: int) -> dict[str, Any]:
    tasks = generate({domain: 1.0}, "heldout", count, seed)
    chosen: list[Solution] = [*solutions(tasks), *((task, "policy", slips(task, seed)) for task in tasks)]
    begun = time.monotonic()
    worlds = training_worlds(config)
    slots = bearable([domain], 32)
    with replay_pool(worlds, WORKERS, slots) as reality, replay_pool(worlds, WORKERS, 32) as pool:
        found, lost = endings(pool, chosen, seed, reality)
    vetting, own = vet(found), {task.id for task in tasks if own_words(task, ()) is not None}
    families = {name: dataclasses.asdict(quality) for name, quality in vetting.families.items()}
    return {
        "tasks": len(tasks), "lost": lost, "seconds": time.monotonic() - begun,
        "overall": dataclasses.asdict(vetting.overall),
        "predicted": dataclasses.asdict(verdict_quality(e for e in found if e.task_id not in own)),
        "usable": len(vetting.usable), "rejected": dict(Counter(vetting.rejected.values()).most_common()),
        "left_out": dict(vetting.left_out), "families": families,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--domains", default=DOMAINS)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--samples", type=int, default=3, help="predictions of each probe")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    o = parser.parse_args()
    config = world_model_config(str(o.model)).model_copy(update={"verdict_samples": o.samples})
    made = json.loads((o.model / "made.json").read_text())
    kept = json.loads(o.out.read_text()) if o.out.exists() else {}
    if kept.get("made") != made:
        kept = {"made": made, "domains": {}}
    for domain in o.domains.split(","):
        found = measured(config, domain, o.tasks, o.seed)
        found["command"] = " ".join(["python -m bench.verdicts", *sys.argv[1:]])
        kept["domains"][domain] = found
        write_json(o.out, kept)
        print(domain, {**found["overall"], "usable": found["usable"]}, flush=True)


if __name__ == "__main__":
    main()
