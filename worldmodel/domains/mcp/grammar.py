"""The action grammar: one JSON object ``{"name": ..., "arguments": {...}}``, a tool call or the final answer.

Owns: reading and writing calls, the check of their arguments, what no server is asked. Refuses: carrying one out.

Two things are closed to policies because git runs what a repository's configuration names: paths that hold ``.git``,
and any ``repo_path`` but the repository's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from rollout.types import Action
from worldmodel.domains.mcp.catalogue import REPO, TOOLS, Fields, fault

FINAL, PROBE = "answer", "answer_given"
OWN = {FINAL: Fields({"text": "string"}), PROBE: Fields({})}
MAX_CALL, MAX_ANSWER, MAX_DEPTH = 16 * 1024, 2000, 16  # characters, characters, brackets in each other
FORM = 'expected one JSON object {"name": ..., "arguments": {...}}'


def call(name: str, **arguments: Any) -> str:
    """The text of a call, as it is written everywhere."""
    return written(name, arguments)


def written(name: str, arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def parse(text: str) -> Action:
    """Never raises. ``name`` is empty exactly where ``error`` says why."""
    found = read(text)
    if isinstance(found, str):
        return Action(text, error=found)
    name, arguments = found.get("name"), found.get("arguments", {})
    if not isinstance(name, str) or (name not in TOOLS and name not in OWN):
        shown = ascii(name[:40]) if isinstance(name, str) else "that"
        return Action(text, error=f"{shown} is no tool")
    form = OWN[name] if name in OWN else TOOLS[name].arguments
    if problem := fault(form, arguments, "arguments") or closed(name, arguments):
        return Action(text, error=f"{name}: {problem}")
    return Action(text, name=name, arguments=arguments, final=name == FINAL, probe=name == PROBE)


def read(text: str) -> dict[str, Any] | str:
    """The JSON object that ``text`` is, or what is wrong with it."""
    if len(text) > MAX_CALL:
        return f"a call is at most {MAX_CALL} characters"
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return FORM
    if not isinstance(value, dict) or not set(value) <= {"name", "arguments"}:
        return FORM
    return "brackets are nested too deep" if _depth(value) > MAX_DEPTH else value


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def closed(name: str, arguments: dict[str, Any]) -> str:
    """'', or why no server is asked this."""
    if any("\0" in text for text in _texts(arguments)):
        return "a text holds NUL"
    if name == FINAL and not 0 < len(arguments["text"].strip()) <= MAX_ANSWER:
        return f"arguments.text must have 1 to {MAX_ANSWER} characters"
    if arguments.get("repo_path", REPO) != REPO:
        return f"the only repository is {REPO}"
    if name in TOOLS and TOOLS[name].server == "filesystem":
        paths = [arguments.get(key, "") for key in ("path", "source", "destination")] + arguments.get("paths", [])
        if any(re.search(r"\.git(?!ignore\b)", path, re.IGNORECASE) for path in paths):
            return "paths with .git are closed"
    return ""


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]


def said(text: str) -> str:
    """An answer as it is compared and printed: lower case, single blanks, items one a line, sorted."""
    items = re.split(r"[;\n]", text.casefold())
    plain = {" ".join(item.split()).strip(" .\"'`") for item in items}
    return "\n".join(sorted(plain - {""})) or NO_ANSWER


NO_ANSWER = "(no answer)"


def told(actions: Sequence[Action], probe: Action) -> str | None:
    """What ``answer_given`` prints."""
    if probe.name != PROBE:
        return None
    return next((said(action.arguments["text"]) for action in reversed(actions) if action.name == FINAL), NO_ANSWER)
