"""One policy, several domains, one simulator: real success before and after, per domain.

    python -m bench.mixed_rl --world-model FOLDER [--domains terminal,mcp,...] [--mix terminal=3] [--seed 0] [--smoke]
        [--sizes k=v,...] [--warm FOLDER] [--tasks FILE] [--train-domains terminal,...]

The stages are those of the quickstart (``launch.loop``) with ``configs/mixed.yaml``: warm start from demonstrations of
mixed quality, verdicts of the simulator on held-out endings, training tasks that hold up in it, GRPO in the simulator
alone, the checkpoint chosen on validation tasks in the real worlds, held-out tasks in the real worlds before and after.
A domain without any task that holds up is still measured. ``--warm`` and ``--tasks`` take the warm start and the
training tasks of another seed's run, which is what a machine without time shares between its seeds.
``--train-domains`` leaves the other domains out of what is simulated, GRPO and half of the evaluation: where a policy
has no success at all, every group is dropped, at the price of its episodes. Resumable: the same command goes on where
it stopped. Adds the seed to bench/results/mixed_rl.json, which pools its seeds; those of another world model are
dropped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.errors import UserError
from launch.evaluate import write_json
from launch.loop import Run, Worlds
from launch.plan import Plan
from launch.stages import Stages, fingerprint
from launch.warm import WarmRecipe
from rollout.evaluate import Evaluation, bootstrap, evaluate, paired_gain
from rollout.store import read_trajectories
from worldmodel.tasks import load, save

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/mixed_rl.json"
WARM = WarmRecipe(tokens_per_batch=4096, max_length=4096, from_world=True)
FULL = Plan(config="mixed.yaml", warm=WARM)
SMOKE = Plan(
    config="mixed.yaml", warm=dataclasses.replace(WARM, demonstrations=36), verdict_tasks=12, train_tasks=24,
    validation_tasks=6, heldout_tasks=12, family_tasks=6, rl_batches=2, rl_groups=2, transitions=24,
)  # fmt: skip


def sized(plan: Plan, sizes: str) -> Plan:
    """``plan`` with other whole numbers; ``demonstrations`` is the warm start's."""
    given = {name: int(number) for name, number in (item.split("=") for item in sizes.split(",") if item)}
    if shown := given.pop("demonstrations", 0):
        plan = dataclasses.replace(plan, warm=dataclasses.replace(plan.warm, demonstrations=shown))
    return dataclasses.replace(plan, **given)


def by_domain(worlds: Worlds) -> dict[str, Evaluation]:
    """The real evaluation, domain by domain."""
    found = list(read_trajectories(worlds.real_file))
    return {
        name: evaluate([t for t in found if t.task.domain == name]) for name in sorted({t.task.domain for t in found})
    }


def rows(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, Any]:
    made = {}
    for name, old in before.items():
        gain, first, last = paired_gain(old, after[name]), old.by_task(), after[name].by_task()
        made[name] = {
            "tasks": old.success.count, "before": old.success.mean, "after": after[name].success.mean,
            "gain": gain.mean, "low": gain.low, "high": gain.high,
            "pairs": [[first[task], last[task]] for task in first],
        }  # fmt: skip
    return made


