"""Trainer callbacks of the distributed tests: a fatal signal at a chosen step, digests of what a rank holds."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from launch.cluster import Ranks
from tests.distributed_case import Kill


class Killer(TrainerCallback):
    """SIGKILLs its own process: no handler, no clean-up, no last words."""

    def __init__(self, ranks: Ranks, kill: Kill | None) -> None:
        self.kill = kill if kill and (kill.rank, 1) == (ranks.rank, ranks.start.attempt) else None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._fire(state.global_step, while_saving=False)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._fire(state.global_step, while_saving=True)

    def _fire(self, step: int, *, while_saving: bool) -> None:
        if self.kill and (self.kill.step, self.kill.while_saving) == (step, while_saving):
            os.kill(os.getpid(), signal.SIGKILL)


class Digests(TrainerCallback):
    """Writes, on every rank, what model and optimiser hold when training begins and whenever a checkpoint is saved."""

    def __init__(self, ranks: Ranks) -> None:
        self.file = ranks.log_dir / f"digests_{ranks.rank}.jsonl"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("begin", state.global_step, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("save", state.global_step, kwargs)

    def _write(self, event: str, step: int, kwargs: Mapping[str, Any]) -> None:
        row = {
            "event": event,
            "step": step,
            "weights": digest(dict(kwargs["model"].state_dict())),
            "optimiser": digest(kwargs["optimizer"].state_dict()),
            "scheduler": digest(kwargs["lr_scheduler"].state_dict()),
        }
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def digest(value: Any) -> str:
    """sha256 over the tensors and numbers in nested state, in key order."""
    hasher = hashlib.sha256()
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            hasher.update(str(key).encode())
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(hasher, item)
    elif hasattr(value, "detach"):
        hasher.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    elif isinstance(value, bool | int | float | str):
        hasher.update(repr(value).encode())
