"""What happened in a sweep: events in ``ledger.jsonl``, and the state that follows from them.

Owns: the events, their file (appended, forced to disk, a line cut short by a crash dropped), and folding them into
trials. Refuses: deciding (``launch.sweep.plan``). The file is the sweep's only memory: whoever reads it again knows
all that the driver knew.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rollout.errors import CheckpointError, ConfigError

LEDGER, LOCK = "ledger.jsonl", "sweep.lock"
FORMAT = 1
Fate = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of work: train one seed of one trial up to optimiser step ``until``, and measure it."""

    trial: int
    seed: int
    until: int

    def __str__(self) -> str:
        return f"trial {self.trial} seed {self.seed} to step {self.until}"


@dataclass(frozen=True, slots=True)
class Opened:
    """First line: what decides proposals and fates. A sweep is continued under the same decisions or not at all.
    ``id`` is the sweep's name elsewhere: a folder's name may be used again."""

    decides: Mapping[str, Any]
    id: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Session:
    """A driver took over."""

    number: int


@dataclass(frozen=True, slots=True)
class Proposed:
    trial: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Assigned:
    """``unit`` was handed out in ``session``; it may have been handed out before, if it did not come back."""

    unit: Unit
    session: int


@dataclass(frozen=True, slots=True)
class Reached:
    """``unit`` is done. ``value``: the metric at its step; ``coverage``: share of its episodes with a score;
    ``tokens``: trained on since the run began; ``seconds``: of this unit alone."""

    unit: Unit
    value: float
    coverage: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The process that ran ``unit`` is gone."""

    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """``unit`` will not be tried again."""

    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial has its fate, after ``step`` optimiser steps of each seed."""

    trial: int
    fate: Fate
    step: int


Event = Opened | Session | Proposed | Assigned | Reached | Lost | Failed | Ended
_KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind for kind in (Opened, Session, Proposed, Assigned, Reached, Lost, Failed, Ended)
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known about one configuration. ``fate`` None: still under way."""

    number: int
    values: Mapping[str, Any]
    reached: Mapping[tuple[int, int], Reached] = field(default_factory=dict)  # by (seed, step)
    failed: Mapping[tuple[int, int], Failed] = field(default_factory=dict)
    lost: Mapping[tuple[int, int], int] = field(default_factory=dict)  # times
    fate: Fate | None = None
    step: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """``seconds``: wall clock of all sessions, up to their last event."""

    trials: tuple[Trial, ...] = ()
    decides: Mapping[str, Any] | None = None
    id: str = ""
    sessions: int = 0
    seconds: float = 0.0
    last: float = 0.0  # time of the last event


def apply(state: State, event: Event, at: float) -> State:
    """The state after ``event``, which was written ``at`` (Unix time)."""
    clock = 0.0 if isinstance(event, Session | Opened) else max(0.0, at - state.last)
    state = replace(state, seconds=state.seconds + clock, last=at)
    if isinstance(event, Opened):
        return replace(state, decides=event.decides, id=event.id)
    if isinstance(event, Session):
        return replace(state, sessions=event.number)
    if isinstance(event, Proposed):
        return replace(state, trials=(*state.trials, Trial(event.trial, event.values)))
    if isinstance(event, Assigned):
        return state
    number = event.trial if isinstance(event, Ended) else event.unit.trial
    trials = tuple(_after(t, event) if t.number == number else t for t in state.trials)
    return replace(state, trials=trials)


def _after(trial: Trial, event: Reached | Lost | Failed | Ended) -> Trial:
    if isinstance(event, Ended):
        return replace(trial, fate=event.fate, step=event.step)
    key = (event.unit.seed, event.unit.until)
    if isinstance(event, Reached):
        return replace(trial, reached={**trial.reached, key: event})
    if isinstance(event, Failed):
        return replace(trial, failed={**trial.failed, key: event})
    return replace(trial, lost={**trial.lost, key: trial.lost.get(key, 0) + 1})


def fold(events: Iterable[tuple[float, Event]]) -> State:
    return reduce(lambda state, item: apply(state, item[1], item[0]), events, State())


class Ledger:
    """The open ledger of a sweep; one driver at a time holds it. ``state`` follows every ``record``."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where another driver holds it, CheckpointError where a line is damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"{folder}: another sweep is running here") from error
        self.file = folder / LEDGER
        try:
            events, whole = read(self.file)
        except CheckpointError:
            self._lock.close()
            raise
        self.state = fold(events)
        self._stream = self.file.open("ab")
        self._stream.truncate(whole)

    def record(self, event: Event) -> None:
        """On disk when it returns; never written otherwise."""
        now = time.time()
        self._stream.write(encode(event, now).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.state = apply(self.state, event, now)

    @property
    def elapsed(self) -> float:
        """Seconds of wall clock, this moment included."""
        return self.state.seconds + max(0.0, time.time() - self.state.last)

    def close(self) -> None:
        self._stream.close()
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def encode(event: Event, at: float) -> str:
    return json.dumps({"event": type(event).__name__.lower(), "time": round(at, 3), **asdict(event)})


def decode(line: str) -> tuple[float, Event]:
    """Raises ValueError, KeyError or TypeError where ``line`` is no event."""
    fields = json.loads(line)
    kind, at = _KINDS[fields.pop("event")], float(fields.pop("time"))
    if "unit" in fields:
        fields["unit"] = Unit(**fields["unit"])
    return at, kind(**fields)


def read(file: Path) -> tuple[list[tuple[float, Event]], int]:
    """The (time, event) pairs of ``file`` and the bytes they take: a last line without its newline never happened.
    Raises CheckpointError naming the line."""
    data = file.read_bytes() if file.exists() else b""
    whole = data.rfind(b"\n") + 1
    events: list[tuple[float, Event]] = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            events.append(decode(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}, line {number}: not an event of a sweep ({type(error).__name__})") from error
    return events, whole
