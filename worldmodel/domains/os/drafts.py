"""What a family of desktop tasks is made of: words, checks, and blocks that a known solution is written from.

Owns: ``Draft``, checks over files and the calculator, the small blocks. Refuses: single families.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.types import Check, Predicate
from worldmodel.domains.os import as_text
from worldmodel.domains.os.grammar import PROBE_DISPLAY, probe_file, probe_files

STEMS = "report notes plan list letter agenda minutes budget summary draft survey recipe".split()
FOLDERS = "archive drafts travel work school photos music taxes".split()
KINDS = "tmp bak old log part swp".split()
ITEMS = "Pens Ink Paper Glue Tape Clips Chalk Lamps Chairs Cables Boxes Maps".split()
PEOPLE = "Ada Bela Carla Dario Elif Freya Gita Hugo Ines Jonas Kofi Lena".split()
LINES = (
    "buy milk and bread", "call the plumber", "water the plants", "meet at the station", "bring two chairs",
    "send the parcel", "book a table", "read chapter four", "wash the car", "ask for a receipt", "pay the rent",
    "return the keys", "sweep the yard", "print the tickets", "charge the lamp", "feed the cat",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it has an identity. ``gold`` and each of ``wrong`` are blocks; DONE is added."""

    instruction: str
    state: Mapping[str, Any]
    gold: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]


Family = Callable[[random.Random], Draft]


def state(
    files: Mapping[str, str] | None = None, documents: Mapping[str, Any] | None = None, dirs: Sequence[str] = (),
    *, office: bool = False, calculator: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return {
        "files": dict(files or {}), "documents": dict(documents or {}), "dirs": list(dirs), "office": office,
        "calculator": calculator,
    }  # fmt: skip


def holds_text(path: str, text: str) -> Check:
    return Check(f"content of {path}", (probe_file(path),), Predicate("equals", text))


def holds_data(path: str, data: Any) -> Check:
    return holds_text(path, as_text(data))


def listed(*names: str, folder: str = "") -> Check:
    """Exactly these paths lie below ``folder``; folders end in a slash."""
    return Check(f"files {folder}".strip(), (probe_files(folder),), Predicate("same_lines", "\n".join(names)))


def displayed(value: str) -> Check:
    return Check("display of the calculator", (PROBE_DISPLAY,), Predicate("equals", value))


def name(rng: random.Random, kind: str = "txt") -> str:
    return f"{rng.choice(STEMS)}{rng.randrange(1, 100)}.{kind}"


def names(rng: random.Random, count: int, kind: str = "txt") -> list[str]:
    return [f"{stem}{rng.randrange(1, 100)}.{kind}" for stem in rng.sample(STEMS, count)]


def lines(rng: random.Random, count: int) -> list[str]:
    return rng.sample(LINES, count)


def table(rng: random.Random, rows: int) -> list[list[Any]]:
    """A head and ``rows`` rows of an item, a number and a price in quarters."""
    found: list[list[Any]] = [["Item", "Number", "Price"]]
    found += [[item, rng.randrange(2, 60), rng.randrange(4, 200) / 4] for item in rng.sample(ITEMS, rows)]
    return found


# blocks


def edit(path: str) -> str:
    return f"open_app('editor', {path!r})"


def typed(text: str) -> str:
    return f"pyautogui.write({text!r}); settle()"


def reckoned(text: str) -> str:
    """Typed on the calculator, whose buttons stay pressed for a quarter of a second and ignore a second press then."""
    return f"pyautogui.write({text!r}, interval=0.35); settle()"


def keys(*combination: str) -> str:
    """A combination, or single keys one after another where there is one name with a number: ``down*3``."""
    if len(combination) == 1:
        key, _, times = combination[0].partition("*")
        return f"pyautogui.press({key!r}, presses={int(times or 1)}); settle()"
    return f"pyautogui.hotkey({', '.join(map(repr, combination))}); settle()"


SAVE = keys("ctrl", "s")


def block(*parts: str) -> str:
    return "\n".join(parts)


def saved(path: str, text: str) -> str:
    """Plain Python that writes a file."""
    return f"with open({path!r}, 'w') as f:\n    f.write({text!r})"
