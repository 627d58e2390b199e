"""The bar of step credit: on a chain with one decisive step, GiGPO learns faster than episode GRPO.

    python -m bench.gigpo_chain [--tune] [--out bench/results/gigpo_chain.json]

A corridor of ten rooms. In the third, one of eight exits leads to the goal's corridor and the others into corridors
that look the same; everywhere else any action leads on. Reward 1 at the end of the right corridor, else 0. A tiny
Qwen3 policy is trained by the project's trainer; the two runs of a seed start from the same weights, sample with the
same random numbers and differ in ``trainer.credit`` alone.

Learning speed is the mean success of the rollouts over the whole run (the area under the learning curve). The learning
rate is the one that ``--tune`` found best for *episode GRPO*, on other seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.trainer_callback import PrinterCallback

from rollout.protocols import RawTensor
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
    Score,
    Stop,
    Task,
    Trajectory,
    Turn,
    Version,
    World,
)
from tests.trainer_toys import EOS, PAD, VOCAB, tiny_tokenizer
from trainer.config import TrainerConfig, build_grpo_config
from trainer.grpo import WorldModelGRPOTrainer
from trainer.weights import load_tensors

ROOT = Path(__file__).resolve().parent.parent
ROOMS, FORK, EXITS, RIGHT = 10, 2, 8, 5
GROUPS, MEMBERS, STEPS = 4, 8, 50
SEEDS = range(5)
LEARNING_RATE = 3e-3
TUNING = {"learning_rates": (1e-3, 3e-3, 1e-2), "seeds": (100, 101)}
CREDITS: Mapping[str, Any] = {
    "episode GRPO": "trajectory",
    "GiGPO": {"trajectory": 1.0, "step": 1.0, "discount": 0.95},
}
FIRST = Version(0, 0)
T_95 = 2.776  # two-sided 95 % of Student's t with 4 degrees of freedom: five seeds
TASK = Task("chain", "toy", "toy", "train", "find the exit", World(), (), Reference(), ROOMS, 0)


def policy(seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


@dataclass
class Chain:
    """``BatchSource`` and ``WeightSink``: every batch is sampled from the weights published last."""

    model: Qwen3ForCausalLM
    generator: torch.Generator
    version: Version = FIRST
    success: list[float] = field(default_factory=list)

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        load_tensors(self.model, dict(tensors))
        self.version = version
        return version

    def take(self, step: int, timeout: float) -> Batch | Failure | None:
        episodes = self._play(GROUPS * MEMBERS)
        self.success.append(statistics.mean(float(one.score.reward or 0.0) for one in episodes))
        groups = [
            Group(f"s{step}g{g}", TASK.id, tuple(_member(one, f"s{step}g{g}", m) for m, one in enumerate(share)))
            for g, share in enumerate(_shares(episodes))
        ]
        return Batch(step, tuple(groups), self.version)

    def settle(self, step: int) -> None:
        """Nothing is kept."""

    def snapshot(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    @torch.no_grad()
    def _play(self, count: int) -> list[Trajectory]:
        """All episodes at once: each turn is one observed id (the room) and one sampled id."""
        ids = torch.zeros((count, 0), dtype=torch.long)
        right = torch.ones(count, dtype=torch.bool)
        turns: list[list[Turn]] = [[] for _ in range(count)]
        for room in range(ROOMS):
            ids = torch.cat([ids, torch.full((count, 1), room)], dim=1)
            logprobs = self.model(ids).logits[:, -1].log_softmax(-1)
            chosen = torch.multinomial(logprobs.exp(), 1, generator=self.generator)
            ids = torch.cat([ids, chosen], dim=1)
            for turn, token, values, found in zip(turns, chosen[:, 0].tolist(), logprobs, right.tolist(), strict=True):
                done = Completion((token,), (float(values[token]),), str(token), Finish.STOP, (self.version,))
                seen = Observation("", done=room == ROOMS - 1, anchor=f"{room} {found}")
                turn.append(Turn((room,), done, Action(str(token)), seen))
            if room == FORK:
                right = chosen[:, 0] % EXITS == RIGHT
        prompt = Prompt((Message("user", TASK.instruction),))
        return [
            Trajectory(TASK, "", 0, prompt, tuple(turn), Stop.DONE, Score(float(won)))
            for turn, won in zip(turns, right.tolist(), strict=True)
        ]


def _shares(episodes: Sequence[Trajectory]) -> list[Sequence[Trajectory]]:
    return [episodes[i : i + MEMBERS] for i in range(0, len(episodes), MEMBERS)]


def _member(one: Trajectory, group: str, member: int) -> Trajectory:
    return replace(one, group=group, member=member)


def learn(credit: Any, seed: int, learning_rate: float, steps: int, out: Path) -> list[float]:
    """Success of the rollouts at every step of one run."""
    config = TrainerConfig(
        max_row_length=2 * ROOMS,
        credit=credit,
        trl={
            "max_steps": steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": GROUPS * MEMBERS,
            "num_generations": MEMBERS,
            "loss_type": "dapo",
            "save_strategy": "no",
            "logging_strategy": "no",
            "bf16": False,
            "seed": seed,
        },
    )
    source = Chain(policy(seed), torch.Generator().manual_seed(seed))
    args = build_grpo_config(config, out)
    trainer = WorldModelGRPOTrainer(policy(seed), args, source, source, tiny_tokenizer(), config)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return source.success


def compare(curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Mean success over the run by method, and the interval of the paired difference over seeds."""
    base, other = (list(map(statistics.mean, curves[name])) for name in CREDITS)
    gains = [b - a for a, b in zip(base, other, strict=True)]
    mean = statistics.mean(gains)
    half = T_95 * statistics.stdev(gains) / math.sqrt(len(gains))
    return {
        "mean_success_over_the_run": dict(zip(CREDITS, (base, other), strict=True)),
        "gain_by_seed": gains,
        "gain": mean,
        "gain_interval_95": [mean - half, mean + half],
        "steps_to_half": {name: [_steps_to(curve, 0.5) for curve in curves[name]] for name in CREDITS},
    }


