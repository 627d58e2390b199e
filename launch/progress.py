"""What a training run shows while it runs: step, reward, real success, speed, staleness and faults in one view.

Owns: reading ``metrics.jsonl`` and ``eval/`` as they grow, and the view: live on a terminal, a line now and then
elsewhere. Refuses: measuring, and being needed: it looks from outside, so it is the same for one process and for
many, and a run without it is the same run.
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

from launch.console import say

LINE_SECONDS = 30.0  # between two lines where there is no terminal
LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Progress:
    """The newest value of every metric. ``began``: (time, step) of the present attempt's first line."""

    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    attempt: int = 0
    time: float = 0.0
    began: tuple[float, int] = (0.0, 0)
    real: tuple[int, float] | None = None  # step and success of the last evaluation

    def take(self, row: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``. Nulls are left out: the value before them stands."""
        step, attempt = int(row.get("step", self.step)), int(row.get("attempt", self.attempt))
        self.time = float(row.get("time", self.time))
        if attempt != self.attempt:
            self.began = (self.time, step)
        self.step, self.attempt = step, attempt
        self.metrics |= {key: float(value) for key, value in row.items() if isinstance(value, int | float)}

    @property
    def seconds_per_step(self) -> float | None:
        """Over the present attempt; None before its second line."""
        steps = self.step - self.began[1]
        return (self.time - self.began[0]) / steps if steps > 0 else None


def cells(progress: Progress, total: int | None) -> list[tuple[str, str]]:
    """(name, value) of everything there is something to say about."""
    found = progress.metrics

    def shown(name: str, key: str, form: str) -> list[tuple[str, str]]:
        return [(name, form.format(found[key]))] if key in found else []

    of = f"/{total}" if total else ""
    out = [("step", f"{progress.step}{of}"), *shown("reward", "reward", "{:.3f}"), *shown("loss", "loss", "{:.4f}")]
    if progress.real is not None:
        out.append(("real success", f"{progress.real[1]:.1%} at step {progress.real[0]}"))
    out += shown("sampled tokens/s", "perf/generated_tok_s", "{:,.0f}")
    out += shown("waited for rollouts", "perf/rollout_wait_s", "{:.1f} s")
    out += shown("staleness", "sample/staleness_mean", "{:.2f}")
    for name, prefix in (("groups", "rollout/groups/"), ("faults", "rollout/faults/")):
        counts = {key.removeprefix(prefix): int(n) for key, n in found.items() if key.startswith(prefix) and n}
        if counts:
            out.append((name, " ".join(f"{key} {count}" for key, count in counts.items())))
    pace = progress.seconds_per_step
    if pace is not None:
        out.append(("pace", f"{pace:.1f} s/step"))
        if total:
            out.append(("left", _duration(pace * max(0, total - progress.step))))
    return out


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


class Watch:
    """A run directory followed from outside; ``look`` reads what is new."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.progress = run_dir, Progress()
        self._offset = 0

    def look(self) -> bool:
        """Whether there was something new."""
        file = self.run_dir / "metrics.jsonl"
        before = (self._offset, self.progress.real)
        if file.is_file():
            with file.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
            whole = data.rfind(b"\n") + 1  # a line that is being written waits for the next look
            self._offset += whole
            for line in data[:whole].splitlines():
                try:
                    self.progress.take(json.loads(line))
                except (ValueError, TypeError, AttributeError):
                    continue  # cut short by a crash of an earlier attempt
        newest = max((self.run_dir / "eval").glob("real-step_*.json"), default=None)
        if newest is not None:
            step = int(newest.stem.rsplit("_", 1)[-1])
            if self.progress.real is None or self.progress.real[0] != step:
                found = json.loads(newest.read_text(encoding="utf-8"))
                self.progress.real = (step, float(found["success"]["mean"]))
        return before != (self._offset, self.progress.real)


@contextmanager
def watching(run_dir: str | Path, total: int | None) -> Iterator[None]:
    """The view of ``run_dir``, for as long as the block runs; ``total`` in optimiser steps."""
    over = threading.Event()
    watch = Watch(Path(run_dir))
    show = _live if sys.stdout.isatty() else _lines
    thread = threading.Thread(target=show, args=(watch, total, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5 * LOOK_SECONDS)


def _lines(
    watch: Watch,
    total: int | None,
    over: threading.Event,
    say: Callable[[str], None] = say,
    every: float = LINE_SECONDS,
) -> None:
    shown, fresh = 0.0, False
    watch.look()  # what an earlier attempt left is no news
    while not over.wait(LOOK_SECONDS):
        fresh |= watch.look()
        if fresh and time.monotonic() - shown >= every:
            say("  ".join(f"{name} {value}" for name, value in cells(watch.progress, total)))
            shown, fresh = time.monotonic(), False


def _live(watch: Watch, total: int | None, over: threading.Event) -> None:
    from rich.live import Live

    with Live(refresh_per_second=2) as live:
        while not over.wait(LOOK_SECONDS):
            watch.look()
            live.update(_panel(watch.progress, total))


def _panel(progress: Progress, total: int | None) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in cells(progress, total):
        table.add_row(Text(name, style="dim"), Text(value))
    if total:
        table.add_row(Text(""), ProgressBar(total=total, completed=progress.step, width=40))
    return table
