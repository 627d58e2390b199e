"""The accessibility tree as text: read from what Playwright prints, written with the ids that actions use.

Owns: ``Node``, reading ``aria_snapshot(mode="ai")``, leaving out what says nothing, the lines of an observation.
Refuses: browsers (``driver``) and pages (``pages``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

INTERACTIVE = frozenset(
    "button checkbox combobox link listbox menuitem menuitemcheckbox menuitemradio radio searchbox slider spinbutton "
    "switch tab textbox treeitem".split()
)
MAX_LINES, MAX_VALUE = 300, 1000  # lines of an observation, characters of a text
_ENTRY = re.compile(r'(/?[\w-]+)(?: ("(?:[^"\\]|\\.)*"))?((?: \[[^\]]*\])*)(?::(?: (.*))?)?', re.DOTALL)
_SHOWN = ("active", "checked", "disabled", "expanded", "level", "pressed", "selected", "invalid")


@dataclass(frozen=True, slots=True)
class Node:
    """One element. ``ref``: what its browser knows it by; '' where nothing can be done with it."""

    role: str
    name: str = ""
    states: tuple[str, ...] = ()
    value: str = ""
    children: Sequence[Node] = ()
    ref: str = ""


@dataclass
class _Open:
    node: Node
    children: list[_Open] = field(default_factory=list)

    def closed(self) -> Node:
        return replace(self.node, children=tuple(child.closed() for child in self.children))


def read(snapshot: str) -> list[Node]:
    """The nodes of a snapshot, all of them with the refs they carry."""
    root = _Open(Node("root"))
    path = [(-1, root)]
    for line in snapshot.splitlines():
        body = line.lstrip(" ")
        if not body.startswith("- "):
            continue
        depth = (len(line) - len(body)) // 2
        while path[-1][0] >= depth:
            path.pop()
        found = _Open(_entry(body[2:]))
        path[-1][1].children.append(found)
        path.append((depth, found))
    return list(root.closed().children)


def _entry(text: str) -> Node:
    """``role "name" [state] [ref=e1]: value``, the part before the colon perhaps in single quotes."""
    quoted = re.match(r"'((?:[^']|'')*)'(.*)", text, re.DOTALL)
    if quoted:
        text = quoted[1].replace("''", "'") + quoted[2]
    match = _ENTRY.fullmatch(text)
    if match is None:
        return Node("text", value=text)
    role, name, marks, value = match.groups()
    states = re.findall(r"\[([^\]]*)\]", marks or "")
    ref = next((state[4:] for state in states if state.startswith("ref=")), "")
    return Node(role, _string(name or ""), tuple(s for s in states if not s.startswith("ref=")), _string(value or ""),
                ref=ref)  # fmt: skip


def _string(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(re.sub(r"\\x([0-9a-fA-F]{2})", r"\\u00\1", text), strict=False))
        except ValueError:
            return text[1:-1]
    return text


def plain(nodes: Sequence[Node], dense: bool = False) -> list[Node]:
    """Without nameless wrappers and without addresses. Only what can be acted on keeps its ref; ``dense``: everything
    that is shown does."""
    found: list[Node] = []
    for node in nodes:
        if node.role.startswith("/"):
            continue
        pointer, children = "cursor=pointer" in node.states, plain(node.children, dense)
        acted = node.role in INTERACTIVE or pointer or (dense and bool(node.ref))
        if node.role == "generic" and not node.name and not (pointer or (dense and (node.value or not children))):
            found += [Node("text", value=node.value)] if node.value else children
            continue
        states = tuple(state for state in node.states if state.split("=")[0] in _SHOWN)
        found.append(replace(node, states=states, children=tuple(children), ref=node.ref if acted else ""))
    return found


def lines(nodes: Sequence[Node], bid: Callable[[str], int]) -> list[str]:
    """``- role "name" [bid=N] [state]: value``, children indented; the last line says how many were left out."""
    found: list[str] = []

    def write(node: Node, depth: int) -> None:
        head = f"{'  ' * depth}- {node.role}"
        if node.name:
            head += f" {json.dumps(_short(node.name), ensure_ascii=False)}"
        if node.ref:
            head += f" [bid={bid(node.ref)}]"
        head += "".join(f" [{state}]" for state in node.states)
        end = f": {_short(node.value)}" if node.value else ":" if node.children else ""
        found.append(head + end)
        for child in node.children:
            write(child, depth + 1)

    for node in nodes:
        write(node, 0)
    if len(found) > MAX_LINES:
        return [*found[:MAX_LINES], f"({len(found) - MAX_LINES} more lines)"]
    return found


def _short(text: str) -> str:
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "..."


def screen(url: str, title: str, body: Sequence[str], tabs: Sequence[str] = (), message: str = "") -> str:
    """An observation: what went wrong, if something did; address and title; the open tabs where there are several."""
    head = [message] if message else []
    head += [f"URL: {_short(url)}", f"Title: {_short(title)}"]
    if len(tabs) > 1:
        head += [f"Tab {number}: {_short(tab)}" for number, tab in enumerate(tabs)]
    return "\n".join([*head, *body])
