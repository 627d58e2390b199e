"""The action grammar of the swe domain: one JSON object ``{"name": ..., "arguments": {...}}``.

Owns: which calls exist, what their arguments may be, and writing a call as text. Refuses: carrying one out.
``run_tests`` is no action of a policy: it is the probe of a verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rollout.types import Action

FINAL, PROBE = "finish", "run_tests"
MAX_CALL, MAX_COMMAND, MAX_PATH, MAX_PATTERN = 64 * 1024, 8 * 1024, 300, 300  # characters
MAX_LINE, MAX_TODOS, MAX_TODO, MAX_FILES = 1_000_000, 30, 200, 200
STATUSES = ("pending", "in_progress", "done")
FORM = 'expected one JSON object {"name": ..., "arguments": {...}}'


class Refused(ValueError):
    """Why a text is no action, in one line."""


def call(name: str, **arguments: Any) -> str:
    """The text of a call, as it is written everywhere."""
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def parse(text: str) -> Action:
    """Never raises. ``name`` is empty exactly where ``error`` says why."""
    try:
        name, arguments = _call(text)
    except Refused as error:
        return Action(text, error=str(error))
    probe = name == PROBE
    return Action(text, name=name, arguments=arguments, final=name == FINAL, probe=probe, executes=probe)


def show(action: Action) -> str:
    """The action in canonical form; what is no action stays as it was said."""
    return action.text.strip() if action.error else call(action.name, **action.arguments)


def _call(text: str) -> tuple[str, dict[str, Any]]:
    if len(text) > MAX_CALL:
        raise Refused(f"a call is at most {MAX_CALL} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(FORM) from None
    if not isinstance(value, dict) or not set(value) <= {"name", "arguments"}:
        raise Refused(FORM)
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or name not in READERS:
        raise Refused(f"name: use {', '.join(known for known in READERS if known != PROBE)}")
    if not isinstance(arguments, dict):
        raise Refused(f"{name}: arguments must be an object")
    return name, READERS[name](arguments)


def _keys(name: str, arguments: Mapping[str, Any], needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    unknown = [key for key in arguments if key not in (*needed, *optional)]
    if unknown or any(key not in arguments for key in needed):
        allowed = [*needed, *(f"{key} (optional)" for key in optional)]
        raise Refused(f"{name}: give {', '.join(allowed) or 'no arguments'}, nothing else")


def _text(where: str, value: object, most: int, empty: bool = False) -> str:
    """A text that can be encoded, not blank unless ``empty``."""
    if not isinstance(value, str) or len(value) > most or not (empty or value.strip()):
        raise Refused(f"{where}: a text of {0 if empty else 1} to {most} characters")
    if re.search(r"[\0\ud800-\udfff]", value):
        raise Refused(f"{where}: holds NUL or half a surrogate pair")
    return value


def _line(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LINE:
        raise Refused(f"{where}: a line number from 1")
    return value


def _shell(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("shell", arguments, ("command",))
    return {"command": _text("shell: command", arguments["command"], MAX_COMMAND)}


def _read(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("read", arguments, ("path",), ("start", "end"))
    found: dict[str, Any] = {"path": _text("read: path", arguments["path"], MAX_PATH)}
    for key in ("start", "end"):
        if key in arguments:
            found[key] = _line(f"read: {key}", arguments[key])
    if found.get("start", 1) > found.get("end", MAX_LINE):
        raise Refused("read: start is after end")
    return found


def _edit(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("edit", arguments, ("path", "old", "new"))
    found = {"path": _text("edit: path", arguments["path"], MAX_PATH)}
    for key in ("old", "new"):
        found[key] = _text(f"edit: {key}", arguments[key], MAX_CALL, empty=True)
    if found["old"] == found["new"]:
        raise Refused("edit: old and new are equal")
    return found


def _list(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("list", arguments, (), ("path",))
    return {"path": _text("list: path", arguments["path"], MAX_PATH)} if "path" in arguments else {}


def _search(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("search", arguments, ("pattern",), ("path",))
    found = {"pattern": _text("search: pattern", arguments["pattern"], MAX_PATTERN)}
    if "path" in arguments:
        found["path"] = _text("search: path", arguments["path"], MAX_PATH)
    return found


def _todo(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("todo", arguments, (), ("items",))
    if "items" not in arguments:
        return {}
    items = arguments["items"]
    if not isinstance(items, list) or len(items) > MAX_TODOS:
        raise Refused(f"todo: items is a list of at most {MAX_TODOS} objects")
    return {"items": [_item(item) for item in items]}


def _item(item: object) -> dict[str, str]:
    if not isinstance(item, dict) or set(item) != {"text", "status"} or item["status"] not in STATUSES:
        raise Refused(f"todo: an item has text and status ({', '.join(STATUSES)})")
    text = _text("todo: text", item["text"], MAX_TODO)
    if re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", text):
        raise Refused("todo: text is one line")
    return {"text": text, "status": item["status"]}


def _finish(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys(FINAL, arguments, ())
    return {}


def _probe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys(PROBE, arguments, ("files", "failing"))
    found = {}
    for key in ("files", "failing"):
        names = arguments[key]
        if not isinstance(names, list) or not 1 <= len(names) <= MAX_FILES:
            raise Refused(f"{PROBE}: {key} is a list of 1 to {MAX_FILES} texts")
        found[key] = [_text(f"{PROBE}: {key}", name, 1000) for name in names]
    return found


READERS = {
    "shell": _shell,
    "read": _read,
    "edit": _edit,
    "list": _list,
    "search": _search,
    "todo": _todo,
    FINAL: _finish,
    PROBE: _probe,
}
