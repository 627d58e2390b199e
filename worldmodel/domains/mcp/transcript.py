"""The initial state of a world as a transcript: read-only calls, each with what the real server prints for it.

Owns: those texts, letter for letter (a test compares them with the servers). Refuses: what a state is for (``tasks``).
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from worldmodel.domains.mcp.catalogue import FILES, REPO
from worldmodel.domains.mcp.grammar import call
from worldmodel.domains.mcp.history import commits, line

Shown = tuple[str, str]  # a call and its reply; where no call prints it, a line that says what it is


def shown(state: Mapping[str, Any]) -> list[Shown]:
    """Every call of the transcript with its reply."""
    found: list[Shown] = []
    if "filesystem" in state["servers"]:
        found += _files(state)
    if "memory" in state["servers"]:
        found.append((call("read_graph"), json.dumps(state["graph"], ensure_ascii=False, indent=2)))
    if "git" in state["servers"]:
        found += _repository(state["repo"])
    if "sqlite" in state["servers"]:
        found += _database(state["database"])
    if "time" in state["servers"]:
        now = {"timezone": "UTC", "datetime": "2025-01-01T12:00:00+00:00", "day_of_week": "Wednesday", "is_dst": False}
        found.append((call("get_current_time", timezone="UTC"), json.dumps(now, indent=2)))
    return found


def transcript(state: Mapping[str, Any]) -> str:
    return "\n".join(f"{asked}\n{reply}" for asked, reply in shown(state))


def _files(state: Mapping[str, Any]) -> Iterator[Shown]:
    files, folders = state.get("files", {}), {""}
    for path in [*(f"{path}/" for path in state.get("dirs", ())), *files]:
        parts = path.split("/")[:-1]
        folders |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
    for folder in sorted(folders):
        below = f"{folder}/" if folder else ""
        names = {
            **{path.removeprefix(below): "[DIR]" for path in folders if path and path.startswith(below)},
            **{path.removeprefix(below): "[FILE]" for path in files if path.startswith(below)},
        }
        rows = [f"{kind} {name}" for name, kind in sorted(names.items()) if name and "/" not in name]
        yield call("list_directory", path=f"{FILES}/{folder}".rstrip("/")), "\n".join(rows)
    for path, text in sorted(files.items()):
        yield call("read_text_file", path=f"{FILES}/{path}"), text


def _repository(repo: Mapping[str, Any]) -> Iterator[Shown]:
    found = commits(repo)
    head = repo["branches"]["main"]
    history = "Commit history:\n" + "\n".join(commit.logged for commit in line(found, head))
    yield call("git_log", repo_path=REPO), history
    names = sorted(repo["branches"])
    branches = "\n".join(f"{'*' if name == 'main' else ' '} {name}" for name in names)
    yield call("git_branch", repo_path=REPO, branch_type="local"), branches
    for commit in found:
        for path, text in commit.files.items():
            if text is not None:
                yield call("git_show", repo_path=REPO, revision=f"{commit.id}:{path}"), text
    yield call("git_status", repo_path=REPO), f"Repository status:\n{status(repo)}"
    for path, text in repo["changes"].items():
        yield f"{path} as it is in the working tree:", text


def status(repo: Mapping[str, Any]) -> str:
    """What ``git status`` prints where all changes are of files that HEAD has."""
    staged = [f"\tmodified:   {path}" for path in sorted(repo["staged"])]
    rest = [f"\tmodified:   {path}" for path in sorted(set(repo["changes"]) - set(repo["staged"]))]
    rows = ["On branch main"]
    if staged:
        hint = '  (use "git restore --staged <file>..." to unstage)'
        rows += ["Changes to be committed:", hint, *staged, ""]
    if rest:
        hints = ['  (use "git add <file>..." to update what will be committed)',
                 '  (use "git restore <file>..." to discard changes in working directory)']  # fmt: skip
        rows += ["Changes not staged for commit:", *hints, *rest, ""]
    if not staged:
        add = 'no changes added to commit (use "git add" and/or "git commit -a")'
        rows.append(add if rest else "nothing to commit, working tree clean")
    return "\n".join(rows)


def _database(script: str) -> Iterator[Shown]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    yield call("list_tables"), "\n".join(name for name, _ in rows)
    for name, sql in rows:
        yield call("describe_table", table=name), sql
        cursor = connection.execute(f'SELECT * FROM "{name}"')
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([column[0] for column in cursor.description])
        table.writerows(["NULL" if value is None else value for value in row] for row in cursor)
        yield call("read_query", query=f"SELECT * FROM {name}"), text.getvalue()
    connection.close()
