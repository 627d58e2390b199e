"""The tables of a site as lines of text: what a probe prints, and what the simulator is told.

Owns: that form. Refuses: changing anything. It reads JSON that came out of the box and trusts none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.types import Action
from worldmodel.domains.web.grammar import INFEASIBLE, PROBE
from worldmodel.domains.web.grammar import MESSAGE as SAY

NOTHING, MESSAGE = "(empty)", "message"


def dump(tables: Mapping[str, Any], what: str, message: str = "") -> str:
    """The records of a table one a line; ``TABLE/KEY``: those whose first field is KEY; ``message``: what the user was
    told."""
    if what == MESSAGE:
        return message or NOTHING
    name, _, key = what.partition("/")
    records = tables.get(name)
    if not isinstance(records, list):
        return f"there is no table {name}"
    lines = [line(record) for record in records if not key or _first(record) == key]
    return "\n".join(lines) or NOTHING


def told(actions: Sequence[Action], probe: Action) -> str | None:
    """The dump of what the user was told by ``actions``."""
    if probe.name != PROBE or probe.arguments["what"] != MESSAGE:
        return None
    return dump({}, MESSAGE, next((message(action) for action in reversed(actions) if action.final), ""))


def message(final: Action) -> str:
    """What a final action tells the user."""
    return str(final.arguments.get("text", "")) if final.name == SAY else INFEASIBLE


def line(record: object) -> str:
    if not isinstance(record, Mapping):
        return _plain(record)
    return "; ".join(f"{key}: {_plain(value)}" for key, value in record.items())


def _first(record: object) -> str:
    return _plain(next(iter(record.values()), "")) if isinstance(record, Mapping) else _plain(record)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return " ".join(str(value).split())


def transcript(state: Mapping[str, Any]) -> str:
    """A whole state: each table under its name."""
    parts = [f"site: {state.get('site', '')}"]
    for name in state.get("tables", {}):
        parts.append(f"table {name}:\n{dump(state['tables'], name)}")
    return "\n".join(parts)
