"""The action grammar of the search domain: one JSON object ``{"name": ..., "arguments": {...}}``.

Owns: which calls exist, what their arguments may be, and writing a call as text. Refuses: carrying one out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rollout.types import Action

FINAL, PROBE = "answer", "answer_given"
MAX_CALL, MAX_QUERY, MAX_QUERIES, MAX_URL = 16 * 1024, 400, 5, 500  # characters, queries
MAX_KEY, MAX_VALUE, MAX_ANSWER = 100, 2000, 4000
MAX_ROWS, MAX_COLUMNS = 50, 10
MEMORY: dict[str, tuple[str, ...]] = {
    "add": ("key", "value"),
    "update": ("key", "value"),
    "retrieve": ("key",),
    "remove": ("key",),
    "retrieve_all": (),
    "remove_all": (),
}
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
    return Action(text, name=name, arguments=arguments, final=name == FINAL, probe=name == PROBE)


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
        raise Refused(f"name: use {', '.join(sorted(set(READERS) - {PROBE}))}")
    if not isinstance(arguments, dict):
        raise Refused(f"{name}: arguments must be an object")
    return name, READERS[name](arguments)


def _keys(name: str, arguments: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    if set(arguments) != set(wanted):
        raise Refused(f"{name}: give {' and '.join(wanted) or 'no arguments'}, nothing else")


def _text(where: str, value: object, most: int) -> str:
    """A text that is not blank, not too long, and can be encoded."""
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise Refused(f"{where}: a text of 1 to {most} characters")
    if re.search(r"[\0\ud800-\udfff]", value):
        raise Refused(f"{where}: holds NUL or half a surrogate pair")
    return value


def _search(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if set(arguments) == {"query"}:
        return {"query": _text("web_search: query", arguments["query"], MAX_QUERY)}
    if set(arguments) != {"queries"}:
        raise Refused("web_search: give query, or queries")
    queries = arguments["queries"]
    if not isinstance(queries, list) or not 1 <= len(queries) <= MAX_QUERIES:
        raise Refused(f"web_search: queries is a list of 1 to {MAX_QUERIES} texts")
    return {"queries": [_text("web_search: queries", query, MAX_QUERY) for query in queries]}


def _extractor(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys("web_extractor", arguments, ("url",))
    url = _text("web_extractor: url", arguments["url"], MAX_URL).strip()
    if not re.fullmatch(r"https?://[^\s\x00-\x1f\x7f]+", url):
        raise Refused("web_extractor: url must start with https:// or http:// and hold no blanks")
    return {"url": url}


def _memory(arguments: Mapping[str, Any]) -> dict[str, Any]:
    action = arguments.get("action")
    if not isinstance(action, str) or action not in MEMORY:
        raise Refused(f"dict_memory: action is one of {', '.join(MEMORY)}")
    _keys(f"dict_memory {action}", arguments, ("action", *MEMORY[action]))
    found = {"action": action}
    for name in MEMORY[action]:
        found[name] = _text(f"dict_memory: {name}", arguments[name], MAX_KEY if name == "key" else MAX_VALUE)
    if re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", found.get("key", "")):
        raise Refused("dict_memory: key is one line")
    return found


def _answer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if set(arguments) == {"text"}:
        return {"text": _text("answer: text", arguments["text"], MAX_ANSWER)}
    if set(arguments) != {"rows"}:
        raise Refused("answer: give text, or rows")
    rows = arguments["rows"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
        raise Refused(f"answer: rows is a list of 1 to {MAX_ROWS} objects")
    return {"rows": [_row(row) for row in rows]}


def _row(row: object) -> dict[str, Any]:
    if not isinstance(row, dict) or not 1 <= len(row) <= MAX_COLUMNS:
        raise Refused(f"answer: a row is an object of 1 to {MAX_COLUMNS} keys")
    return {_text("answer: key of a row", key, MAX_KEY): _cell(value) for key, value in row.items()}


def _cell(value: object) -> str | int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A whole number is bounded, so that printing it is always possible.
        if abs(value) < 1e18 and math.isfinite(value):
            return value
        raise Refused("answer: a number in a row is finite and below 1e18")
    return _text("answer: value in a row", value, MAX_VALUE)


def _probe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    _keys(PROBE, arguments, ())
    return {}


READERS = {
    "web_search": _search,
    "web_extractor": _extractor,
    "dict_memory": _memory,
    FINAL: _answer,
    PROBE: _probe,
}
