"""The bar of ZeRO-1, 2 and 3: recorded trajectories give the curve of one process, in two.

    python -m bench.zero2 [--out bench/results/zero2.json]

Runs each setting alone (in-process) and in two processes through Ray Train, at an equal global batch, fp32, and
writes curves and largest relative differences; loads each run's last checkpoint with transformers and compares its
logits with those of the model in training; then kills a rank in the middle, under each stage, and compares with the
run that was not interrupted. Takes about eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, Result, connected
from launch.supervisor import supervise
from rollout.store import fates, lineage
from tests.distributed_case import ROOT, Case, Kill, Recorded, Scripted, logits, recorded_batches, save_model, train
from trainer.checkpoint import latest

BAR = 1e-4
ONE = ClusterSettings(num_processes=1)


def two(stage: int) -> ClusterSettings:
    config = ROOT / f"configs/deepspeed_zero{stage}.json"
    return ClusterSettings(num_processes=2, deepspeed=str(config), start_seconds=1200.0)


def cases(model: str) -> dict[str, tuple[Case, tuple[int, ...]]]:
    """Setting -> the case and the ZeRO stages to try it with."""
    twice = Case(model, Recorded(recorded_batches(6)), steps=12, save_steps=4, trl={"num_iterations": 2})
    fresh = Case(model, Recorded(recorded_batches(12)), steps=12, save_steps=4)
    stale = replace(fresh, rollouts=Recorded(recorded_batches(12), fresh=False))
    return {
        "one step per batch": (fresh, (1, 2, 3)),
        "two steps per batch": (twice, (1, 2, 3)),
        "stale tokens, decoupled correction": (stale, (2,)),
    }


def largest_difference(left: Result, right: Result) -> dict[str, float]:
    """Largest |a - b| / |a| over the steps, for loss and gradient norm."""
    worst = {}
    for key in ("loss", "grad_norm"):
        pairs = zip(left["curve"], right["curve"], strict=True)
        worst[key] = max(abs(a[key] - b[key]) / max(abs(a[key]), 1e-12) for a, b in pairs)
    return worst


def exported(run_dir: Path, result: Result) -> float:
    """Largest difference between the logits of the last checkpoint, loaded by transformers, and of the model that was
    trained, relative to the largest logit."""
    from transformers import AutoModelForCausalLM

    newest = latest(run_dir)
    assert newest is not None and newest.manifest.step == len(result["curve"])
    loaded, trained = logits(AutoModelForCausalLM.from_pretrained(newest.path)), result["logits"]
    scale = max(map(abs, trained))
    return max(abs(a - b) for a, b in zip(loaded, trained, strict=True)) / scale


def equality(model: str, work: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (case, stages) in cases(model).items():
        alone = supervise(train, case, work / name / "alone", ONE)
        for stage in stages:
            begun = time.monotonic()
            pair = supervise(train, case, work / name / f"zero{stage}", two(stage), max_restarts=0)
            row = {
                "setting": name,
                "zero_stage": stage,
                "world_size": pair["world_size"],
                "largest_relative_difference": largest_difference(alone, pair)
                | {"exported_logits": exported(work / name / f"zero{stage}", pair)},
                "seconds_with_launch": round(time.monotonic() - begun, 1),
                "curve_one_process": alone["curve"],
                "curve_two_processes": pair["curve"],
            }
            print(name, f"ZeRO-{stage}", row["largest_relative_difference"])
            rows.append(row)
    return rows


def killed(model: str, work: Path) -> list[dict[str, Any]]:
    """SIGKILL a rank, let the supervisor resume, compare with the uninterrupted run."""
    base = cases(model)["two steps per batch"][0]
    plans = {
        **{
            f"recorded under ZeRO-{stage}, rank 0 killed while saving step 8": (
                base,
                base,
                stage,
                two(stage),
                Kill(0, 8, while_saving=True),
            )
            for stage in (1, 2, 3)
        },
        "scripted sampler on Ray actors, rank 1 killed after step 7": (
            replace(base, rollouts=Scripted(model, "local", 6)),
            replace(base, rollouts=Scripted(model, "ray", 6)),
            2,
            ONE,
            Kill(1, 7),
        ),
    }
    rows: list[dict[str, Any]] = []
    for name, (whole, cut, stage, reference, kill) in plans.items():
        said: list[str] = []
        run_dir = work / name.split(",")[0]
        intact = supervise(train, whole, run_dir / "intact", reference, max_restarts=0)
        resumed = supervise(
            train, replace(cut, kill=kill), run_dir / "killed", two(stage), max_restarts=1, say=said.append
        )
        row: dict[str, Any] = {
            "case": name,
            "reference": f"uninterrupted, {reference.layout}",
            "largest_relative_difference": largest_difference(intact, resumed),
            "identical": resumed["curve"] == intact["curve"],
            "resumed": said[-1].replace(str(run_dir), "."),
        }
        if (run_dir / "killed" / "rollouts").is_dir():
            found = fates(lineage(run_dir / "killed" / "rollouts", 2))
            row["groups_by_number_of_fates"] = _count([str(len(fate)) for fate in found.values()])
            row["groups_by_fate"] = _count([fate[0] for fate in found.values() if fate])
            row["same_fates_as_intact"] = found == fates(lineage(run_dir / "intact" / "rollouts", 1))
        print(name, row["largest_relative_difference"], "identical" if row["identical"] else "")
        rows.append(row)
    return rows


def _count(values: list[str]) -> Mapping[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "trl", "transformers", "deepspeed", "ray")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/zero2.json")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder, connected(None):
        work = Path(folder)
        model = save_model(work / "model")
        same, after_kill = equality(model, work), killed(model, work)
    worst = max(max(row["largest_relative_difference"].values()) for row in [*same, *after_kill])
    result = {
        "command": "python -m bench.zero2",
        "bar": BAR,
        "largest_relative_difference": worst,
        "passed": math.isfinite(worst) and worst <= BAR,
        "python": platform.python_version(),
        "versions": versions(),
        "equality": same,
        "kill_and_resume": after_kill,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"largest relative difference {worst:.2g}, bar {BAR:g}: {'passed' if result['passed'] else 'FAILED'}; {out}")
    raise SystemExit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
