"""Trajectories and ledger <-> disk, as lines of JSON that a person can read.

Owns: an exact codec for every noun, one trajectory file per (attempt, step), one ledger per attempt, and
trajectory files that a later process goes on with.
Refuses: deciding what to keep; several writers of one attempt (the run's driver is the only one).

Layout under the root::

    attempt_000/ledger.jsonl              one event a line, written before it is acted on
    attempt_000/step_000012.jsonl         one trajectory a line; ``.gz`` once the step is settled

Each line is one ``write`` of an append-only file, so a reader sees whole lines; a line torn by a crash has no
newline and is ignored. A reference is ``attempt_000/step_000012.jsonl#3`` (line 3, zipped or not).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TextIO, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from rollout.errors import CheckpointError
from rollout.events import EVENTS, Event, GroupClosed, GroupIssued, Restored
from rollout.types import Trajectory

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A noun as JSON-like data. Mappings must have text keys; free-form values must be JSON-like."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        plain = len(value) > 0 and type(value[0]) in (int, float)  # ids and logprobs: most of a file
        return list(value) if plain else [encode(item) for item in value]
    return value


def decode(kind: type[T], data: Any) -> T:
    """The inverse of ``encode``, guided by the type. Raises TypeError or ValueError on data of another shape."""
    return _decode(kind, data)  # type: ignore[no-any-return]


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """One file, written beside and renamed into place; gzip where the name ends in ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with gzip.open(part, "wt", 5) if path.suffix == ".gz" else part.open("w") as file:
        for trajectory in trajectories:
            file.write(_line(encode(trajectory)))
    part.replace(path)


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """Whole lines of a trajectory file, also while it is being written."""
    for row in _rows(path):
        yield decode(Trajectory, row)


class TrajectoryLog:
    """One growing trajectory file that a later process goes on with: what an earlier one finished is read, a line that
    it did not finish is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(path, whole)
        self.found = list(read_trajectories(path)) if path.exists() else []
        self._file = path.open("a", encoding="ascii")

    def add(self, trajectory: Trajectory) -> None:
        """One whole line, seen by readers at once."""
        _append(self._file, encode(trajectory))

    def close(self) -> None:
        self._file.close()


class RolloutStore:
    """The writer of one attempt and the reader of all."""

    def __init__(self, root: Path | str, attempt: int) -> None:
        """Raises CheckpointError: this attempt has been written before (two drivers, or a number used twice)."""
        self.root = Path(root).absolute()
        self.attempt = attempt
        self._folder = self.root / _attempt_name(attempt)
        self._folder.mkdir(parents=True, exist_ok=True)
        if (self._folder / "ledger.jsonl").exists():
            raise CheckpointError(f"{self._folder}: attempt {attempt} was written before; count attempts up")
        self._ledger = (self._folder / "ledger.jsonl").open("a", encoding="ascii")
        self.ledger_lines = 0
        self._files: dict[int, tuple[TextIO, int]] = {}

    def add(self, step: int, trajectory: Trajectory) -> str:
        """Append to the file of ``step``; returns the reference."""
        path = self._folder / f"step_{step:06d}.jsonl"
        file, lines = self._files.get(step) or (path.open("a", encoding="ascii"), 0)
        _append(file, encode(trajectory))
        self._files[step] = (file, lines + 1)
        return f"{self._folder.name}/{path.name}#{lines}"

    def record(self, events: Iterable[Event]) -> None:
        """Append to the ledger."""
        for event in events:
            _append(self._ledger, {"event": type(event).__name__, **encode(event)})
            self.ledger_lines += 1

    def sync(self) -> None:
        """On disk, whatever happens to the machine: call before a checkpoint refers to it."""
        for file in [self._ledger, *(file for file, _ in self._files.values())]:
            os.fsync(file.fileno())

    def seal(self, before: int) -> None:
        """Zip the files of steps below ``before``: nothing is added to them any more."""
        for step in [step for step in self._files if step < before]:
            file, _ = self._files.pop(step)
            file.close()
            path = Path(file.name)
            part = path.with_name(path.name + ".gz.part")
            with gzip.open(part, "wb", 5) as packed:
                packed.write(path.read_bytes())
            part.replace(path.with_name(path.name + ".gz"))
            path.unlink()

    def load(self, refs: Iterable[str]) -> dict[str, Trajectory]:
        """Raises CheckpointError naming the first reference that is not there."""
        wanted = sorted(set(refs))
        found: dict[str, Trajectory] = {}
        for name in sorted({ref.partition("#")[0] for ref in wanted}):
            path = _existing(self.root / name)
            if path is None:
                raise CheckpointError(f"{self.root / name}: missing, and the checkpoint's buffered rollouts are in it")
            for number, row in enumerate(_rows(path)):
                ref = f"{name}#{number}"
                if ref in wanted:
                    found[ref] = decode(Trajectory, row)
        for ref in wanted:
            if ref not in found:
                raise CheckpointError(f"{self.root}/{ref}: no such line, and the checkpoint refers to it")
        return found

    def close(self) -> None:
        self._ledger.close()
        for file, _ in self._files.values():
            file.close()
        self._files.clear()


def read_ledger(root: Path, attempt: int) -> list[Event]:
    """Events of one attempt."""
    kinds = {kind.__name__: kind for kind in EVENTS}
    path = Path(root) / _attempt_name(attempt) / "ledger.jsonl"
    return [decode(kinds[row.pop("event")], row) for row in _rows(path)]


def lineage(root: Path, attempt: int) -> list[Event]:
    """Every event in the history of ``attempt``'s weights: its own, before them the part of the attempt it was
    restored from that its checkpoint had seen, and so on."""
    events = read_ledger(root, attempt)
    first = events[0] if events else None
    if not isinstance(first, Restored):
        return events
    return [*lineage(root, first.attempt)[: _prefix(root, first)], *events]


def fates(events: Iterable[Event]) -> dict[str, list[str]]:
    """For each group issued in ``events`` the fates it got there: exactly one each, once a run has ended."""
    found: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, GroupIssued):
            found.setdefault(event.group, [])
        elif isinstance(event, GroupClosed):
            found.setdefault(event.group, []).append(event.fate.value)
    return found


def _prefix(root: Path, restored: Restored) -> int:
    """Lines of the restored attempt's lineage that stay valid."""
    own = len(read_ledger(root, restored.attempt))
    return len(lineage(root, restored.attempt)) - own + restored.ledger_lines


def _attempt_name(attempt: int) -> str:
    return f"attempt_{attempt:03d}"


def _existing(path: Path) -> Path | None:
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.exists() else path if path.exists() else None


def _line(row: Any) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def _append(file: TextIO, row: Any) -> None:
    file.write(_line(row))
    file.flush()


def _rows(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="ascii") if path.suffix == ".gz" else path.open(encoding="ascii") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, data: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = [option for option in get_args(kind) if option is not NoneType]
        return None if data is None else _decode(options[0], data)
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(data) if inner in (int, str, float) else tuple(_decode(inner, item) for item in data)
    if origin in (Mapping, dict):
        inner = get_args(kind)[1]
        return {key: _decode(inner, item) for key, item in data.items()}
    if kind is Any or origin is Literal or origin is not None:
        return data
    if is_dataclass(kind):
        hints = _hints(cast(type, kind))
        return cast(type, kind)(**{key: _decode(hints[key], item) for key, item in data.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if isinstance(kind, type) and issubclass(kind, tuple):  # a NamedTuple
        return kind(*data)
    return data
