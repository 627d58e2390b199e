"""``agentworld quickstart``: the whole product in one command, on two cores.

Owns: the order of the stages and the final table. Every figure it prints it has just measured, or says that it is
reused. Refuses: the stages themselves (``launch.loop``).

Stages: world model (shipped, or collected and trained) -> measure it on fresh real traces -> warm start -> vet tasks
in the simulator -> policy RL in the simulator, its checkpoint chosen on validation tasks in the real world -> the
policy before and after, in the real world and in the simulator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.loop import Run
from launch.plan import FULL, SMOKE
from launch.stages import Stages, fingerprint

ARMS = ("rl", "more_sft", "permuted")


def run_quickstart(
    seed: int, smoke: bool, from_scratch: bool, run_dir: Path, arms: Sequence[str] = ARMS[:1], say: Any = print
) -> int:
    """Run what is not there yet; returns the exit status. Raises AgentworldError, one line."""
    from launch.worlds import check_sandbox

    began = time.monotonic()
    check_sandbox()
    plan = SMOKE if smoke else FULL
    mark = fingerprint(seed, from_scratch)
    run = Run(plan, seed, run_dir.resolve(), Stages(run_dir.resolve(), mark, say), say)
    world = run.world_model(from_scratch)
    fidelity = run.fidelity(world)
    warm = run.warm_start(world)
    verdicts = run.verdicts(world, warm)
    tasks, left_out = run.vetted_tasks(world, verdicts["left_out"])
    before = run.evaluation("before", warm, world)
    trained = {"rl": run.train("rl", warm, world, tasks, "none")}
    after = {"rl": run.evaluation("rl", trained["rl"].policy, world)}
    if "more_sft" in arms:
        after["more_sft"] = run.evaluation("more_sft", run.more_sft(warm, run.stages.seconds["rl"]), world)
    if "permuted" in arms:
        trained["permuted"] = run.train("permuted", warm, world, tasks, "permuted_rewards")
        after["permuted"] = run.evaluation("permuted", trained["permuted"].policy, world)
    from launch.results import finish

    minutes = sum(run.stages.seconds.values()) / 60
    words = ["agentworld quickstart", f"--seed {seed}"]
    words += [flag for flag, on in (("--smoke", smoke), ("--from-scratch", from_scratch)) if on]
    words += ["--controls"] if len(arms) > 1 else []
    finish(run, fidelity, verdicts | {"left_out": left_out}, before, after, trained, minutes, " ".join(words))
    if run.stages.reused:
        say(f"reused from an earlier call: {', '.join(run.stages.reused)}")
    say(f"this call took {(time.monotonic() - began) / 60:.1f} min; the stages took {minutes:.1f} min in all")
    return 0
