"""One small training run that a test, a bench or a Ray Train rank can start: recorded or scripted rollouts.

Importable by name on a worker, cheaply: heavy packages are imported inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from launch.cluster import Ranks, Result
from rollout.chat import ChatSpec
from rollout.samplers.scripted import Replies, ScriptedSamplerSpec
from rollout.scheduler import SchedulerSettings
from rollout.seeds import derive_seed
from rollout.source import RolloutSource
from rollout.store import RolloutStore
from rollout.types import (
    Action,
    Batch,
    Completion,
    Finish,
    Group,
    Observation,
    Prompt,
    Score,
    Session,
    Stop,
    Trajectory,
    Turn,
    Version,
)
from rollout.worker import PoolSpec
from tests.fakes import FakeFactory, Faults, gold_script, make_task, make_tasks, save_tokenizer, wrong_script

ROOT = Path(__file__).resolve().parents[1]
VOCAB = 261
GROUPS, MEMBERS = 2, 4


@dataclass(frozen=True)
class Kill:
    """SIGKILL ``rank`` in attempt 1 after optimiser step ``step``: before anything of it is saved, or, with
    ``while_saving``, when the Trainer has filled the checkpoint's folder and its manifest is not yet there."""

    rank: int
    step: int
    while_saving: bool = False


class Rollouts(Protocol):
    """Picklable; called on rank 0. The source is its own weight sink; the second value is called when training ends.
    ``beside``: cores that workers keep busy while the trainer trains."""

    @property
    def beside(self) -> int: ...

    def __call__(self, ranks: Ranks) -> tuple[Any, Callable[[], None]]: ...


@dataclass(frozen=True)
class Recorded:
    """``fresh`` False leaves the trajectories at the version they were recorded at, so that every step after the
    first corrects for stale tokens."""

    batches: tuple[Batch, ...]
    fresh: bool = True

    @property
    def beside(self) -> int:
        return 0

    def __call__(self, ranks: Ranks) -> tuple[Any, Callable[[], None]]:
        from trainer.recorded import RecordedSource

        return RecordedSource(self.batches, fresh=self.fresh), lambda: None


@dataclass(frozen=True)
class Coin:
    """A script that solves or fails its task by a coin that belongs to the episode."""

    gold: Replies
    wrong: Replies

    def __call__(self, context: str, session: Session) -> str:
        return (self.gold if derive_seed("coin", session.id) % 2 else self.wrong)(context, session)


@dataclass(frozen=True)
class Scripted:
    """The whole rollout side with a scripted policy in a fake world; ``engine`` local or ray. ``latency``: seconds of
    each step of the world."""

    model: str
    engine: Literal["local", "ray"]
    total_batches: int
    max_staleness: int = 0
    workers: int = 1
    latency: float = 0.0

    @property
    def beside(self) -> int:
        return self.workers if self.engine == "ray" and self.max_staleness else 0

    def __call__(self, ranks: Ranks) -> tuple[Any, Callable[[], None]]:
        from rollout.local_pool import LocalPool
        from rollout.ray_pool import RayPool
        from rollout.reward.checks import ChecksReward

        tasks, chat = make_tasks(6), ChatSpec(self.model)
        slow = Faults(hangs=dict.fromkeys(range(4), self.latency)) if self.latency else Faults()
        spec = PoolSpec(
            num_workers=self.workers,
            slots=4,
            env_factories={"sim": FakeFactory({task.id: slow for task in tasks})},
            sampler_factory=ScriptedSamplerSpec(chat, Coin(gold_script(tasks), wrong_script(tasks)), logprob=-5.5),
            chat_factory=chat,
            reward=ChecksReward(),
            start_timeout=600.0,  # a busy machine
        )
        pool = RayPool(spec) if self.engine == "ray" else LocalPool(spec)
        settings = SchedulerSettings(
            group_size=MEMBERS,
            groups_per_batch=GROUPS,
            max_staleness=self.max_staleness,
            max_filtered=4,
            total_batches=self.total_batches,
        )
        store = RolloutStore(ranks.run_dir / "rollouts", ranks.start.attempt)
        source = RolloutSource(pool, tasks, settings, store, seed=0)

        def finish() -> None:
            source.finish()
            pool.close()
            store.close()

        return source, finish


@dataclass(frozen=True)
class Case:
    """What to train on what. ``trl`` adds to the options of ``train``."""

    model: str
    rollouts: Rollouts
    steps: int
    save_steps: int
    kill: Kill | None = None
    trl: Mapping[str, Any] = field(default_factory=dict)
    credit: str = "trajectory"


def recorded_batches(count: int, seed: int = 0) -> tuple[Batch, ...]:
    """Two-turn trajectories of random ids and lengths; every third batch has an unscorable member."""
    rng, version = random.Random(seed), Version(0, 0)
    return tuple(
        Batch(
            step=step,
            groups=tuple(_group(f"s{step}g{g}", rng, step % 3 == 2 and g == 0, version) for g in range(GROUPS)),
            version=version,
        )
        for step in range(count)
    )