def _steps_to(curve: Sequence[float], level: float) -> int | None:
    return next((step for step, value in enumerate(curve) if value >= level), None)


def tune(work: Path) -> dict[str, Any]:
    """Mean success of episode GRPO by learning rate: which one the comparison must use."""
    found = {}
    for rate in TUNING["learning_rates"]:
        runs = [learn("trajectory", int(seed), float(rate), STEPS, work / "tune") for seed in TUNING["seeds"]]
        found[str(rate)] = statistics.mean(map(statistics.mean, runs))
        print("episode GRPO at learning rate", rate, round(found[str(rate)], 3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/gigpo_chain.json")
    parser.add_argument("--tune", action="store_true", help="only print what episode GRPO learns by learning rate")
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if options.tune:
            tune(Path(folder))
            return
        curves: dict[str, list[list[float]]] = {name: [] for name in CREDITS}
        for seed in SEEDS:
            for name, credit in CREDITS.items():
                curves[name].append(learn(credit, seed, LEARNING_RATE, STEPS, Path(folder) / "run"))
            print(f"seed {seed}:", {name: round(statistics.mean(runs[-1]), 3) for name, runs in curves.items()})
    found = compare(curves)
    passed = found["gain_interval_95"][0] > 0
    result = {
        "command": "python -m bench.gigpo_chain",
        "bar": "the 95 % interval of the gain over 5 seeds excludes 0",
        "passed": passed,
        **found,
        "settings": {"rooms": ROOMS, "fork": FORK, "exits": EXITS, "groups": GROUPS, "members": MEMBERS},
        "learning_rate": LEARNING_RATE,
        "steps": STEPS,
        "credit": CREDITS,
        "seconds": round(time.monotonic() - began, 1),
        "python": platform.python_version(),
        "curves": curves,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    low, high = found["gain_interval_95"]
    print(f"gain {found['gain']:.3f} [{low:.3f}, {high:.3f}]: {'passed' if passed else 'FAILED'}; {options.out}")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
