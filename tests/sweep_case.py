"""A sweep that a test or a bench can start, kill and start again: runs whose success follows from the learning rate.

``light`` runs leave the files of a training run without training; ``train`` is a whole one: TRL on a tiny model,
a scripted policy in the fake world whose skill depends on learning rate, step and seed. Importable on a Ray worker.

    python -m tests.sweep_case FOLDER light|train TRIALS [STEPS]
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, Ranks, Result
from launch.config import ExperimentConfig
from launch.sweep.config import Sweep, load_sweep
from rollout.chat import ChatSpec, TokenChat
from rollout.samplers.scripted import Replies, ScriptedSampler
from rollout.seeds import derive_seed
from rollout.types import Session, Version
from tests.fakes import FakeFactory, gold_script, make_tasks, save_policy, wrong_script
from trainer.attempts import begin_attempt
from trainer.checkpoint import Layout, seal

HELDOUT = 40

EXPERIMENT = """
run_dir: unused
policy: {folder}/policy
world: real
eval_every: 1
tasks: {{train: 6, heldout: 2}}
rollout: {{slots: 8, group_size: 4, groups_per_batch: 2, max_tokens: 16, max_context: 256}}
trainer:
  max_row_length: 256
  trl: {{max_steps: {steps}, save_steps: 1, per_device_train_batch_size: 8, learning_rate: 1.0e-3, loss_type: dapo,
    report_to: none, bf16: false, disable_dropout: true}}
"""

SWEEP = """
experiment: experiment.yaml
sweep_dir: {folder}/sweep
parameters:
  trainer.trl.learning_rate: {{loguniform: [1.0e-4, 1.0e-1]}}
  trainer.trl.max_grad_norm: {{choice: [0.5, 1.0]}}
seeds: [0, 1]
budget: {{trials: {trials}}}
asha: {{grace: 1, factor: 2}}
startup: 2
parallel: 2
"""


def write_case(folder: Path, trials: int, steps: int = 2) -> Sweep:
    """The files of a sweep under ``folder``, read back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(folder=folder, steps=steps))
    (folder / "sweep.yaml").write_text(SWEEP.format(folder=folder, trials=trials))
    return load_sweep(folder / "sweep.yaml")


def skill(values: Mapping[str, Any], seed: int, step: int) -> float:
    """Chance of success: best around a learning rate of 3e-3, rising with steps, a little different for each seed."""
    away = abs(math.log10(float(values["learning_rate"]) / 3e-3))
    luck = (derive_seed("luck", seed, round(1e9 * float(values["learning_rate"]))) % 1000) / 10_000
    return min(1.0, max(0.0, 0.2 + 0.6 * (1 - 0.5**step) * (1 - away / 2) + luck))


# ------------------------------------------------------------------------------------------------ without training


def light(config: ExperimentConfig, say: Callable[[str], None], until: int) -> None:
    """Step by step as a training run leaves it: attempt, evaluation, then the sealed checkpoint."""
    run_dir = Path(config.run_dir)
    start = begin_attempt(run_dir, Layout(1, 0))
    say(str(start))
    for step in range(start.step + 1, until + 1):
        time.sleep(0.2)
        success = skill(config.trainer.trl, config.seed, step)
        _write(run_dir / "eval" / f"real-step_{step:06d}.json", success)
        with (run_dir / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, "num_tokens": 100 * step}) + "\n")
        folder = run_dir / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        seal(folder, step=step, version=Version(start.attempt, step), layout=Layout(1, 0), rollout_state={})


def _write(file: Path, success: float) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"success": {"mean": success}, "success_scored": success, "coverage": 1.0}))


# ------------------------------------------------------------------------------------------------ with training