def _group(name: str, rng: random.Random, unscorable: bool, version: Version) -> Group:
    rewards: list[float | None] = [1.0, 0.0, rng.choice([0.0, 1.0]), rng.choice([0.25, 0.5])]
    if unscorable:
        rewards[1] = None
    prompt = _ids(rng, 6, 14)
    members = tuple(_trajectory(name, m, prompt, reward, rng, version) for m, reward in enumerate(rewards))
    return Group(id=name, task_id="t0", members=members)


def _trajectory(
    group: str, member: int, prompt: tuple[int, ...], reward: float | None, rng: random.Random, version: Version
) -> Trajectory:
    turns = tuple(_turn(prompt if k == 0 else _ids(rng, 2, 7), _ids(rng, 3, 12), rng, version) for k in range(2))
    return Trajectory(
        task=make_task(),
        group=group,
        member=member,
        prompt=Prompt(()),
        turns=turns,
        stop=Stop.DONE,
        score=Score(reward),
    )


def _turn(context: tuple[int, ...], ids: tuple[int, ...], rng: random.Random, version: Version) -> Turn:
    logprobs = tuple(-rng.uniform(4.5, 6.5) for _ in ids)  # near those of a fresh model: log(261) = 5.6
    completion = Completion(ids, logprobs, "", Finish.STOP, (version,) * len(ids))
    return Turn(context, completion, Action(""), Observation(""))


def _ids(rng: random.Random, low: int, high: int) -> tuple[int, ...]:
    return tuple(rng.randrange(5, VOCAB) for _ in range(rng.randint(low, high)))


def save_model(path: Path) -> str:
    """A Qwen3 of about 50k parameters with its tokenizer, in HF layout."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=VOCAB,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=12,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=None,
            )
        )
    save_tokenizer(path)
    model.float().save_pretrained(str(path))
    return str(path)


def train(ranks: Ranks, case: Case) -> Result:
    """The composition root of these tests: what ``launch`` does, with recorded or scripted rollouts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.distributed_callbacks import Digests, Killer
    from trainer.config import TrainerConfig, build_grpo_config
    from trainer.grpo import WorldModelGRPOTrainer
    from trainer.metrics import MetricsCallback
    from trainer.options import LORA
    from trainer.saving import BeatCallback, CheckpointCallback, assert_world_size, prepare_resume
    from trainer.stages import save_plain
    from trainer.threads import cores_left

    rows = GROUPS * MEMBERS
    options = {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.5,
        "loss_type": "dapo",
        "num_generations": MEMBERS,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "per_device_train_batch_size": rows // 2 // ranks.layout.world_size,
        "disable_dropout": True,
        "bf16": False,
        "max_steps": case.steps,
        "save_steps": case.save_steps,
        "seed": 0,
        **case.trl,
    }
    adapter = {name: options.pop(name) for name in LORA & options.keys()}
    config = TrainerConfig(max_row_length=256, trl=adapter, credit=case.credit)
    fixed = {"deepspeed": ranks.deepspeed} if ranks.deepspeed else {}
    args = build_grpo_config(config, ranks.run_dir, **options, **fixed)
    assert_world_size(ranks.layout.world_size, trainer_says=args.world_size)
    source, finish = case.rollouts(ranks) if ranks.rank == 0 else (None, lambda: None)
    trainer = WorldModelGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(case.model),
        args,
        source,
        source,
        AutoTokenizer.from_pretrained(case.model),
        config,
        attempt=ranks.start.attempt,
        callbacks=[
            Killer(ranks, case.kill),
            CheckpointCallback(ranks.run_dir, ranks.start.attempt, ranks.layout, source, keep=2),
            Digests(ranks),
            MetricsCallback(ranks.run_dir / "metrics.jsonl", ranks.start.attempt),
            BeatCallback(ranks.beat),
        ],
    )
    with cores_left(case.rollouts.beside):
        trainer.train(resume_from_checkpoint=prepare_resume(trainer, ranks.start, source))
    finish()
    if adapter:
        save_plain(trainer, ranks.run_dir / "final")
    return {
        "world_size": args.world_size,
        "logits": logits(trainer.model),
        "curve": [
            {"step": row["step"], "loss": row["loss"], "grad_norm": row["grad_norm"]}
            for row in trainer.state.log_history
            if "loss" in row
        ],
    }


def logits(model: Any) -> list[float]:
    """(V,) of ``model`` for the token after ids 5 to 14. Every rank calls it: ZeRO-3 gathers the weights."""
    import torch

    model.eval()
    with torch.no_grad():
        device = next(model.parameters()).device
        found: list[float] = (
            model(input_ids=torch.arange(5, 15, device=device)[None], use_cache=False).logits[0, -1].float().tolist()
        )
    return found
