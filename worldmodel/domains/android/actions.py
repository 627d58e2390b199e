"""The action grammar: one JSON object per turn, with the action types of AndroidWorld.

Owns: which types there are, the arguments of each, the canonical text of an action. Refuses: carrying actions out.
``dump`` is no action of a policy: it is the read-only probe that checks use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rollout.types import Action
from worldmodel.domains.android.ui import MAX_TEXT, clean

FINAL, PROBE = "status", "dump"
GOALS, DIRECTIONS = ("complete", "infeasible"), ("up", "down", "left", "right")
MAX_ACTION, MAX_INDEX = 4096, 999  # characters of an action; the largest index

Value = str | int | bool
Read = Callable[[Any], Value | None]  # the accepted form of a value, None where it is none


def _index(value: Any) -> int | None:
    """Digits in quotes are an index too, as in AndroidWorld."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MAX_INDEX)):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INDEX else None


def _text(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) and len(value) <= MAX_TEXT else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _direction(value: Any) -> str | None:
    return value if isinstance(value, str) and value in DIRECTIONS else None


def _goal(value: Any) -> str | None:
    return value if isinstance(value, str) and value in GOALS else None


ARGUMENTS: Mapping[str, tuple[Read, str]] = {
    "index": (_index, f"a whole number from 0 to {MAX_INDEX}"),
    "text": (_text, f"a string of at most {MAX_TEXT} characters"),
    "clear_text": (_flag, "true or false"),
    "direction": (_direction, ", ".join(DIRECTIONS)),
    "app_name": (_text, f"a string of at most {MAX_TEXT} characters"),
    "goal_status": (_goal, " or ".join(GOALS)),
    "what": (_text, f"a string of at most {MAX_TEXT} characters"),
}
TYPES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # (needed, optional) arguments
    "click": (("index",), ()),
    "double_tap": (("index",), ()),
    "long_press": (("index",), ()),
    "input_text": (("text",), ("index", "clear_text")),
    "scroll": (("direction",), ("index",)),
    "swipe": (("direction",), ("index",)),
    "keyboard_enter": ((), ()),
    "navigate_home": ((), ()),
    "navigate_back": ((), ()),
    "open_app": (("app_name",), ()),
    "wait": ((), ()),
    "answer": (("text",), ()),
    FINAL: (("goal_status",), ()),
    PROBE: (("what",), ()),
}


def parse(text: str) -> Action:
    """Never raises; ``error`` is one line."""
    found = _object(text)
    if isinstance(found, str):
        return Action(text, error=found)
    name = found.pop("action_type", None)
    if not isinstance(name, str) or name not in TYPES:
        return Action(text, error=f"action_type must be one of {', '.join(t for t in TYPES if t != PROBE)}")
    needed, optional = TYPES[name]
    for key in found:
        if key not in (*needed, *optional):
            return Action(text, error=f"{name} takes no {key[:40]!a}")
    arguments = {}
    for key in (*needed, *optional):
        if key not in found:
            if key in needed:
                return Action(text, error=f"{name} needs {key}")
            continue
        read, expected = ARGUMENTS[key]
        value = read(found[key])
        if value is None:
            return Action(text, error=f"{key} must be {expected}")
        arguments[key] = value
    return Action(text, name=name, arguments=arguments, final=name == FINAL, probe=name == PROBE)


def _object(text: str) -> dict[str, Any] | str:
    """The JSON object that ``text`` is, or what is wrong with it."""
    expected = 'expected one JSON object such as {"action_type": "click", "index": 0}'
    if len(text) > MAX_ACTION:
        return f"an action is at most {MAX_ACTION} characters"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return expected
    return value if isinstance(value, dict) else expected


def written(name: str, **arguments: Value) -> str:
    """The canonical text of an action."""
    return json.dumps({"action_type": name, **arguments}, ensure_ascii=False)


def show(action: Action) -> str:
    """The action in canonical form; what is no action stays as it was said."""
    return action.text.strip() if action.error else written(action.name, **action.arguments)
