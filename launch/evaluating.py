"""Evaluation while training goes on: every k optimiser steps the version just published, on held-out tasks.

Owns: one background evaluation at a time, its files in ``eval/``, ``best.json``, and the wait before newer weights.
Refuses: statistics (``rollout.evaluate``), and keeping checkpoints (``trainer.saving`` asks ``best_step``).

Policies act as they do in training, at its temperature, and with the same seeds for every version. The pool serves an
evaluation beside the next batch of rollouts, under the version it was asked for: the next
publication waits for it (decision 23). Results are files named after the version and are never made twice.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launch.evaluate import write_json
from rollout.errors import AgentworldError
from rollout.evaluate import Evaluation, evaluate
from rollout.pool import Pool
from rollout.protocols import RawTensor, WeightSink
from rollout.types import Task, Version

BEST = "best.json"
_FILE = re.compile(r"real-step_(\d+)\.json")
REAL = "real"


class EvaluatingSink:
    """A ``WeightSink`` around another. ``worlds``: the names of the pool's worlds to evaluate in. ``resumed_at``:
    evaluations of later steps are void. ``background`` False: publishing returns when the version is evaluated.
    ``patience``: seconds that a newer version waits for an evaluation. ``wait`` when training ends."""

    def __init__(
        self,
        sink: WeightSink,
        pool: Pool,
        tasks: Sequence[Task],
        every: int,
        folder: Path,
        worlds: Sequence[str] = (REAL,),
        resumed_at: int = 0,
        background: bool = True,
        patience: float = 1800.0,
    ) -> None:
        self._sink, self._pool, self._tasks, self._every = sink, pool, tasks, every
        self._folder, self._worlds, self._background, self._patience = folder, worlds, background, patience
        self._thread: threading.Thread | None = None
        self._version: Version | None = None
        self._error: Exception | None = None
        for step in [step for step in results(folder) if step > resumed_at]:
            self._file(REAL, step).unlink()  # of weights that the run does not descend from any more

    def publish(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> Version:
        """As the inner sink; waits for the evaluation of the version before. Raises AgentworldError if that failed."""
        self.wait()
        confirmed = self._sink.publish(version, tensors)
        if version.step % self._every == 0 and not self._file(REAL, version.step).exists():
            self._version = version
            self._thread = threading.Thread(target=self._run, args=(version,), name="evaluation", daemon=True)
            self._thread.start()
            if not self._background:
                self.wait()
        return confirmed

    def wait(self) -> None:
        """Until no evaluation runs. Raises AgentworldError where one failed or takes longer than ``patience``."""
        if self._thread is not None:
            self._thread.join(self._patience)
            if self._thread.is_alive():
                raise AgentworldError(
                    f"waited {self._patience:.0f} s for the evaluation of {tuple(self._version or ())} on "
                    f"{len(self._tasks)} tasks (eval_every, tasks.heldout)"
                )
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise AgentworldError(f"evaluation of {tuple(self._version or ())}: {error}") from error

    def pending(self) -> int | None:
        """The step whose evaluation is under way."""
        alive = self._thread is not None and self._thread.is_alive()
        return self._version.step if alive and self._version else None

    def spared(self) -> set[int]:
        """Steps whose checkpoints must be kept: the best so far, and the one that is being measured."""
        best = best_step(self._folder)
        return {step for step in (best, self.pending()) if step is not None}

    def _run(self, version: Version) -> None:
        try:
            found = {world: self._measure(world) for world in self._worlds}
        except Exception as error:  # crosses the thread: raised by ``wait``
            self._error = error
            return
        for world, result in sorted(
            found.items(), key=lambda item: item[0] == REAL
        ):  # its file says that all are there
            write_json(self._file(world, version.step), {**result.to_json(), "version": list(version)})
        record_best(self._folder)

    def _measure(self, world: str) -> Evaluation:
        return evaluate(self._pool.run_tasks(self._tasks, env=world))

    def _file(self, world: str, step: int) -> Path:
        return self._folder / f"{world}-step_{step:06d}.json"


def results(folder: Path) -> dict[int, float]:
    """Real success by step, of every evaluation in ``folder``."""
    found: dict[int, float] = {}
    for file in sorted(folder.glob("real-step_*.json")):
        match = _FILE.fullmatch(file.name)
        if match:
            data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found[int(match[1])] = float(data["success"]["mean"])
    return found


def best_step(folder: Path) -> int | None:
    """The step of the highest real success; the latest of equals."""
    found = results(folder)
    return max(found, key=lambda step: (found[step], step)) if found else None


def record_best(folder: Path) -> None:
    """Write ``best.json``: step and real success."""
    step = best_step(folder)
    if step is not None:
        write_json(folder / BEST, {"step": step, "real_success": results(folder)[step]})


def best_model(run_dir: Path, start: Path, final: Path, steps: int) -> tuple[int, Path]:
    """Step and folder of the model with the highest real success: ``start`` (step 0), a checkpoint that was kept, or
    ``final`` (step ``steps``). Raises AgentworldError where nothing was evaluated, or its checkpoint is gone."""
    step = best_step(run_dir / "eval")
    if step is None:
        raise AgentworldError(f"{run_dir}: no evaluation to choose a checkpoint by (eval_every)")
    folder = {0: start, steps: final}.get(step, run_dir / f"checkpoint-{step}")
    if not (folder / "config.json").is_file():
        raise AgentworldError(f"{folder}: the best checkpoint, of step {step}, is gone")
    return step, folder
