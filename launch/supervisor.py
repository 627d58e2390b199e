"""Keeps a training run alive: restarts lost ranks from the newest whole checkpoint, within a budget.

Owns: the attempt loop. Refuses: retrying what a retry cannot mend (config errors, spent budgets, bugs in one
process): those reach the user at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, RankFailure, Result, TrainFn, run_ranks
from rollout.errors import BudgetSpent
from trainer.attempts import AUTO, begin_attempt


def supervise(
    train_fn: TrainFn,
    payload: Any,
    run_dir: str | Path,
    settings: ClusterSettings,
    *,
    max_restarts: int = 2,
    say: Callable[[str], None] = print,
    resume: str = AUTO,
) -> Result:
    """Train until ``train_fn`` returns on every rank; each attempt logs to ``logs/attempt_n``. ``resume`` says where
    the first of them begins (``trainer.attempts``); the others go on from the newest checkpoint.

    Raises BudgetSpent when ranks were lost more than ``max_restarts`` times, CheckpointError when the newest
    checkpoint does not fit ``settings``, and whatever user-facing error a rank raised.
    """
    run_dir = Path(run_dir).resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    restarts = 0
    while True:
        start = begin_attempt(run_dir, settings.layout, resume if not restarts else AUTO)
        say(str(start))
        try:
            return run_ranks(train_fn, payload, run_dir, start, settings)
        except RankFailure as error:
            say(f"attempt {start.attempt} ended early: {error}")
            if restarts >= max_restarts:
                raise BudgetSpent(f"gave up after {restarts} restarts; last: {error}") from error
            restarts += 1
