"""Git histories: a short script of commits, the object ids that it leads to, and its form for ``git fast-import``.

Owns: dates, authors, ids (SHA-1, as git computes them), so that a state can be printed before git has seen it.
Refuses: running git (``servers``).

``repo`` in a state: {"commits": [{"message", "author", "files": {path: text, or null to delete}, "parent": index or
-1}], "branches": {name: index}, "changes": {path of HEAD: text}, "staged": [paths]}; HEAD is on ``main``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

FIRST = datetime(2024, 12, 2, 9, 0, tzinfo=UTC)  # the first commit; each further one is a day and seven minutes later
STEP = timedelta(days=1, minutes=7)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit with what it leads to. ``tree``: every file, by path."""

    id: str
    parent: int
    author: str
    when: datetime
    message: str
    files: Mapping[str, str | None]
    tree: Mapping[str, str]

    @property
    def logged(self) -> str:
        """As git_log prints it."""
        return f"Commit: {self.id}\nAuthor: {self.author}\nDate: {self.when}\nMessage: {self.message}\n"


def email(author: str) -> str:
    return f"{author.split()[0].lower()}@example.com"


def commits(repo: Mapping[str, Any]) -> list[Commit]:
    """The commits of a state's ``repo``, oldest first."""
    found: list[Commit] = []
    for place, step in enumerate(repo["commits"]):
        parent = step.get("parent", place - 1)
        tree = {**(found[parent].tree if parent >= 0 else {}), **step["files"]}
        kept = {path: text for path, text in tree.items() if text is not None}
        when = FIRST + place * STEP
        identity = _identity(kept, found[parent].id if parent >= 0 else "", step, when)
        found.append(Commit(identity, parent, step["author"], when, step["message"], step["files"], kept))
    return found


def line(found: Sequence[Commit], head: int) -> list[Commit]:
    """``head`` and its ancestors, newest first."""
    chain = []
    while head >= 0:
        chain.append(found[head])
        head = found[head].parent
    return chain


def _object(kind: str, body: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).digest()


def _tree(files: Mapping[str, str]) -> bytes:
    """The id of a folder of ``files``."""
    rows: dict[str, tuple[str, bytes]] = {}
    for path, text in files.items():
        top, _, rest = path.partition("/")
        if not rest:
            rows[top] = ("100644", _object("blob", text.encode()))
        elif f"{top}/" not in rows:
            inside = {name.removeprefix(f"{top}/"): body for name, body in files.items() if name.startswith(f"{top}/")}
            rows[f"{top}/"] = ("40000", _tree(inside))
    entries = [f"{mode} {name.rstrip('/')}\0".encode() + digest for name, (mode, digest) in sorted(rows.items())]
    return _object("tree", b"".join(entries))


def _signed(step: Mapping[str, Any], when: datetime) -> str:
    return f"{step['author']} <{email(step['author'])}> {int(when.timestamp())} +0000"


def _identity(files: Mapping[str, str], parent: str, step: Mapping[str, Any], when: datetime) -> str:
    signed = _signed(step, when)
    head = f"tree {_tree(files).hex()}\n" + (f"parent {parent}\n" if parent else "")
    return _object("commit", f"{head}author {signed}\ncommitter {signed}\n\n{step['message']}".encode()).hex()


def stream(repo: Mapping[str, Any]) -> str:
    """The history for ``git fast-import``."""
    rows: list[str] = []
    for place, commit in enumerate(commits(repo)):
        signed = _signed({"author": commit.author}, commit.when)
        rows += ["commit refs/heads/main", f"mark :{place + 1}", f"committer {signed}", _data(commit.message)]
        if commit.parent >= 0:
            rows.append(f"from :{commit.parent + 1}")
        for path, text in commit.files.items():
            rows.append(f"D {path}" if text is None else f"M 100644 inline {path}\n{_data(text)}")
    for name, place in repo["branches"].items():
        rows.append(f"reset refs/heads/{name}\nfrom :{place + 1}\n")
    return "\n".join(rows) + "\n"


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"
