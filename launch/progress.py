"""One view of a run while it trains: read from its ``metrics.jsonl``, so that it works wherever the ranks live.

Owns: following the file, the figures that are shown, a live table on a terminal and a line every half minute
elsewhere. Refuses: measuring anything; a run without the view is the same run.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
REFRESH, LINE_EVERY = 1.0, 30.0  # seconds
RECENT = 10  # optimiser steps a mean is over
FAULTS, GROUPS = "rollout/faults/", "rollout/groups/"


@dataclass(slots=True)
class Figures:
    """What is known about the run so far. ``rows``: the latest lines of its metrics."""

    total: int | None
    began: float = field(default_factory=time.monotonic)
    first: int | None = None  # the step this start began after
    step: int = 0
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    evaluated: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        if row.get("transfer/step") is not None:
            keys = ("transfer/real_success", "transfer/gap")
            self.evaluated[int(row["transfer/step"])] = {key: row[key] for key in keys if key in row}
        if "loss" not in row:
            return
        self.step = int(row["step"])
        if self.first is None:
            self.first = self.step - 1
        self.rows = [*self.rows, row][-RECENT:]

    def mean(self, key: str) -> float | None:
        values = [row[key] for row in self.rows if isinstance(row.get(key), int | float)]
        return sum(values) / len(values) if values else None

    def last(self, key: str) -> float | None:
        return next((row[key] for row in reversed(self.rows) if isinstance(row.get(key), int | float)), None)

    def remaining(self) -> float | None:
        """Seconds, at the pace of this start."""
        if self.total is None or self.first is None or self.step <= self.first:
            return None
        return (time.monotonic() - self.began) / (self.step - self.first) * (self.total - self.step)

    def shown(self) -> list[tuple[str, str]]:
        """(name, value) pairs; figures that the run does not have are left out."""
        left = self.remaining()
        step = f"{self.step}" + (f" of {self.total}" if self.total else "") + (f", {_time(left)} left" if left else "")
        found: list[tuple[str, str | None]] = [
            ("step", step),
            ("reward", _number(self.mean("reward"), 3)),
            ("entropy", _number(self.mean("entropy"), 3)),
            ("real success", self._real()),
            ("generated tokens/s", _number(self.mean("perf/generated_tok_s"), 0)),
            ("staleness", _number(self.last("sample/staleness_max"), 0)),
            ("waited for rollouts", _seconds(self.mean("perf/rollout_wait_s"))),
            ("queue", _number(self.last("rollout/queued"), 0)),
            ("groups", self._counts(GROUPS)),
            ("faults", self._counts(FAULTS) or "none"),
        ]
        return [(name, value) for name, value in found if value]

    def line(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self.shown())

    def _real(self) -> str | None:
        if not self.evaluated:
            return None
        step = max(self.evaluated)
        values = self.evaluated[step]
        gap = f", simulated {values['transfer/gap']:+.1%}" if "transfer/gap" in values else ""
        return f"{values['transfer/real_success']:.1%} at step {step}{gap}"

    def _counts(self, prefix: str) -> str:
        last = self.rows[-1] if self.rows else {}
        found = {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix) and value}
        return ", ".join(f"{value:.0f} {name}" for name, value in sorted(found.items()))


@contextmanager
def watching(run_dir: str | Path, total: int | None, say: Callable[[str], None], live: bool | None = None) -> Iterator:
    """Show the run in ``run_dir`` for as long as the block lasts. ``live`` None: where stdout is a terminal."""
    done = threading.Event()
    file = Path(run_dir) / METRICS
    offset = file.stat().st_size if file.exists() else 0
    show = _live if (sys.stdout.isatty() if live is None else live) else _lines
    thread = threading.Thread(target=show, args=(file, offset, Figures(total), done, say), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5.0)


def follow(file: Path, offset: int) -> tuple[list[Mapping[str, Any]], int]:
    """Whole lines after byte ``offset``, and where they end. A line that is no JSON object is passed over."""
    if not file.exists() or file.stat().st_size <= offset:
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    end = data.rfind(b"\n") + 1
    rows: list[Mapping[str, Any]] = []
    for line in data[:end].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, offset + end


def _lines(file: Path, offset: int, figures: Figures, done: threading.Event, say: Callable[[str], None]) -> None:
    said, step = time.monotonic(), 0
    while not done.wait(REFRESH):
        offset = _read(file, offset, figures)
        if figures.step != step and time.monotonic() - said >= LINE_EVERY:
            say(figures.line())
            said, step = time.monotonic(), figures.step
    _read(file, offset, figures)
    if figures.step != step:
        say(figures.line())


def _live(file: Path, offset: int, figures: Figures, done: threading.Event, say: Callable[[str], None]) -> None:
    from rich.live import Live

    with Live(_table(figures), refresh_per_second=4, transient=False) as view:
        while not done.wait(REFRESH):
            offset = _read(file, offset, figures)
            view.update(_table(figures))
        _read(file, offset, figures)
        view.update(_table(figures))


def _read(file: Path, offset: int, figures: Figures) -> int:
    rows, offset = follow(file, offset)
    for row in rows:
        figures.add(row)
    return offset


def _table(figures: Figures) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in figures.shown():
        table.add_row(f"[dim]{name}[/dim]", value)
    if figures.total:
        from rich.progress_bar import ProgressBar

        table.add_row("", ProgressBar(total=figures.total, completed=figures.step, width=40))
    return table


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} s a batch"


def _time(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
