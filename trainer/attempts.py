"""Attempts and versions: which starts a run had, and which weights its final ones descend from.

Owns: the attempt counter, the reading of minted versions, the decision where an attempt begins.
Refuses: torch, process groups, training.

    runs/<name>/attempts.json     one record per attempt, written before anything carries its number
    runs/<name>/versions.jsonl    one line per minted version, written by the trainer before it is published
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.errors import CheckpointError
from rollout.types import Version
from trainer.checkpoint import MANIFEST, Checkpoint, Layout, Survey, check_layout, survey, write_atomic

AUTO, NEVER = "auto", "never"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a run: its number (from 1) and the step it resumed from (0: from the beginning)."""

    attempt: int
    resumed_step: int
    started: float


@dataclass(frozen=True, slots=True)
class Start:
    """Where an attempt begins: its number, the checkpoint it resumes from, and what that costs."""

    attempt: int
    checkpoint: Checkpoint | None
    restored: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.checkpoint.manifest.step if self.checkpoint else 0

    def __str__(self) -> str:
        where = f"resumes from {self.checkpoint.path.name}" if self.checkpoint else "starts from the beginning"
        restored = f"; restored: {', '.join(self.restored)}" if self.restored else ""
        lost = f"; lost: {', '.join(self.lost)}" if self.lost else ""
        return f"attempt {self.attempt} {where}{restored}{lost}"


def read_attempts(run_dir: str | Path) -> tuple[Attempt, ...]:
    """All attempts of a run, oldest first. Raises CheckpointError if the record is unreadable."""
    file = Path(run_dir) / "attempts.json"
    if not file.exists():
        return ()
    try:
        return tuple(Attempt(**record) for record in json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: unreadable attempt record ({type(error).__name__})") from error


def begin_attempt(run_dir: str | Path, layout: Layout, resume: str = AUTO) -> Start:
    """Choose the checkpoint to resume from and persist a new attempt number, before anything carries it.

    ``resume``: ``auto``, the newest whole checkpoint, or the beginning where there is none; ``never``, the beginning,
    refused where a whole checkpoint would be overwritten; else the path of one of this run's checkpoints: later ones
    are set aside, since the run goes on without them. Torn folders are reported in ``lost`` and leave the way: the
    Trainer would otherwise write its next checkpoint of that step between their remains. A save cut short is deleted;
    a folder that was sealed and is damaged or unreadable is kept under another name. Raises CheckpointError where the
    layout has changed, or the checkpoint that is asked for is not there.
    """
    run_dir = Path(run_dir)
    found = survey(run_dir)
    chosen = choose(found, run_dir, resume)
    if chosen:
        check_layout(chosen, layout)
    step = chosen.manifest.step if chosen else 0
    attempts = read_attempts(run_dir)
    start = Start(
        attempt=(attempts[-1].attempt if attempts else 0) + 1,
        checkpoint=chosen,
        restored=("model", "optimiser", "scheduler", "RNG", "rollout state") if chosen else (),
        lost=_lost(found, step, in_lineage(read_versions(run_dir), attempts)),
    )
    record = (*attempts, Attempt(attempt=start.attempt, resumed_step=step, started=time.time()))
    write_atomic(run_dir / "attempts.json", json.dumps([asdict(entry) for entry in record], indent=1))
    for later in found.valid:
        if later.manifest.step > step:
            later.path.rename(run_dir / f"abandoned-{later.path.name}-before-attempt-{start.attempt}")
    for folder, _ in found.torn:
        if (folder / MANIFEST).exists():
            folder.rename(run_dir / f"damaged-{folder.name}-before-attempt-{start.attempt}")
        else:
            shutil.rmtree(folder)
    return start


def choose(found: Survey, run_dir: Path, resume: str) -> Checkpoint | None:
    """The checkpoint that ``resume`` (see ``begin_attempt``) means. Raises CheckpointError, one line."""
    if resume == AUTO:
        return found.newest
    if resume == NEVER:
        if found.newest:
            raise CheckpointError(
                f"{run_dir} holds {found.newest.path.name}, which starting again would overwrite: choose another "
                "run_dir, or --resume auto"
            )
        return None
    for checkpoint in found.valid:
        if checkpoint.path.resolve() == Path(resume).resolve():
            return checkpoint
    known = ", ".join(checkpoint.path.name for checkpoint in found.valid) or "none"
    raise CheckpointError(f"--resume {resume}: not a whole checkpoint of {run_dir} (it has: {known})")


def check_restart(run_dir: str | Path) -> None:
    """Raises CheckpointError where a run has trained but no whole checkpoint of it is left: going on would be a
    restart that nobody asked for."""
    reached = max((version.step for version in read_versions(run_dir)), default=0)
    if reached and survey(run_dir).newest is None:
        raise CheckpointError(
            f"{run_dir}: trained up to step {reached}, but no whole checkpoint is left; --resume never starts again "
            "from the beginning"
        )


def _lost(found: Survey, step: int, versions: Sequence[Version]) -> tuple[str, ...]:
    reached = max((version.step for version in versions), default=0)
    steps = (f"optimiser steps after {step} (weights were published up to step {reached})",) if reached > step else ()
    return (*steps, *(f"torn {folder.name} ({reason})" for folder, reason in found.torn))


def read_versions(run_dir: str | Path) -> tuple[Version, ...]:
    """Every version ever minted, in order. A last line cut short by a crash was never published: it is skipped."""
    file = Path(run_dir) / "versions.jsonl"
    if not file.exists():
        return ()
    versions: list[Version] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            versions.append(Version(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return tuple(versions)


def in_lineage(versions: Sequence[Version], attempts: Sequence[Attempt]) -> tuple[Version, ...]:
    """Versions that the final weights descend from: no later attempt resumed from before them.

    Example: attempt 1 reached step 25, attempt 2 resumed from 20. Versions (1, 21..25) are void.
    """
    return tuple(
        version
        for version in versions
        if all(version.step <= later.resumed_step for later in attempts if later.attempt > version.attempt)
    )
