"""How far the long calls of a pool are: a bar on a terminal, a line every half minute elsewhere.

Owns: what is shown while a command evaluates or vets. Refuses: measuring; a call without the view is the same call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from launch.console import say as print_line
from rollout.pool import Pool

LINE_EVERY = 30.0  # seconds
Watch = Callable[[int, int], None]


@contextmanager
def counting(
    pool: Pool, what: str, say: Callable[[str], None] = print_line, live: bool | None = None
) -> Iterator[None]:
    """While the block lasts, ``pool`` shows how many episodes of its present call have ended; ``what`` names them.
    ``live`` None: where stdout is a terminal."""
    shown = _bar(what) if (sys.stdout.isatty() if live is None else live) else nullcontext(_lines(what, say))
    try:
        with shown as pool.watch:
            yield
    finally:
        pool.watch = None


def _lines(what: str, say: Callable[[str], None]) -> Watch:
    said = time.monotonic()

    def watch(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_EVERY:
            say(f"{what}: {done} of {total} episodes")
            said = time.monotonic()

    return watch


@contextmanager
def _bar(what: str) -> Iterator[Watch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bars:
        row = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(row, completed=done, total=total)
