"""``agentworld train``: policy RL, from one config to a trained model. Reads top to bottom.

Owns: which parts meet, and in which order. Refuses: the parts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, Ranks, Result
from launch.config import RESOLVED, ExperimentConfig, load, save_resolved
from launch.evaluating import EvaluatingSink
from launch.pools import policy_pool
from launch.served import served, vllm_options
from launch.supervisor import supervise
from launch.wandb_run import wandb_run
from launch.worlds import (
    REAL,
    SIM,
    check_domains,
    check_model_folder,
    check_sandbox,
    check_world_model,
    training_worlds,
)
from rollout.errors import ConfigError
from rollout.permuted import PermutedRewards
from rollout.types import Task
from trainer.attempts import AUTO, check_restart

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


def run(
    config: ExperimentConfig,
    say: Callable[[str], None] = print,
    resume: str = AUTO,
    until: int | None = None,
    eval_worlds: Sequence[str] | None = None,
) -> Result:
    """Train in ``config.run_dir``, or go on where an earlier call stopped; ``resume`` as in ``trainer.attempts``.
    Nothing is written before every part was seen to be there. ``until``: end, with a checkpoint, after this optimiser
    step (the end of a generation batch); a later call goes on. ``eval_worlds``: where evaluations take place; without,
    in every world of the run. Raises AgentworldError, one line: also where the run would silently start from the
    beginning."""
    check_parts(config)
    check_same_experiment(config)
    if resume == AUTO:
        check_restart(config.run_dir)
    save_resolved(config, config.run_dir)
    settings = ClusterSettings(config.processes, config.deepspeed, stuck_seconds=config.trainer.take_deadline + 900.0)
    return supervise(
        partial(train, until=until, eval_worlds=eval_worlds), config, config.run_dir, settings, say=say, resume=resume
    )


def check_parts(config: ExperimentConfig) -> None:
    """Raises AgentworldError, one line, where a part of the run is not there. Writes nothing."""
    check_model_folder(config.policy)
    vllm_options(config.trainer.trl)
    domains = {task.domain for task in training_tasks(config)}
    if config.world == "simulated":
        check_world_model(config.world_model)
    if config.world == "real" or config.eval_every or config.rollout.spot_share:
        check_sandbox()
        check_domains(domains)


def train(
    ranks: Ranks, config: ExperimentConfig, until: int | None = None, eval_worlds: Sequence[str] | None = None
) -> Result:
    """What every rank does. Rank 0 owns the rollouts: the others meet them through its broadcasts."""
    from rollout.chat import load_chat
    from trainer.metrics import EvaluationCallback
    from trainer.saving import BeatCallback, CheckpointCallback, StopAt, prepare_resume
    from trainer.stages import policy_rl
    from trainer.threads import cores_left

    with wandb_run(ranks.run_dir), rollouts(config, ranks) as source, cores_left(cores_beside(config)):
        sink = source
        if source is not None and config.eval_every:
            sink = evaluated(source, config, ranks, until is None, eval_worlds)
        batches = PermutedRewards(source, config.seed) if source and config.control == "permuted_rewards" else source
        attempt, checkpoint = ranks.start.attempt, ranks.start.checkpoint

        def ready(trainer: Any) -> None:
            prepare_resume(trainer, ranks.start, source)
            if source is not None and source.restored:
                print(f"rollouts restored: {source.restored}", flush=True)
            if isinstance(sink, EvaluatingSink):
                trainer.add_callback(EvaluationCallback(trainer, ranks.run_dir / "eval", sink.wait))

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
                CheckpointCallback(
                    ranks.run_dir,
                    attempt,
                    ranks.layout,
                    source,
                    KEEP_CHECKPOINTS,
                    spared=sink.spared if isinstance(sink, EvaluatingSink) else set,
                ),
                BeatCallback(ranks.beat),
                *([StopAt(until)] if until is not None else []),
            ],
            on_ready=ready,
            **decided(config, ranks),
        )
        if source is not None:
            source.finish()
    return {"final": str(final)}


def cores_beside(config: ExperimentConfig) -> int:
    """Cores that rollout workers keep busy while the trainer trains."""
    rollout = config.rollout
    beside = rollout.engine == "ray" and rollout.max_staleness > 0
    return rollout.workers * rollout.threads if beside else 0


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
                straggler_seconds=rollout.turn_timeout,
            )
        finally:
            store.close()


def evaluated(
    source: Any, config: ExperimentConfig, ranks: Ranks, background: bool, worlds: Sequence[str] | None = None
) -> EvaluatingSink:
    """``source`` as a weight sink that has every ``eval_every``-th version evaluated, while training goes on or before
    it does: in ``worlds``, else in the real world and, where training is simulated, on the same tasks there."""
    return EvaluatingSink(
        source,
        source.pool,
        heldout_tasks(config),
        config.eval_every,
        ranks.run_dir / "eval",
        worlds=worlds or ((REAL, SIM) if config.world == "simulated" else (REAL,)),
        resumed_at=ranks.start.step,
        background=background,
    )


def training_tasks(config: ExperimentConfig) -> list[Task]:
    """From the task file, of whatever domains its tasks name, else the terminal's generated from the seed;
    ``rollout.max_turns`` applied. Raises TaskError naming file, line and field, or the id of a task that is evaluation
    data."""
    from worldmodel.mixture import generate
    from worldmodel.tasks import load as load_tasks
    from worldmodel.trainable import check_trainable

    if config.tasks.file:
        file = Path(config.tasks.file)
        tasks = load_tasks(file)
        check_trainable(tasks, file)
        return config.rollout.capped(tasks)
    return config.rollout.capped(generate({"terminal": 1.0}, "train", config.tasks.train, config.seed))


def heldout_tasks(config: ExperimentConfig) -> list[Task]:
    """Of the domains of the training tasks, in the same proportions."""
    from worldmodel.mixture import generate, of

    return config.rollout.capped(generate(of(training_tasks(config)), "heldout", config.tasks.heldout, config.seed))


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
    trl, steps = config.trainer.trl, batch_steps(config)
    if steps < 1 or "max_steps" not in trl:
        return None
    return int(trl["max_steps"]) // steps


def batch_steps(config: ExperimentConfig) -> int:
    """Optimiser steps of one generation batch; 0 where the options contradict each other, which TRL says better."""
    trl = config.trainer.trl
    rows = config.rollout.group_size * config.rollout.groups_per_batch
    per_pass = int(trl.get("per_device_train_batch_size", 8)) * config.processes
    passes = int(trl.get("steps_per_generation", 0)) or rows // per_pass
    return passes * int(trl.get("num_iterations", 1)) // int(trl.get("gradient_accumulation_steps", 1))


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
