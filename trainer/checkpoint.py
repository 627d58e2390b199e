"""Checkpoints as facts on disk: a checkpoint exists if and only if its manifest validates.

Owns: the manifest (written last, atomically), the choice of the checkpoint to resume from, rotation.
Refuses: torch, process groups and the HF Trainer (see ``trainer.saving``), so that a launcher can look at a run
directory in milliseconds.

The HF Trainer writes ``checkpoint-N/`` under its final name, so the folder's presence proves nothing. What
proves it is ``manifest.json``: the size of every file and the sha256 of every file up to ``HASHED_BYTES``.

    runs/<name>/checkpoint-20/manifest.json       written last
    runs/<name>/checkpoint-20/rollout_state/state.json   ledger, queues and cursors of the batch source
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout.errors import CheckpointError
from rollout.types import Version

MANIFEST = "manifest.json"
ROLLOUT_STATE = "rollout_state/state.json"
FORMAT = 1
HASHED_BYTES = 64 * 2**20  # larger files (sharded optimiser states) are held to their size only
_FOLDER = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size in bytes; sha256 is empty for files over ``HASHED_BYTES``."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How the optimiser state is cut up: it loads only into the same layout. ``zero_stage`` 0 = no DeepSpeed."""

    world_size: int
    zero_stage: int

    def __str__(self) -> str:
        noun = "process" if self.world_size == 1 else "processes"
        return f"{self.world_size} {noun} {f'under ZeRO-{self.zero_stage}' if self.zero_stage else 'without ZeRO'}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a whole checkpoint consists of."""

    step: int
    version: Version
    layout: Layout
    files: Mapping[str, FileStamp]
    created: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Survey:
    """All that lies in a run directory. ``torn`` holds one line per folder that is no checkpoint."""

    valid: tuple[Checkpoint, ...]  # by step, oldest first
    torn: tuple[tuple[Path, str], ...]

    @property
    def newest(self) -> Checkpoint | None:
        return self.valid[-1] if self.valid else None


# --- writing ---------------------------------------------------------------------------------------------------


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a reader sees the old text or the new one; durable on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(path: Path, *, step: int, version: Version, layout: Layout, rollout_state: Mapping[str, Any]) -> Manifest:
    """Turn the folder the Trainer has filled into a checkpoint: rollout state first, manifest last.

    Call it once every rank has written its files. Raises CheckpointError if the state is not JSON.
    """
    try:
        text = json.dumps(rollout_state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name}: the batch source's snapshot is not JSON: {error}") from error
    write_atomic(path / ROLLOUT_STATE, text)
    files = {str(file.relative_to(path)): _stamp(file, sync=True) for file in _files(path)}
    manifest = Manifest(step=step, version=version, layout=layout, files=files, created=time.time())
    write_atomic(path / MANIFEST, json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1))
    return manifest


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)


def _stamp(file: Path, *, sync: bool = False) -> FileStamp:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if sync:
            os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest() if size <= HASHED_BYTES else ""
    return FileStamp(size=size, sha256=digest)


def rotate(run_dir: Path, keep: int, spared: Collection[int] = ()) -> tuple[Path, ...]:
    """Delete all but the ``keep`` newest sealed checkpoints and those of the steps ``spared`` (the best); returns
    what was deleted.

    The manifest goes first: a deletion cut short leaves a torn folder, never a checkpoint with holes.
    """
    sealed = [(step, folder) for step, folder in _folders(run_dir) if (folder / MANIFEST).is_file()]
    old = tuple(folder for step, folder in sealed[:-keep] if step not in spared)
    for folder in old:
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
    return old


# --- reading ---------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """Parse ``path``'s manifest without looking at the files it lists. Raises CheckpointError, one line."""
    file = path / MANIFEST
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise CheckpointError(f"{file}: format {raw['format']}, this version reads format {FORMAT}")
        return Manifest(
            step=int(raw["step"]),
            version=Version(*map(int, raw["version"])),
            layout=Layout(**raw["layout"]),
            files={name: FileStamp(**stamp) for name, stamp in raw["files"].items()},
            created=float(raw["created"]),
        )
    except FileNotFoundError as error:
        reason = "no such folder" if not path.is_dir() else "no manifest.json: the save was cut short"
        raise CheckpointError(f"{path}: {reason}") from error
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: unreadable manifest ({type(error).__name__}: {reason})") from error


def validate(path: str | Path) -> Manifest:
    """The manifest of ``path`` if every file it lists is there unchanged. Raises CheckpointError, one line."""
    path = Path(path)
    manifest = read_manifest(path)
    for name, stamp in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        size = file.stat().st_size
        if size != stamp.size:
            raise CheckpointError(f"{path}: {name} has {size} bytes, the manifest says {stamp.size}")
        if stamp.sha256 and _stamp(file).sha256 != stamp.sha256:
            raise CheckpointError(f"{path}: the content of {name} differs from the manifest (sha256)")
    return manifest


def read_rollout_state(path: str | Path) -> dict[str, Any]:
    """The batch source's snapshot in a validated checkpoint."""
    state: dict[str, Any] = json.loads((Path(path) / ROLLOUT_STATE).read_text(encoding="utf-8"))
    return state


def survey(run_dir: str | Path) -> Survey:
    """Validate every ``checkpoint-N`` folder of a run."""
    valid: list[Checkpoint] = []
    torn: list[tuple[Path, str]] = []
    for _, folder in _folders(Path(run_dir)):
        try:
            valid.append(Checkpoint(folder, validate(folder)))
        except CheckpointError as error:
            torn.append((folder, str(error)))
    return Survey(valid=tuple(valid), torn=tuple(torn))


def latest(run_dir: str | Path) -> Checkpoint | None:
    """The newest checkpoint whose manifest validates."""
    return survey(run_dir).newest


def _folders(run_dir: Path) -> list[tuple[int, Path]]:
    if not run_dir.is_dir():
        return []
    found = [(_FOLDER.fullmatch(folder.name), folder) for folder in run_dir.iterdir() if folder.is_dir()]
    return sorted((int(match[1]), folder) for match, folder in found if match)


def check_layout(checkpoint: Checkpoint, layout: Layout) -> None:
    """Refuse to load a cut-up optimiser state into another cut. Raises CheckpointError, one line."""
    saved = checkpoint.manifest.layout
    if saved != layout and (saved.zero_stage or layout.zero_stage):
        raise CheckpointError(
            f"{checkpoint.path} was written by {saved}, this run has {layout}: "
            f"start it with {saved}, or begin a new run from these weights"
        )
