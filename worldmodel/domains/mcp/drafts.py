"""What a task family makes, and the parts it is made of: states, calls, checks.

Owns: the form of a draft and the checks over files, graph, repository, database and answer. Refuses: tasks themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.types import Check, Predicate
from worldmodel.domains.mcp.catalogue import FILES, REPO
from worldmodel.domains.mcp.grammar import FINAL, PROBE, call, said

Way = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """``gold`` and each of ``wrong`` end in their answer."""

    instruction: str
    state: Mapping[str, Any]
    checks: tuple[Check, ...]
    gold: Way
    wrong: tuple[Way, ...]


def way(*calls: str, answer: str = "done") -> Way:
    return (*calls, call(FINAL, text=answer))


def world(*servers: str, **parts: Any) -> dict[str, Any]:
    return {"servers": list(servers), **parts}


# Files


def place(name: str) -> str:
    return f"{FILES}/{name}"


def read(name: str) -> str:
    return call("read_text_file", path=place(name))


def write(name: str, content: str) -> str:
    return call("write_file", path=place(name), content=content)


def replace(path: str, old: str, new: str) -> str:
    return call("edit_file", path=path, edits=[{"oldText": old, "newText": new}])


def file_is(name: str, text: str) -> Check:
    return Check(f"file {name}", (read(name),), Predicate("equals", text))


def no_file(name: str) -> Check:
    return Check(f"no file {name}", (read(name),), Predicate("contains", "Error: ENOENT"))


# Graph


def graph_is(graph: Mapping[str, Any]) -> Check:
    value = json.dumps(graph, ensure_ascii=False, indent=2)
    return Check("graph", (call("read_graph"),), Predicate("equals", value))


# Database


def select(query: str) -> str:
    return call("read_query", query=query)


def change(query: str) -> str:
    return call("write_query", query=query)


def rows_are(table: str, printed: str) -> Check:
    return Check(f"table {table}", (select(f"SELECT * FROM {table} ORDER BY id"),), Predicate("equals", printed))


# Repository


def git(name: str, **arguments: Any) -> str:
    return call(f"git_{name}", repo_path=REPO, **arguments)


def version_is(revision: str, path: str, text: str) -> Check:
    return Check(f"{path} in {revision}", (git("show", revision=f"{revision}:{path}"),), Predicate("equals", text))


def last_message(message: str, before: str) -> tuple[Check, ...]:
    """The newest commit says ``message`` and comes right after the commit ``before``."""
    value = rf"\ACommit history:\nCommit: \w+\nAuthor: .*\nDate: .*\nMessage: {re.escape(message)}\n+Commit: {before}"
    return (Check("commit", (git("log", max_count=2),), Predicate("regex", value)),)


def status_has(text: str) -> Check:
    return Check(f"status: {text}", (git("status"),), Predicate("contains", text))


# Answer


def answered(text: str) -> Check:
    return Check("answer", (call(PROBE),), Predicate("equals", said(text)))


def others(options: Sequence[str], right: str) -> list[str]:
    """Those that are no other way to write ``right``."""
    return [option for option in dict.fromkeys(options) if said(option) != said(right)]
