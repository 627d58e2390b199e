"""Raw output of a command -> the text a policy sees: an 80x40 screen without control characters.

Owns: decoding, control characters, the last 40 rows, the line that says something was cut.
Refuses: colours and cursor addressing (the keystroke form uses a terminal emulator).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from worldmodel.sandbox.limits import COLUMNS, ROWS

CUT = "[output cut]"
NOTES = {"timeout": "[timed out]", "flood": "[too much output]", "exit": "[shell exited]"}
End = Literal["ok", "timeout", "flood", "exit"]

_TAIL = 64 * 1024  # bytes that can matter for the last 40 rows
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)  # CSI, OSC, other strings, short escapes
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and bidirectional overrides


@dataclass(frozen=True, slots=True)
class Screen:
    """What one command printed. ``status`` is the exit status, None where the command did not end."""

    text: str
    status: int | None
    end: End = "ok"
    cut: bool = False


def render(raw: bytes, status: int | None, end: End = "ok") -> Screen:
    """The last 40 rows of 80 columns. Long lines are not broken, only counted as the rows they would fill."""
    tail = raw[-_TAIL:]
    text = clean(tail.decode("utf-8", errors="replace")).rstrip("\n")
    note = NOTES.get(end)
    lines = text.split("\n") if text else []
    lines = [*lines, note] if note else lines
    kept, cut = _last_rows(lines, ROWS)
    if cut or len(raw) > len(tail):
        kept, cut = [CUT, *_last_rows(lines, ROWS - 1)[0]], True
    return Screen("\n".join(kept), status, end, cut)


def _last_rows(lines: list[str], rows: int) -> tuple[list[str], bool]:
    kept: list[str] = []
    for line in reversed(lines):
        need = max(1, -(-len(line.expandtabs()) // COLUMNS))
        if need > rows:
            if rows:
                kept.append(line[-rows * COLUMNS :])
            return kept[::-1], True
        rows -= need
        kept.append(line)
    return kept[::-1], False


def clean(text: str) -> str:
    """Printable text, tabs and newlines; carriage returns and backspaces act as on a terminal."""
    if text.isprintable():
        return text
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    if "\r" in text or "\b" in text:
        text = "\n".join(_overwrite(line) if "\r" in line or "\b" in line else line for line in text.split("\n"))
    return _CONTROLS.sub("", text)


def _overwrite(line: str) -> str:
    cells: list[str] = []
    at = 0
    for char in line:
        if char == "\r":
            at = 0
        elif char == "\b":
            at = max(0, at - 1)
        else:
            cells[at : at + 1] = [char]
            at += 1
    return "".join(cells)
