"""The view of a suite under way: bars on a terminal, a line now and then elsewhere.

Owns: counting what has ended. Refuses: measuring; a suite without the view is the same suite.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rollout.types import Trajectory

LINE_EVERY = 30.0  # seconds
Tick = Callable[[Trajectory], None]


class Watch:
    """``sizes``: tasks by benchmark. ``bars``: a ``rich.progress.Progress``, or None for lines."""

    def __init__(self, sizes: Sequence[tuple[str, int]], say: Callable[[str], None], bars: Any = None) -> None:
        self._sizes, self._say, self._bars = dict(sizes), say, bars
        self._rows = (
            {name: bars.add_task(name, total=size, start=False, solved="") for name, size in sizes} if bars else {}
        )

    @contextmanager
    def benchmark(self, name: str) -> Iterator[Tick]:
        """While ``name`` runs: what it tells of each episode that has ended."""
        done, solved, said = 0, 0, time.monotonic()
        if self._bars:
            self._bars.start_task(self._rows[name])

        def line() -> str:
            return f"{name}: {done} of {self._sizes[name]} episodes, {solved} solved"

        def tick(trajectory: Trajectory) -> None:
            nonlocal done, solved, said
            done, solved = done + 1, solved + (trajectory.score.reward == 1.0)
            if self._bars:
                self._bars.update(self._rows[name], completed=done, solved=f"{solved} solved")
            elif time.monotonic() - said >= LINE_EVERY:
                self._say(line())
                said = time.monotonic()

        yield tick
        if not self._bars:
            self._say(line())


@contextmanager
def watch(sizes: Sequence[tuple[str, int]], say: Callable[[str], None], live: bool) -> Iterator[Watch]:
    """``live`` False: lines even on a terminal, because a person types there."""
    if not (live and sys.stdout.isatty()):
        yield Watch(sizes, say)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[solved]}"))
    with Progress(*columns, TimeElapsedColumn()) as bars:
        yield Watch(sizes, say, bars)
