"""Small parts for the trainer's tests: a random model, a word tokenizer, recorded batches, a source and a sink."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.types import (
    Action,
    Batch,
    Completion,
    Failure,
    Finish,
    Group,
    Message,
    Observation,
    Prompt,
    Reference,
    Sampling,
    Score,
    Stop,
    Task,
    Trajectory,
    Turn,
    Version,
    World,
)
from trainer.config import TrainerConfig, build_grpo_config

VOCAB, PAD, EOS = 40, 38, 39
TASK = Task("toy", "toy", "toy", "train", "do it", World(), (), Reference(), 3, 0)
Turns = list[tuple[list[int], list[int]]]  # (new context ids, sampled ids) per turn


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<pad>": PAD, "<eos>": EOS}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def tiny_model(seed: int = 0) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def trajectory(
    turns: Turns,
    reward: float | None,
    *,
    group: str = "g0",
    member: int = 0,
    version: Version | None = None,
    logprob: float | None = -1.0,
    temperature: float = 1.0,
) -> Trajectory:
    """``logprob`` None: the sampler reported none."""
    version = version or Version(0, 0)
    made = []
    for context, ids in turns:
        logprobs = () if logprob is None else (logprob,) * len(ids)
        done = Completion(tuple(ids), logprobs, "text", Finish.STOP, (version,) * len(ids))
        made.append(Turn(tuple(context), done, Action("text"), Observation("seen")))
    stop = Stop.WORLD_ERROR if reward is None else Stop.DONE
    return Trajectory(
        TASK,
        group,
        member,
        Prompt((Message("user", "do it"),)),
        tuple(made),
        stop,
        Score(reward),
        sampling=Sampling(temperature=temperature),
    )


def random_turns(rng: random.Random) -> Turns:
    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(VOCAB - 2) for _ in range(rng.randint(low, high))]

    turns = [(ids(1, 5), ids(1, 4)) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        turns[-1][1].append(EOS)
    return turns


def random_batch(
    step: int,
    *,
    groups: int = 2,
    size: int = 4,
    seed: int = 0,
    version: Version | None = None,
    unscored: int = 0,
    **kwargs: Any,
) -> Batch:
    """Whole groups with varied rewards; the last ``unscored`` members of each group have no score."""
    rng = random.Random(f"{seed}-{step}")
    made = []
    for g in range(groups):
        name = f"s{step}g{g}"
        members = []
        for m in range(size):
            reward = None if m >= size - unscored else float(rng.randrange(4)) / 2 + 0.1 * m
            members.append(
                trajectory(random_turns(rng), reward, group=name, member=m, version=version, **kwargs),
            )
        made.append(Group(name, TASK.id, tuple(members)))
    return Batch(step, tuple(made), version or Version(0, 0), {"rollout/toy": 1.0})


@dataclass
class ToySource:
    """Serves recorded batches by step; remembers what was settled."""

    batches: Mapping[int, Batch | Failure | None]
    settled: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        self.taken.append(step)
        return self.batches[step]

    def settle(self, step: int) -> None:
        self.settled.append(step)

    def snapshot(self) -> Mapping[str, Any]:
        return {"settled": self.settled}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.settled = list(state["settled"])


@dataclass
class ToySink:
    """Keeps what was published."""

    published: list[tuple[Version, dict[str, Any]]] = field(default_factory=list)
    answer: Version | None = None

    def publish(self, version: Version, tensors: Iterable[tuple[str, Any]]) -> Version:
        self.published.append((version, dict(tensors)))
        return self.answer or version


def trl_options(**options: Any) -> dict[str, Any]:
    """Eight rows of two groups in one micro-batch, fp32."""
    return {
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "bf16": False,
        "seed": 3,
        "loss_type": "dapo",
        **options,
    }


def make_trainer(
    out: Path,
    source: Any,
    sink: Any = None,
    *,
    settings: Mapping[str, Any] | None = None,
    cls: Any = None,
    model: Any = None,
    **trl: Any,
) -> Any:
    from trainer.grpo import WorldModelGRPOTrainer

    config = TrainerConfig(max_row_length=64, trl=trl_options(**trl), **(settings or {}))
    args = build_grpo_config(config, out)
    return (cls or WorldModelGRPOTrainer)(model or tiny_model(), args, source, sink, tiny_tokenizer(), config)