def pooled(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every domain, and all, over the held-out tasks of all ``seeds`` (each seed has its own), which are resampled."""
    pairs: dict[str, list[list[float]]] = {}
    for found in seeds:
        for name, row in {**found["domains"], "all": found["all"]}.items():
            pairs.setdefault(name, []).extend(row["pairs"])
    made = {}
    for name, both in pairs.items():
        gain = bootstrap([new - old for old, new in both])
        made[name] = {
            "tasks": gain.count, "before": sum(old for old, _ in both) / len(both),
            "after": sum(new for _, new in both) / len(both), "gain": gain.mean, "low": gain.low, "high": gain.high,
        }  # fmt: skip
    return made


def only(tasks: Path, domains: Sequence[str], file: Path) -> Path:
    """The training tasks of ``domains``, written to ``file``; all of them where none is named."""
    if not domains:
        return tasks
    kept = [task for task in load(tasks) if task.domain in domains]
    if not kept:
        raise UserError(f"--train-domains {','.join(domains)}: {tasks} has no task of these")
    file.parent.mkdir(parents=True, exist_ok=True)
    save(kept, file)
    return file


def one_seed(
    plan: Plan,
    world: Path,
    seed: int,
    run_dir: Path,
    warm: Path | None = None,
    tasks: Path | None = None,
    domains: Sequence[str] = (),
) -> dict[str, Any]:
    given = [str(path) for path in (warm, tasks) if path]
    mark = fingerprint("mixed", seed, str(world), sorted(plan.mix.items()), *given)
    run = Run(plan, seed, run_dir, Stages(run_dir, mark, print), print)
    warm = warm or run.warm_start(world)
    verdicts, left_out = dict[str, Any](), dict[str, str]()
    if tasks is None:
        verdicts = run.verdicts(world, warm)
        tasks, left_out = run.vetted_tasks(world, verdicts["left_out"])
    tasks = only(tasks, domains, run_dir / "rl_tasks.jsonl")
    before = run.evaluation("before", warm, world, domains)
    trained = run.train("rl", warm, world, tasks, "none")
    after = run.evaluation("rl", trained.policy, world, domains)
    used = [json.loads(line)["domain"] for line in tasks.read_text().splitlines()]
    return {
        "domains": rows(by_domain(before), by_domain(after)),
        "all": rows({"all": before.real}, {"all": after.real})["all"],
        "simulated": {
            "domains": list(domains or plan.mix),
            "tasks": before.sim.success.count,
            "before": before.sim.success.mean,
            "after": after.sim.success.mean,
        },
        "training_tasks": {name: used.count(name) for name in plan.mix},
        "left_out": dict(verdicts.get("left_out", {})) | left_out,
        "verdicts": verdicts.get("overall"),
        "chosen_step": trained.step,
        "validation": dict(trained.validation),
        "seconds": run.stages.seconds,
        "sizes": {name: value for name, value in dataclasses.asdict(plan).items() if isinstance(value, int)},
        "mix": dict(plan.mix),
        "demonstrations": plan.warm.demonstrations,
    }


def earlier(file: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds in ``file`` that were run in the same world model."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    return dict(kept["seeds"]) if kept.get("world_model") == made else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-model", type=Path, required=True)
    parser.add_argument("--domains", default="all")
    parser.add_argument("--mix", default="", help="weights of the domains, such as terminal=3; 1 where not named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--sizes", default="", help="other sizes of the plan, such as rl_batches=12,demonstrations=600")
    parser.add_argument("--warm", type=Path, default=None, help="a policy to begin with")
    parser.add_argument("--tasks", type=Path, default=None, help="training tasks, vetted before")
    parser.add_argument("--train-domains", default="", help="simulate these alone")
    parser.add_argument("--run-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    from worldmodel.mixture import parse

    plan = sized(SMOKE if options.smoke else FULL, options.sizes)
    plan = dataclasses.replace(plan, mix=parse(options.domains, options.mix))
    run_dir = (options.run_dir or ROOT / f"runs/mixed/seed{options.seed}").resolve()
    warm, tasks = (path and path.resolve() for path in (options.warm, options.tasks))
    for name, path in (("--warm", warm), ("--tasks", tasks)):
        if path and not path.exists():
            parser.error(f"{name} {path}: there is nothing")
    made = json.loads((options.world_model / "made.json").read_text())
    chosen = [name for name in options.train_domains.split(",") if name]
    found = one_seed(plan, options.world_model.resolve(), options.seed, run_dir, warm, tasks, chosen)
    kept = earlier(options.out, made)
    kept[str(options.seed)] = found | {"command": " ".join(["python -m bench.mixed_rl", *sys.argv[1:]])}
    write_json(options.out, {"world_model": made, "pooled": pooled(list(kept.values())), "seeds": kept})
    for name, row in {**found["domains"], "all": found["all"]}.items():
        gain = f"{row['gain']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
        print(f"{name}: {row['before']:.1%} -> {row['after']:.1%}, {gain}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
