"""The tools that are offered, by server: the form of their arguments, and one line of help each.

Owns: names, forms, checking arguments against a form, writing a form as a signature, comparing it with the JSON schema
that a server declares. Refuses: speaking to servers (``client``), reading actions (``grammar``).

A form is a type name, a tuple of the only texts allowed, ``Many`` of one form, ``Fields``, or ``Maybe`` (null too). The
forms are what the pinned servers declare; the real environment refuses to start on a server that declares another.
Withheld, because what they print is no text or differs from run to run: read_media_file, get_file_info.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FILES, REPO, SOURCES = "/home/user/files", "/home/user/repo", "/home/user/repo/src"
WITHHELD = ("read_media_file", "get_file_info")
MAX_ITEMS, MAX_NUMBER = 200, 1e9


@dataclass(frozen=True, slots=True)
class Many:
    """A list of one form."""

    of: Form
    least: int = 0


@dataclass(frozen=True, slots=True)
class Maybe:
    """The form, or null."""

    of: str


@dataclass(frozen=True, slots=True)
class Fields:
    """An object; a name that ends in ``?`` may be left out. Other names are refused."""

    of: Mapping[str, Form]


Form = str | tuple[str, ...] | Many | Maybe | Fields


@dataclass(frozen=True, slots=True)
class Tool:
    server: str
    arguments: Fields
    help: str


S, N, I, B, T = "string", "number", "integer", "boolean", Maybe("string")  # noqa: E741
_ENTITY = Fields({"name": S, "entityType": S, "observations": Many(S)})
_RELATION = Fields({"from": S, "to": S, "relationType": S})
_R = {"repo_path": S}

_SERVERS: Mapping[str, Mapping[str, tuple[Mapping[str, Form], str]]] = {
    "filesystem": {
        "read_file": ({"path": S, "tail?": N, "head?": N}, "old name of read_text_file"),
        "read_text_file": ({"path": S, "tail?": N, "head?": N}, "text of a file, or its first or last lines"),
        "read_multiple_files": ({"paths": Many(S, 1)}, "several files, each after its path"),
        "write_file": ({"path": S, "content": S}, "make a file, or replace all of its text"),
        "edit_file": (
            {"path": S, "edits": Many(Fields({"oldText": S, "newText": S})), "dryRun?": B},
            "replace exact pieces of text; prints a diff",
        ),
        "create_directory": ({"path": S}, "make a folder with its parents"),
        "list_directory": ({"path": S}, "names in a folder, marked [FILE] or [DIR]"),
        "list_directory_with_sizes": ({"path": S, "sortBy?": ("name", "size")}, "the same with sizes"),
        "directory_tree": ({"path": S, "excludePatterns?": Many(S)}, "all below a folder, as JSON"),
        "move_file": ({"source": S, "destination": S}, "move or rename; the destination must be free"),
        "search_files": ({"path": S, "pattern": S, "excludePatterns?": Many(S)}, "paths whose name fits a glob"),
        "list_allowed_directories": ({}, "the folders that may be used"),
    },
    "memory": {
        "create_entities": ({"entities": Many(_ENTITY)}, "add entities; names that exist are skipped"),
        "create_relations": ({"relations": Many(_RELATION)}, "add relations"),
        "add_observations": (
            {"observations": Many(Fields({"entityName": S, "contents": Many(S)}))},
            "add observations to entities",
        ),
        "delete_entities": ({"entityNames": Many(S)}, "remove entities and their relations"),
        "delete_observations": (
            {"deletions": Many(Fields({"entityName": S, "observations": Many(S)}))},
            "remove observations, given word for word",
        ),
        "delete_relations": ({"relations": Many(_RELATION)}, "remove relations"),
        "read_graph": ({}, "the whole graph, as JSON"),
        "search_nodes": ({"query": S}, "entities that hold a text, with their relations"),
        "open_nodes": ({"names": Many(S)}, "entities by name, with their relations"),
    },
    "git": {
        "git_status": (_R, "the state of the working tree"),
        "git_diff_unstaged": ({**_R, "context_lines?": I}, "changes that are not staged"),
        "git_diff_staged": ({**_R, "context_lines?": I}, "changes that are staged"),
        "git_diff": ({**_R, "target": S, "context_lines?": I}, "difference to a branch or commit"),
        "git_commit": ({**_R, "message": S}, "commit what is staged"),
        "git_add": ({**_R, "files": Many(S, 1)}, "stage files, by their paths in the repository"),
        "git_reset": (_R, "unstage everything"),
        "git_log": ({**_R, "max_count?": I, "start_timestamp?": T, "end_timestamp?": T}, "commits, newest first"),
        "git_create_branch": ({**_R, "branch_name": S, "base_branch?": T}, "make a branch, by default at HEAD"),
        "git_checkout": ({**_R, "branch_name": S}, "switch to a branch"),
        "git_show": ({**_R, "revision": S}, "a commit with its diff, or revision:path for a file as it was then"),
        "git_branch": ({**_R, "branch_type": S, "contains?": T, "not_contains?": T}, "branches: local, remote or all"),
    },
    "time": {
        "get_current_time": ({"timezone": S}, "now, in an IANA time zone"),
        "convert_time": ({"source_timezone": S, "time": S, "target_timezone": S}, "HH:MM of today, elsewhere"),
    },
    "sqlite": {
        "list_tables": ({}, "the tables of the database"),
        "describe_table": ({"table": S}, "the statement that made a table"),
        "read_query": ({"query": S}, "one SELECT; prints CSV"),
        "write_query": ({"query": S}, "one INSERT, UPDATE, DELETE, REPLACE, CREATE, ALTER or DROP"),
    },
}
SERVERS = tuple(_SERVERS)
CHANGING = (
    "write_",
    "edit_",
    "create_",
    "move_",
    "add_",
    "delete_",
    "git_commit",
    "git_add",
    "git_reset",
    "git_create_branch",
    "git_checkout",
)  # how the names of tools begin that can change something
TOOLS: Mapping[str, Tool] = {
    name: Tool(server, Fields(form), text) for server, tools in _SERVERS.items() for name, (form, text) in tools.items()
}


def signature(name: str) -> str:
    """``read_text_file(path: string, tail?: number, head?: number)``."""
    fields = TOOLS[name].arguments.of
    return f"{name}({', '.join(f'{key}: {written(form)}' for key, form in fields.items())})"


def written(form: Form) -> str:
    match form:
        case str():
            return form
        case tuple():
            return "|".join(f'"{text}"' for text in form)
        case Many():
            return f"[{written(form.of)}]"
        case Maybe():
            return f"{form.of}|null"
        case Fields():
            return f"{{{', '.join(f'{key}: {written(inner)}' for key, inner in form.of.items())}}}"


def fault(form: Form, value: object, where: str) -> str:
    """'', or what of ``value`` is not as ``form`` says, in one line that begins with ``where``."""
    match form:
        case str():
            return "" if _is(form, value) else f"{where} must be {_article(form)}"
        case tuple():
            return "" if isinstance(value, str) and value in form else f"{where} must be one of {', '.join(form)}"
        case Maybe():
            return "" if value is None or _is(form.of, value) else f"{where} must be {_article(form.of)} or null"
        case Many():
            return _fault_of_list(form, value, where)
        case Fields():
            return _fault_of_object(form, value, where)


def _is(kind: str, value: object) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case _:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or abs(value) > MAX_NUMBER:  # type: ignore[operator,arg-type]
                return False
            return kind == "number" or value == int(value)  # type: ignore[call-overload,no-any-return]


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _fault_of_list(form: Many, value: object, where: str) -> str:
    if not isinstance(value, list):
        return f"{where} must be a list"
    if not form.least <= len(value) <= MAX_ITEMS:
        return f"{where} must have {form.least} to {MAX_ITEMS} items"
    found = (fault(form.of, item, f"{where}[{i}]") for i, item in enumerate(value))
    return next(filter(None, found), "")


def _fault_of_object(form: Fields, value: object, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} must be an object"
    known = {key.removesuffix("?"): (inner, key.endswith("?")) for key, inner in form.of.items()}
    for key in value:
        if key not in known:
            return f"{where} has no {key[:40]!a}"
    for key, (inner, optional) in known.items():
        if key not in value:
            if optional:
                continue
            return f"{where}.{key} is missing"
        if problem := fault(inner, value[key], f"{where}.{key}"):
            return problem
    return ""


def agrees(form: Form, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON ``schema`` that a server declares accepts what ``form`` does, and asks for the same."""
    match form:
        case str():
            return schema.get("type") == form
        case tuple():
            return tuple(schema.get("enum", ())) == form
        case Maybe():
            return {kind.get("type") for kind in schema.get("anyOf", ())} == {form.of, "null"}
        case Many():
            same = schema.get("type") == "array" and schema.get("minItems", 0) == form.least
            return same and agrees(form.of, schema.get("items", {}))
        case Fields():
            known = {key.removesuffix("?"): inner for key, inner in form.of.items()}
            needed = {key for key in form.of if not key.endswith("?")}
            declared = schema.get("properties", {})
            if set(declared) != set(known) or set(schema.get("required", ())) != needed:
                return False
            return all(agrees(inner, declared[key]) for key, inner in known.items())


def mismatch(server: str, listed: Mapping[str, Mapping[str, Any]]) -> str:
    """'', or in one line how the tools that ``server`` lists (name to input schema) differ from those offered here."""
    offered = {name: tool for name, tool in TOOLS.items() if tool.server == server}
    if odd := set(offered) ^ (set(listed) - set(WITHHELD)):
        return f"server {server} lists other tools: {', '.join(sorted(odd))}"
    odd = {name for name, tool in offered.items() if not agrees(tool.arguments, listed[name])}
    return f"server {server} takes other arguments: {', '.join(sorted(odd))}" if odd else ""
