"""``agentworld train``: policy RL, from one config to a trained model. Reads top to bottom.

Owns: which parts meet, and in which order. Refuses: the parts themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, Ranks, Result
from launch.config import RESOLVED, ExperimentConfig, load, save_resolved
from launch.evaluate import EvaluatingSink
from launch.pools import policy_pool
from launch.served import served, vllm_options
from launch.supervisor import supervise
from launch.worlds import REAL, SIM, check_model_folder, check_sandbox, check_world_model, training_worlds
from rollout.errors import ConfigError
from rollout.permuted import PermutedRewards
from rollout.types import Task

KEEP_CHECKPOINTS = 2
_DECIDES = (
    "seed",
    "policy",
    "world",
    "control",
    "tasks",
    "world_model",
    "rollout.group_size",
    "rollout.groups_per_batch",
)


def run(config: ExperimentConfig, say: Callable[[str], None] = print) -> Result:
    """Train in ``config.run_dir``, or go on where an earlier call stopped. Nothing is written before every part was
    seen to be there. Raises AgentworldError, one line."""
    check_model_folder(config.policy)
    vllm_options(config.trainer.trl)
    training_tasks(config)
    if config.world == "simulated":
        check_world_model(config.world_model)
    check_sandbox()
    check_same_experiment(config)
    save_resolved(config, config.run_dir)
    settings = ClusterSettings(config.processes, config.deepspeed, stuck_seconds=config.trainer.take_deadline + 900.0)
    return supervise(train, config, config.run_dir, settings, say=say)


def train(ranks: Ranks, config: ExperimentConfig) -> Result:
    """What every rank does. Rank 0 owns the rollouts: the others meet them through its broadcasts."""
    from rollout.chat import load_chat
    from trainer.saving import BeatCallback, CheckpointCallback, prepare_resume
    from trainer.stages import policy_rl

    os.environ.setdefault("WANDB_DIR", str(ranks.run_dir))
    with rollouts(config, ranks) as source:
        sink = evaluated(source, config, ranks) if source is not None and config.eval_every else source
        batches = PermutedRewards(source, config.seed) if source and config.control == "permuted_rewards" else source
        attempt, checkpoint = ranks.start.attempt, ranks.start.checkpoint

        def ready(trainer: Any) -> None:
            prepare_resume(trainer, ranks.start, source)

        final = policy_rl(
            config.policy,
            load_chat(config.policy).tokenizer,
            ranks.run_dir,
            config.trainer,
            batches,
            sink,
            attempt=attempt,
            world_size=ranks.layout.world_size,
            resume_from=checkpoint.path if checkpoint else None,
            callbacks=[
                CheckpointCallback(ranks.run_dir, attempt, ranks.layout, source, KEEP_CHECKPOINTS),
                BeatCallback(ranks.beat),
            ],
            on_ready=ready,
            **decided(config, ranks),
        )
        if source is not None:
            source.finish()
    return {"final": str(final)}


@contextmanager
def rollouts(config: ExperimentConfig, ranks: Ranks) -> Iterator[Any]:
    """Rank 0's batch source over a pool of workers; None on the other ranks."""
    if ranks.rank != 0:
        yield None
        return
    from rollout.source import RolloutSource
    from rollout.store import RolloutStore

    rollout = config.rollout
    simulated = config.world == "simulated"
    worlds = training_worlds(config.world_model if simulated else None)
    store = RolloutStore(ranks.run_dir / "rollouts", ranks.start.attempt)
    with (
        served(config, ranks.run_dir) as servers,
        policy_pool(config.policy, worlds, rollout, SIM if simulated else REAL, servers) as pool,
    ):
        try:
            yield RolloutSource(
                pool,
                training_tasks(config),
                rollout.scheduler(num_batches(config)),
                store,
                seed=config.seed,
                spot=rollout.spot if simulated else None,
            )
        finally:
            store.close()


def evaluated(source: Any, config: ExperimentConfig, ranks: Ranks) -> Any:
    """``source`` as a weight sink that evaluates every ``eval_every``-th version before it goes on."""
    from worldmodel.domains.terminal.tasks import generate

    tasks = generate("heldout", config.tasks.heldout, config.seed)
    return EvaluatingSink(source, source.pool, tasks, config.eval_every, ranks.run_dir / "eval", REAL)


def training_tasks(config: ExperimentConfig) -> list[Task]:
    """From the task file, else generated from the seed. Raises TaskError naming file, line and field."""
    from worldmodel.domains.terminal.tasks import generate
    from worldmodel.domains.terminal.tasks import load as load_tasks

    if config.tasks.file:
        return load_tasks(Path(config.tasks.file))
    return generate("train", config.tasks.train, config.seed)


def decided(config: ExperimentConfig, ranks: Ranks) -> dict[str, Any]:
    """Options of GRPOConfig that follow from other sections."""
    rollout, trl = config.rollout, config.trainer.trl
    fixed: dict[str, Any] = {
        "num_generations": rollout.group_size,
        "temperature": rollout.temperature,
        "seed": config.seed,
    }
    if "steps_per_generation" not in trl:  # TRL takes one of the two
        fixed["generation_batch_size"] = rollout.group_size * rollout.groups_per_batch
    return fixed | ({"deepspeed": ranks.deepspeed} if ranks.deepspeed else {})


def num_batches(config: ExperimentConfig) -> int | None:
    """Generation batches of the whole run, where the options say: the scheduler issues no group beyond them."""
    trl = config.trainer.trl
    rows = config.rollout.group_size * config.rollout.groups_per_batch
    per_pass = int(trl.get("per_device_train_batch_size", 8)) * config.processes
    passes = int(trl.get("steps_per_generation", 0)) or rows // per_pass
    steps = passes * int(trl.get("num_iterations", 1)) // int(trl.get("gradient_accumulation_steps", 1))
    if steps < 1 or "max_steps" not in trl:
        return None
    return int(trl["max_steps"]) // steps


def check_same_experiment(config: ExperimentConfig) -> None:
    """Raises ConfigError where ``run_dir`` holds a run that a continuation would silently turn into another one."""
    before = Path(config.run_dir) / RESOLVED
    if not before.exists():
        return
    earlier = load(before)
    for key in _DECIDES:
        old, new = earlier, config
        for part in key.split("."):
            old, new = getattr(old, part), getattr(new, part)
        if old != new:
            raise ConfigError(
                f"{config.run_dir} holds a run with another '{key}': choose another run_dir, or restore the value"
            )
