"""The bar of step credit: on a chain with one decisive step, GiGPO learns faster than episode GRPO.

    python -m bench.gigpo_chain [--out bench/results/gigpo_chain.json]

A corridor of sixteen rooms. In the third, one of eight exits leads to the goal's corridor and the others into corridors
that look the same; everywhere else any action leads on. A clue at the start says which exit is right; each of a batch's
four groups has another. Reward 1 at the end of the right corridor, else 0. A tiny Qwen3 policy is trained by the
project's trainer; the two runs of a seed start from the same weights, sample with the same random numbers and differ in
``trainer.credit`` alone.

Learning speed is the mean success of the rollouts over the whole run (the area under the learning curve); a seed's is
the mean of six runs that sample with other random numbers. One run alone differs by 0.1 between two CPUs whose kernels
round differently, which is more than the effect: one run a seed gave 0.094 [0.015, 0.173] on one machine and 0.023
[-0.161, 0.207] on another. Both methods use the learning rate that is best for *episode GRPO*, measured first on other
seeds. Five minutes on one core. (Without clues, one exit for all, that rate is so high that both solve the task within
ten steps: the gain over five seeds was 0.019 with an interval from -0.016 to 0.054.)
"""

from __future__ import annotations

import argparse
import json
import logging
import math
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
ROOMS, FORK, EXITS = 16, 2, 8
RIGHT = (5, 2, 7, 0)  # the right exit by clue
CLUE = 24  # id of the first clue, above those of rooms
MEMBERS, STEPS = 8, 80
SEEDS = (0, 1, 2, 3, 4)
STREAMS = 6  # runs of a seed, each with random numbers of its own
TUNING_SEEDS = (100, 101)
LEARNING_RATES = (1e-2, 3e-2, 1e-1)
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
        episodes = self._play(torch.arange(len(RIGHT)).repeat_interleave(MEMBERS))
        self.success.append(statistics.mean(float(one.score.reward or 0.0) for one in episodes))
        return Batch(
            step, tuple(_group(f"s{step}g{g}", share) for g, share in enumerate(_shares(episodes))), self.version
        )

    def settle(self, step: int) -> None:
        """Nothing is kept."""

    def snapshot(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    @torch.no_grad()
    def _play(self, clues_M: torch.Tensor) -> list[Trajectory]:
        """All episodes at once. Each turn is one observed id, the room, and one sampled id; the clue comes first."""
        count = len(clues_M)
        ids = CLUE + clues_M.unsqueeze(1)
        wanted = torch.tensor(RIGHT)[clues_M]
        right = torch.ones(count, dtype=torch.bool)
        turns: list[list[Turn]] = [[] for _ in range(count)]
        for room in range(ROOMS):
            ids = torch.cat([ids, torch.full((count, 1), room)], dim=1)
            logprobs = self.model(ids).logits[:, -1].log_softmax(-1)
            chosen = torch.multinomial(logprobs.exp(), 1, generator=self.generator)
            ids = torch.cat([ids, chosen], dim=1)
            for turn, row, values, found in zip(turns, ids.tolist(), logprobs, right.tolist(), strict=True):
                token = row[-1]
                done = Completion((token,), (float(values[token]),), str(token), Finish.STOP, (self.version,))
                seen = Observation("", done=room == ROOMS - 1, anchor=f"{room} {found}")
                context = tuple(row[:-1]) if room == 0 else (room,)
                turn.append(Turn(context, done, Action(str(token)), seen))
            if room == FORK:
                right = chosen[:, 0] % EXITS == wanted
        prompt = Prompt((Message("user", TASK.instruction),))
        return [
            Trajectory(TASK, "", 0, prompt, tuple(turn), Stop.DONE, Score(float(won)))
            for turn, won in zip(turns, right.tolist(), strict=True)
        ]


def _shares(episodes: Sequence[Trajectory]) -> list[Sequence[Trajectory]]:
    return [episodes[i : i + MEMBERS] for i in range(0, len(episodes), MEMBERS)]


def _group(name: str, share: Sequence[Trajectory]) -> Group:
    return Group(name, TASK.id, tuple(replace(one, group=name, member=m) for m, one in enumerate(share)))


def learn(credit: Any, seed: int, learning_rate: float, out: Path, stream: int = 0) -> list[float]:
    """Success of the rollouts at every step of one run; ``seed`` decides the weights, with ``stream`` the samples."""
    config = TrainerConfig(
        max_row_length=2 * ROOMS + 1,
        credit=credit,
        trl={
            "max_steps": STEPS,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": len(RIGHT) * MEMBERS,
            "num_generations": MEMBERS,
            "loss_type": "dapo",
            "save_strategy": "no",
            "logging_strategy": "no",
            "bf16": False,
            "seed": seed,
        },
    )
    source = Chain(policy(seed), torch.Generator().manual_seed(seed + 1000 * stream))
    args = build_grpo_config(config, out)
    trainer = WorldModelGRPOTrainer(policy(seed), args, source, source, tiny_tokenizer(), config)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return source.success


def compare(curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Mean success over the run by method, and the interval of the paired difference over seeds. A seed's curve is the
    mean of its runs."""
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


def tune(work: Path) -> dict[float, float]:
    """Mean success of episode GRPO over the run, by learning rate."""
    found = {}
    for rate in LEARNING_RATES:
        runs = [learn(CREDITS["episode GRPO"], seed, rate, work) for seed in TUNING_SEEDS]
        found[rate] = statistics.mean(map(statistics.mean, runs))
        print(f"episode GRPO at learning rate {rate}: {found[rate]:.3f}", flush=True)
    return found


def measure(rate: float, work: Path) -> dict[str, list[list[float]]]:
    """Learning curves by method, one per seed: the mean of its runs."""
    curves: dict[str, list[list[float]]] = {name: [] for name in CREDITS}
    for seed in SEEDS:
        for name, credit in CREDITS.items():
            runs = [learn(credit, seed, rate, work, stream) for stream in range(STREAMS)]
            curves[name].append([statistics.mean(step) for step in zip(*runs, strict=True)])
        means = ", ".join(f"{name} {statistics.mean(of[-1]):.3f}" for name, of in curves.items())
        print(f"seed {seed}: {means}", flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/gigpo_chain.json")
    out = parser.parse_args().out
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tuned = tune(Path(folder))
        rate = max(tuned, key=lambda one: tuned[one])
        curves = measure(rate, Path(folder))
    found = compare(curves)
    passed = found["gain_interval_95"][0] > 0
    result = {
        "command": "python -m bench.gigpo_chain",
        "bar": "the 95 % interval of the gain in mean success, paired over 5 seeds, excludes 0",
        "passed": passed,
        **found,
        "learning_rate": rate,
        "episode_grpo_by_learning_rate": tuned,
        "settings": {
            "rooms": ROOMS,
            "fork": FORK,
            "exits": EXITS,
            "right_exit_by_clue": RIGHT,
            "members": MEMBERS,
            "streams": STREAMS,
            "steps": STEPS,
        },
        "credit": CREDITS,
        "cpu_seconds": round(time.process_time() - began, 1),
        "python": platform.python_version(),
        "curves": curves,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    low, high = found["gain_interval_95"]
    print(f"gain {found['gain']:.3f} [{low:.3f}, {high:.3f}]: {'passed' if passed else 'FAILED'}; {out}")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
