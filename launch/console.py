"""What commands print: text that may come from a model, made safe for a terminal.

Owns: lines and tables on stdout. Refuses: deciding what to say.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launch.errors import strip_controls


def say(text: str) -> None:
    """Print a line that may hold model-written text."""
    print(strip_controls(text), flush=True)


def show(rows: Sequence[tuple[str, ...]]) -> None:
    """A table, its first row the header; numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*(Text(strip_controls(cell)) for cell in row))
    # a file or pipe has no width: nothing is cut there
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else 1000).print(table)
