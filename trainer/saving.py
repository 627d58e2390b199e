"""The Trainer's side of checkpoints: seal on save, all ranks together; restore the rollout state; heartbeat.

Owns: ``CheckpointCallback``, ``prepare_resume`` and the two collectives they need.
Refuses: deciding where a run resumes (``trainer.attempts``) and what a checkpoint is (``trainer.checkpoint``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rollout.errors import CheckpointError, ConfigError
from rollout.protocols import BatchSource
from rollout.types import Version
from trainer.attempts import Start
from trainer.checkpoint import Layout, read_rollout_state, rotate, seal
from trainer.extension_lock import drop_stale_locks


def world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def assert_world_size(expected: int, *, trainer_says: int) -> None:
    """Refuse a launch in which ranks train alone without noticing. Raises ConfigError."""
    _, size = world()
    if size != expected or trainer_says != expected:
        raise ConfigError(
            f"{expected} processes were asked for, but the process group has {size} and the trainer sees "
            f"{trainer_says}: each would train alone on its share"
        )


def join_deepspeed() -> None:
    """Tell DeepSpeed's own communication layer about the process group that exists. Without it ZeRO-3 builds its
    model for a world of one: accelerate skips this step where torch.distributed is initialised already."""
    import deepspeed

    drop_stale_locks()  # it may build its helper now
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)


def raise_together(error: str | None) -> None:
    """Rank 0 says what went wrong (or None); every rank raises the same CheckpointError. Also a barrier."""
    verdict = [error]
    if world()[1] > 1:
        dist.broadcast_object_list(verdict, src=0)
    if verdict[0] is not None:
        raise CheckpointError(verdict[0])


class CheckpointCallback(TrainerCallback):
    """Seals what the Trainer has just written: barrier, rollout state, manifest, then rotation.

    ``source`` lives on rank 0 and is None elsewhere. Groups of the step are settled in ``on_step_end``, which
    the Trainer calls before it saves, so the snapshot and the weights describe the same instant.
    """

    def __init__(
        self,
        run_dir: Path,
        attempt: int,
        layout: Layout,
        source: BatchSource | None,
        keep: int,
        spared: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """``spared`` names steps to keep beyond the ``keep`` newest (the best by real success)."""
        if keep < 1:
            raise ConfigError(f"checkpoints to keep: {keep}, at least 1 is needed to resume")
        self.run_dir, self.attempt, self.layout, self.source, self.keep = run_dir, attempt, layout, source, keep
        self.spared = spared

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse Trainer options under which a manifest would lie. Raises ConfigError."""
        if args.save_total_limit is not None:
            raise ConfigError("save_total_limit must be unset: the Trainer would delete sealed checkpoints")
        if args.save_only_model:
            raise ConfigError("save_only_model must be off: a checkpoint without optimiser cannot be resumed")
        if Path(args.output_dir or "") != self.run_dir:
            raise ConfigError(f"output_dir {args.output_dir} is not the run directory {self.run_dir}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rank, size = world()
        if size > 1:
            dist.barrier()  # every rank's optimiser shard and RNG state is on disk
        error = self._seal(state.global_step) if rank == 0 else None
        raise_together(error)

    def _seal(self, step: int) -> str | None:
        try:
            seal(
                self.run_dir / f"checkpoint-{step}",
                step=step,
                version=Version(self.attempt, step),
                layout=self.layout,
                rollout_state=self._snapshot(),
            )
            rotate(self.run_dir, self.keep, self.spared())
        except (CheckpointError, OSError) as error:
            return f"checkpoint-{step} could not be sealed: {error}"
        return None

    def _snapshot(self) -> Mapping[str, Any]:
        return self.source.snapshot() if self.source is not None else {}


class StopAt(TrainerCallback):
    """Ends training with a checkpoint after optimiser step ``step``, which must end a generation batch: whoever resumes
    the run goes on from there, under the schedule of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


class BeatCallback(TrainerCallback):
    """Tells a watchdog that training moves."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self.beat = beat

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.beat()

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        self.beat()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.beat()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.beat()


class RngCallback(TrainerCallback):
    """Loads the checkpoint's RNG state again when the first resumed step begins.

    The Trainer loads it too, but opens its dataloader afterwards, which draws from it: the rows of a generation
    batch would then be shuffled into other micro-batches than in the run that was not interrupted.
    """

    def __init__(self, trainer: Trainer, checkpoint: str) -> None:
        self.trainer, self.checkpoint = trainer, checkpoint
        self.done = False

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if not self.done:
            self.trainer._load_rng_state(self.checkpoint)
            self.done = True


def prepare_resume(trainer: Trainer, start: Start, source: BatchSource | None) -> str | None:
    """Give the batch source (rank 0) its state back and arm the RNG; call it right before ``trainer.train``.

    Returns what to pass as ``resume_from_checkpoint``: None at the beginning of a run.
    """
    if start.checkpoint is None:
        return None
    path = str(start.checkpoint.path)
    if source is not None:
        source.restore(read_rollout_state(path))
    trainer.add_callback(RngCallback(trainer, path))
    return path
