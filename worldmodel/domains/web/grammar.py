"""The action grammar: one JSON object ``{"name": ..., "arguments": {...}}``, the 21 functions of a browser.

Owns: which functions there are, the arguments of each, the text of a call. Refuses: carrying one out.
``send_msg_to_user`` and ``report_infeasible`` end the episode. ``site_state`` is no action of a policy: it is the
read-only probe that checks use.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rollout.types import Action

MESSAGE, INFEASIBLE, PROBE = "send_msg_to_user", "report_infeasible", "site_state"
MAX_CALL, MAX_TEXT, MAX_URL, MAX_KEY, MAX_BID = 16 * 1024, 2000, 1000, 40, 99_999  # the first four: characters
BUTTONS, MODIFIERS = ("left", "middle", "right"), ("Alt", "Control", "Meta", "Shift")
FORM = 'expected one JSON object {"name": ..., "arguments": {...}}'

Read = Callable[[Any], Any]  # the accepted form of a value, None where it is none


class Refused(ValueError):
    """Why a text is no action, in one line."""


def call(name: str, **arguments: Any) -> str:
    """The text of a call, as it is written everywhere."""
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _whole(low: int, high: int) -> Read:
    def read(value: Any) -> int | None:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
            value = int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None

    return read


def _number(low: float, high: float) -> Read:
    def read(value: Any) -> float | None:
        plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
        return value if plain and math.isfinite(value) and low <= value <= high else None

    return read


def _text(most: int, least: int = 0) -> Read:
    def read(value: Any) -> str | None:
        if not isinstance(value, str) or not least <= len(value.strip()) or len(value) > most:
            return None
        return None if re.search(r"[\0\ud800-\udfff]", value) else value

    return read


def _one_of(words: tuple[str, ...]) -> Read:
    return lambda value: value if isinstance(value, str) and value in words else None


def _modifiers(value: Any) -> list[str] | None:
    fine = isinstance(value, list) and len(value) <= len(MODIFIERS) and all(_one_of(MODIFIERS)(v) for v in value)
    return value if fine else None


def _options(value: Any) -> list[str] | None:
    """One text, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return values if 1 <= len(values) <= 20 and all(_text(MAX_TEXT)(v) is not None for v in values) else None


BID = (_whole(1, MAX_BID), "a whole number that the page shows")
X, Y = (_number(0, 1280), "a number from 0 to 1280"), (_number(0, 720), "a number from 0 to 720")
DELTA = (_number(-10_000, 10_000), "a number from -10000 to 10000")
BUTTON = (_one_of(BUTTONS), " or ".join(BUTTONS))
LONG = (_text(MAX_TEXT), f"a text of at most {MAX_TEXT} characters")
SAID = (_text(MAX_TEXT, 1), f"a text of 1 to {MAX_TEXT} characters")
KEY = (_text(MAX_KEY, 1), "a key such as Enter or Control+a")
ADDRESS = (lambda value: _text(MAX_URL, 1)(value) if str(value).startswith("http://") else None,
           "an address that starts with http://")  # fmt: skip

# name: the arguments, each with how it is read, what it must be and, where it may be left out, its default
FUNCTIONS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "noop": {"wait_ms": (_number(0, 1000), "a number from 0 to 1000", 200)},
    "mouse_move": {"x": X, "y": Y},
    "mouse_click": {"x": X, "y": Y, "button": (*BUTTON, "left")},
    "mouse_dblclick": {"x": X, "y": Y, "button": (*BUTTON, "left")},
    "mouse_down": {"x": X, "y": Y, "button": (*BUTTON, "left")},
    "mouse_up": {"x": X, "y": Y, "button": (*BUTTON, "left")},
    "scroll": {"delta_x": DELTA, "delta_y": DELTA},
    "click": {"bid": BID, "button": (*BUTTON, "left"), "modifiers": (_modifiers, "a list of Alt, Control, Shift", [])},
    "hover": {"bid": BID},
    "fill": {"bid": BID, "value": LONG},
    "select_option": {"bid": BID, "options": (_options, "a text, or a list of texts")},
    "keyboard_press": {"key": KEY},
    "keyboard_type": {"text": LONG},
    "tab_focus": {"index": (_whole(0, 99), "the number of a tab")},
    "new_tab": {},
    "tab_close": {},
    "go_back": {},
    "go_forward": {},
    "goto": {"url": ADDRESS},
    MESSAGE: {"text": SAID},
    INFEASIBLE: {"reason": SAID},
}
_PROBES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    PROBE: {"what": (_text(200, 1), "the name of a table, or TABLE/KEY")}
}


def parse(text: str) -> Action:
    """Never raises. ``name`` is empty exactly where ``error`` says why. Arguments hold every default."""
    try:
        name, arguments = _call(text)
    except Refused as error:
        return Action(text, error=str(error))
    return Action(text, name, arguments, final=name in (MESSAGE, INFEASIBLE), probe=name == PROBE)


def _call(text: str) -> tuple[str, dict[str, Any]]:
    if len(text) > MAX_CALL:
        raise Refused(f"a call is at most {MAX_CALL} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(FORM) from None
    if not isinstance(value, dict) or not set(value) <= {"name", "arguments"}:
        raise Refused(FORM)
    name, given = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or name not in {**FUNCTIONS, **_PROBES}:
        raise Refused(f"name: use {', '.join(FUNCTIONS)}")
    if not isinstance(given, dict):
        raise Refused(f"{name}: arguments must be an object")
    return name, _arguments(name, given)


def _arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {**FUNCTIONS, **_PROBES}[name]
    needed = [key for key, how in wanted.items() if len(how) < 3]
    if not set(needed) <= set(given) or not set(given) <= set(wanted):
        perhaps = [key for key in wanted if key not in needed]
        optional = f", perhaps {', '.join(perhaps)}" if perhaps else ""
        raise Refused(f"{name}: give {' and '.join(needed) or 'no arguments'}{optional}, nothing else")
    found = {}
    for key, how in wanted.items():
        found[key] = how[0](given[key]) if key in given else how[2]
        if found[key] is None:
            raise Refused(f"{name}: {key} must be {how[1]}")
    return found


def show(action: Action) -> str:
    """The call without the arguments that say what is usual."""
    if action.error is not None:
        return action.text.strip()
    wanted = {**FUNCTIONS, **_PROBES}[action.name]
    told = {k: v for k, v in action.arguments.items() if len(wanted[k]) < 3 or v != wanted[k][2]}
    return call(action.name, **told)
