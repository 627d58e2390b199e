"""Figures of one generation batch under TRL's names, and the run's ``metrics.jsonl``.

Owns: names and definitions (they are GRPOTrainer's, so that dashboards keep working). Refuses: averaging over logging
steps (the trainer does that).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from rollout.types import Trajectory, Version
from trainer.batch import Plan, ages

EVALUATIONS = "real-step_*.json"  # written last: an evaluation that has this file is whole


def batch_metrics(plan: Plan, eos_and_pad: frozenset[int], current: Version) -> dict[str, float]:
    """Reward, length and staleness figures over all ranks. Unscorable trajectories are counted, not averaged."""
    real = [row for row in plan.rows if not row.padding]
    lengths = np.asarray([sum(row.mask) for row in real], np.float64)
    ended = np.asarray([row.completion_ids[-1] in eos_and_pad for row in real])
    finished = lengths[ended] if ended.any() else np.zeros(1)
    age = ages(real, current)
    out = {
        "reward": _mean(plan.rewards),
        "reward_std": _std(plan.rewards),
        "frac_reward_zero_std": float(plan.zero_std.mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float((~ended).mean()),
        "completions/mean_terminated_length": float(finished.mean()),
        "completions/min_terminated_length": float(finished.min()),
        "completions/max_terminated_length": float(finished.max()),
        "sample/staleness_mean": float(age.mean()),
        "sample/staleness_max": float(age.max()),
        "rollout/unscorable": float(np.isnan(plan.rewards).sum()),
        "rollout/turns_mean": float(np.mean([len(t.turns) for t in plan.trajectories])),
        "batch/padding_rows": float(plan.padding),
    }
    for name, values in reward_columns(plan.trajectories).items():
        column = np.asarray([math.nan if v is None else v for v in values], np.float64)
        out[f"rewards/{name}/mean"], out[f"rewards/{name}/std"] = _mean(column), _std(column)
    return out


def reward_columns(trajectories: Sequence[Trajectory]) -> dict[str, list[float | None]]:
    """One column per part of the score; the whole reward where a score has no parts."""
    names = sorted({name for t in trajectories for name in t.score.parts})
    if not names:
        return {"score": [t.score.reward for t in trajectories]}
    return {name: [t.score.parts.get(name) for t in trajectories] for name in names}


def token_counts(plan: Plan) -> tuple[int, int]:
    """(prompt tokens, sampled tokens) of the real rows: what ``num_tokens`` adds up."""
    real = [row for row in plan.rows if not row.padding]
    return sum(len(row.prompt_ids) for row in real), sum(sum(row.mask) for row in real)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _std(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


class MetricsFile:
    """Appends one JSON object per log call to ``metrics.jsonl``; survives restarts (attempts are lines' field)."""

    def __init__(self, path: Path, attempt: int = 0) -> None:
        self.path = path
        self.attempt = attempt

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers only; a nan is written as null so that every line is strict JSON."""
        line: dict[str, Any] = {"step": step, "attempt": self.attempt, "time": round(time.time(), 3)}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                continue
            number = float(value)
            line[key] = (int(number) if number.is_integer() else number) if math.isfinite(number) else None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, sort_keys=False) + "\n")
            handle.flush()


class MetricsCallback(TrainerCallback):
    """Writes every log call of the main process to ``metrics.jsonl``."""

    def __init__(self, path: Path, attempt: int = 0) -> None:
        self.file = MetricsFile(path, attempt)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self.file.write(state.global_step, logs)


class EvaluationCallback(TrainerCallback):
    """Adds evaluations, as they arrive in ``folder``, to what the trainer logs: ``transfer/real_success``,
    ``transfer/sim_success`` and ``transfer/gap`` where there is one, ``transfer/coverage``, and ``transfer/step``, the
    optimiser step that was evaluated. ``wait`` returns when none is under way. Attach it when the trainer is built:
    evaluations begin in the callback that publishes weights, which must come first."""

    def __init__(self, trainer: Any, folder: Path, wait: Callable[[], None]) -> None:
        self.trainer, self.folder, self.wait = trainer, folder, wait
        self.seen = {file.name for file in folder.glob(EVALUATIONS)}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            for name, value in self._new().items():
                self.trainer._metric(name, value)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.wait()
            found = self._new()
            if found:
                self.trainer.log(found)

    def _new(self) -> dict[str, float]:
        """The latest evaluation that was not logged yet."""
        files = sorted(file for file in self.folder.glob(EVALUATIONS) if file.name not in self.seen)
        self.seen |= {file.name for file in files}
        return evaluation_figures(files[-1]) if files else {}


def evaluation_figures(real: Path) -> dict[str, float]:
    """The metrics of a finished evaluation, from its real-world file ``real-step_N.json`` and those beside it."""
    step = real.stem.rsplit("_", 1)[-1]
    found = json.loads(real.read_text(encoding="utf-8"))
    success = found["success"]["mean"]
    figures = {
        "transfer/real_success": success,
        "transfer/coverage": found["coverage"],
        "transfer/step": float(step),
    }
    simulated = real.with_name(real.name.replace("real-", "sim-", 1))
    if simulated.is_file():
        figures["transfer/sim_success"] = json.loads(simulated.read_text(encoding="utf-8"))["success"]["mean"]
        figures["transfer/gap"] = figures["transfer/sim_success"] - success
    return figures


def append_durably(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line and force it to disk (versions are persisted before they are published)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
