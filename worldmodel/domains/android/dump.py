"""The state of a reference device as text: what checks read, and what the simulator is told at the start.

Owns: one line form per table, equal in both uses, with every text quoted as screens quote it.
Refuses: changing anything; the tables are only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.types import Action
from worldmodel.domains.android.actions import PROBE
from worldmodel.domains.android.ui import quoted

TABLES = ("settings", "permissions", "contacts", "notes", "alarms", "messages", "folders", "files")
ANSWER = "answer"
EMPTY = "(empty)"

Rows = list[tuple[str, str]]  # (key that a path can name, line)


def dump(data: Mapping[str, Any], what: str, answer: str = "") -> str:
    """The lines of table ``what``, or, of ``table/key``, those with that key. A file's key is its folder."""
    table, slash, key = what.partition("/")
    if what == ANSWER:
        return quoted(answer)
    if table not in TABLES:
        return f"no table {quoted(table)}"
    lines = [line for name, line in _rows(data, table) if not slash or name == key]
    return "\n".join(lines) or EMPTY


def told(actions: Sequence[Action], probe: Action) -> str | None:
    """The dump of the answer after ``actions``."""
    if probe.name != PROBE or probe.arguments["what"] != ANSWER:
        return None
    given = (str(action.arguments["text"]) for action in reversed(actions) if action.name == ANSWER)
    return quoted(next(given, ""))


def transcript(data: Mapping[str, Any]) -> str:
    """All tables that hold something, each under its name."""
    return "\n".join(f"{table}:\n{dump(data, table)}" for table in TABLES if data.get(table))


def _rows(data: Mapping[str, Any], table: str) -> Rows:
    found = data.get(table, ())
    match table:
        case "settings":
            return [(name, f"{quoted(name)} {_setting(value)}") for name, value in found.items()]
        case "permissions":
            return [(name, f"{quoted(name)} {found[name]}") for name in sorted(found)]
        case "contacts":
            ordered = sorted(found, key=lambda c: (c["name"], c["phone"]))
            return [(c["name"], f"{quoted(c['name'])} {quoted(c['phone'])}") for c in ordered]
        case "notes":
            return [(n["title"], _note(n)) for n in found]
        case "alarms":
            return [(time, f"{quoted(time)} {rest}") for time, rest in sorted(_alarm(a) for a in found)]
        case "messages":
            threads = [(t["with"], sender, text) for t in found for sender, text in t["lines"]]
            return [(name, " ".join(map(quoted, (name, sender, text)))) for name, sender, text in threads]
        case "folders":
            return [(path, quoted(path)) for path in sorted(found)]
        case _:
            return [(path.rpartition("/")[0], f"{quoted(path)} {quoted(found[path])}") for path in sorted(found)]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int) else quoted(value)


def _note(note: Mapping[str, Any]) -> str:
    return f"{quoted(note['title'])} {quoted(note['body'])}" + (" pinned" if note["pinned"] else "")


def _alarm(alarm: Mapping[str, Any]) -> tuple[str, str]:
    time = f"{alarm['hour']:02d}:{alarm['minute']:02d}"
    return time, f"{quoted(alarm['label'])} {'on' if alarm['on'] else 'off'}"