class Learner:
    """A sampler that solves a task with the skill of the version it serves, each episode by its own coin."""

    def __init__(self, chat: TokenChat, gold: Replies, wrong: Replies, trl: Mapping[str, Any], seed: int) -> None:
        self._trl, self._seed, self._gold, self._wrong = trl, seed, gold, wrong
        self._step = 0
        self._inner = ScriptedSampler(chat, self._script, logprob=-5.5)

    async def __call__(self, *args: Any) -> Any:
        return await self._inner(*args)

    def update(self, version: Version, tensors: Mapping[str, Any]) -> Version:
        self._step = version.step
        return self._inner.update(version, tensors)

    def _script(self, context: str, session: Session) -> str:
        coin = derive_seed("coin", session.id, self._seed) % 10_000 / 10_000
        good = coin < skill(self._trl, self._seed, self._step)
        return (self._gold if good else self._wrong)(context, session)


@dataclass(frozen=True)
class LearnerSpec:
    chat: ChatSpec
    gold: Replies
    wrong: Replies
    trl: Mapping[str, Any]
    seed: int

    def __call__(self) -> Learner:
        return Learner(self.chat(), self.gold, self.wrong, self.trl, self.seed)


def train(config: ExperimentConfig, say: Callable[[str], None], until: int) -> Result:
    """``launch.train.run`` with a scripted policy in the fake world."""
    from launch.config import save_resolved
    from launch.supervisor import supervise

    save_resolved(config, config.run_dir)
    return supervise(partial(_train, until=until), config, config.run_dir, ClusterSettings(1), say=say)


def _train(ranks: Ranks, config: ExperimentConfig, until: int) -> Result:
    from launch.evaluating import EvaluatingSink
    from launch.train import decided, num_batches
    from rollout.local_pool import LocalPool
    from rollout.reward.checks import ChecksReward
    from rollout.source import RolloutSource
    from rollout.store import RolloutStore
    from rollout.worker import PoolSpec
    from trainer.saving import CheckpointCallback, StopAt, prepare_resume
    from trainer.stages import policy_rl

    tasks, chat = make_tasks(HELDOUT), ChatSpec(config.policy)
    sampler = LearnerSpec(chat, gold_script(tasks), wrong_script(tasks), config.trainer.trl, config.seed)
    pool = LocalPool(
        PoolSpec(
            num_workers=1,
            slots=config.rollout.slots,
            env_factories={"real": FakeFactory()},
            sampler_factory=sampler,
            chat_factory=chat,
            reward=ChecksReward(),
            env="real",
        )
    )
    store = RolloutStore(ranks.run_dir / "rollouts", ranks.start.attempt)
    source = RolloutSource(
        pool, tasks[: config.tasks.train], config.rollout.scheduler(num_batches(config)), store, seed=config.seed
    )
    evaluations = ranks.run_dir / "eval"
    sink = EvaluatingSink(
        source, pool, tasks, config.eval_every, evaluations, resumed_at=ranks.start.step, background=False
    )
    final = policy_rl(
        config.policy,
        chat().tokenizer,
        ranks.run_dir,
        config.trainer,
        source,
        sink,
        attempt=ranks.start.attempt,
        resume_from=ranks.start.checkpoint.path if ranks.start.checkpoint else None,
        callbacks=[
            CheckpointCallback(ranks.run_dir, ranks.start.attempt, ranks.layout, source, 2, spared=sink.spared),
            StopAt(until),
        ],
        on_ready=lambda trainer: prepare_resume(trainer, ranks.start, source) and None,
        **decided(config, ranks),
    )
    source.finish()
    pool.close()
    store.close()
    return {"final": str(final)}


def main() -> None:
    """The driver: a process of its own, so that it can be killed."""
    from launch.errors import user_errors
    from launch.sweep.run import run_sweep
    from tests import sweep_case

    folder, kind, trials, *steps = sys.argv[1:]
    sweep = write_case(Path(folder), int(trials), *map(int, steps))
    if kind == "train" and not (sweep.file.parent / "policy").exists():
        save_policy(sweep.file.parent / "policy")
    with user_errors():
        run_sweep(sweep, lambda text: print(text, flush=True), getattr(sweep_case, kind), lambda _: None)


if __name__ == "__main__":
    main()
