"""One unit of a sweep, wherever Ray put it: a run directory is trained up to a step and its evaluation is read.

Owns: the lock on the run directory, W&B's names for the run, and what a run directory says about a step. Refuses:
training (the train function's), and raising: what went wrong is part of the outcome.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.config import ExperimentConfig
from launch.errors import one_line
from launch.worlds import REAL
from rollout.errors import AgentworldError
from trainer.checkpoint import survey

LOCK_SECONDS = 180.0  # for the process of a sweep that was killed to let go of its run directory

TrainFn = Callable[[ExperimentConfig, Callable[[str], None], int], Any]  # config, say, until


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run directory says about a step. ``value`` None: no episode could be scored."""

    value: float | None
    coverage: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """``measured`` None: ``error`` says why. ``seconds`` of wall clock."""

    measured: Measured | None
    seconds: float
    error: str = ""


def run_unit(config: ExperimentConfig, until: int, metric: str, name: Mapping[str, str], train: TrainFn) -> Outcome:
    """Train ``config.run_dir`` up to ``until`` unless it got there before. ``name``: W&B's variables for this run."""
    run_dir, began = Path(config.run_dir), time.monotonic()
    log = run_dir / "logs" / "sweep.log"

    def say(text: str) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%F %T')} {text}\n")

    def outcome(found: Measured | None, error: str = "") -> Outcome:
        return Outcome(found, round(time.monotonic() - began, 3), one_line(error))

    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        os.environ.update(name)
        with locked(run_dir):
            if not arrived(run_dir, until):
                train(config, say, until)
            found = measured(run_dir, until, metric)
    except AgentworldError as error:
        return outcome(None, str(error))
    except Exception as error:  # the edge of a unit: another configuration may well work
        say(traceback.format_exc())
        return outcome(None, f"{type(error).__name__}: {error}; see {log}")
    if found is None:
        return outcome(None, f"no evaluation at step {until} in {run_dir / 'eval'}")
    return outcome(found) if found.value is not None else outcome(None, f"no episode was scored at step {until}")


@contextmanager
def locked(run_dir: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """The run directory for this process alone; the lock goes with the process. Raises AgentworldError after
    ``seconds``."""
    deadline = time.monotonic() + seconds
    with (run_dir / "run.lock").open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AgentworldError(f"{run_dir}: another process has been here for {seconds:.0f} s") from error
                time.sleep(0.2)
        yield


def arrived(run_dir: Path, step: int) -> bool:
    """Whether training got to ``step``: a whole checkpoint says so, and evaluations come before checkpoints."""
    newest = survey(run_dir).newest
    return newest is not None and newest.manifest.step >= step and evaluation_file(run_dir, step).is_file()


def evaluation_file(run_dir: Path, step: int) -> Path:
    return run_dir / "eval" / f"{REAL}-step_{step:06d}.json"


def measured(run_dir: Path, step: int, metric: str) -> Measured | None:
    """The evaluation of ``step``; None where there is none."""
    file = evaluation_file(run_dir, step)
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    value = found["success"]["mean"] if metric == "success" else found["success_scored"]
    return Measured(value, found["coverage"], tokens_at(run_dir, step))


def tokens_at(run_dir: Path, step: int) -> int:
    """TRL's ``num_tokens`` once ``step`` is done. It is logged with the first step of a batch; an attempt that
    repeats steps writes them again, so the last line up to ``step`` counts."""
    file, found = run_dir / "metrics.jsonl", 0
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short by a crash
        if row.get("step", step + 1) <= step and "num_tokens" in row:
            found = int(row["num_tokens"])
    return found
