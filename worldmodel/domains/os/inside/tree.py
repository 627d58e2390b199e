"""The accessibility tree of what is shown, as lines of text.

Owns: which nodes are asked, what of them is printed, the bounds. Refuses: changing anything, starting anything.

Level by level, two rounds of questions each, so that the depth of a tree and not its size makes the time. One line a
node: role, "name", text, states, [left,top][right,bottom]. Nodes that only group others have no line of their own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from worldmodel.domains.os.inside.bus import Bus, Call, plain
from worldmodel.domains.os.inside.place import HEIGHT, WIDTH

ATSPI = "org.a11y.atspi"
ROOT = (f"{ATSPI}.Registry", f"/{'/'.join(ATSPI.split('.'))}/accessible/root")
MAX_NODES, MAX_LINES, MAX_TEXT, MAX_NAME = 1500, 220, 1200, 120
ROWS, COLUMNS = 24, 10  # of a table, from its first visible cell
MAX_TOOLS = 10  # a tool bar with more entries is one line

ACTIVE, CHECKED, EDITABLE, EXPANDED, FOCUSED, PRESSED, SELECTED = 1, 4, 7, 10, 12, 20, 23
SENSITIVE, SHOWING, MANAGES, MODAL = 24, 25, 31, 16
_SHOWN = ((ACTIVE, "active"), (MODAL, "modal"), (FOCUSED, "focused"), (CHECKED, "checked"), (PRESSED, "pressed"),
          (SELECTED, "selected"), (EXPANDED, "expanded"))  # fmt: skip
_GROUPS = {"filler", "panel", "scroll pane", "viewport", "split pane", "layered pane", "root pane", "section", "unknown",
           "redundant object", "glass pane", "grouping", "page tab list", "application"}  # fmt: skip
_DROPPED = {"scroll bar", "separator", "ruler", "tool tip", "tear off menu item"}
_WRITTEN = {"text", "paragraph", "entry", "password text", "spin button", "table cell", "heading"}
_DEAF = {"menu item", "check menu item", "radio menu item", "push button", "toggle button", "radio button", "check box",
         "label"}  # without children of interest
_ENABLED = {"push button", "toggle button", "menu item", "check menu item", "radio menu item", "check box", "entry"}


@dataclass
class Node:
    """One accessible object. ``box``: left, top, width, height on the screen."""

    name: str  # on the bus
    path: str
    top: bool = False  # an application
    role: str = ""
    label: str = ""
    text: str = ""
    interfaces: frozenset[str] = frozenset()
    states: frozenset[int] = frozenset()
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    children: list[Node] = field(default_factory=list)

    def call(self, interface: str, member: str, signature: str = "", *arguments: Any) -> Call:
        return Call(self.name, self.path, f"{ATSPI}.{interface}", member, signature, arguments)

    def named(self) -> Call:
        wanted = (f"{ATSPI}.Accessible", "Name")
        return Call(self.name, self.path, "org.freedesktop.DBus.Properties", "Get", "ss", wanted)


def bits(words: Iterable[int]) -> frozenset[int]:
    return frozenset(32 * i + bit for i, word in enumerate(words) for bit in range(32) if word >> bit & 1)


def applications(bus: Bus, seconds: float) -> list[Node]:
    """The applications on the bus, in the order in which they came."""
    (answer,) = bus.gather([Call(*ROOT, f"{ATSPI}.Accessible", "GetChildren")], seconds)
    return [Node(name, path, top=True) for name, path in (answer[0] if answer else ())]


def walk(bus: Bus, seconds: float, roots: list[Node] | None = None) -> list[Node]:
    """The applications with what they show below them. Who does not answer in time has nothing to show."""
    until = time.monotonic() + seconds
    found = applications(bus, seconds) if roots is None else roots
    level, asked = found, 0
    while level and asked < MAX_NODES and time.monotonic() < until:
        level = level[: MAX_NODES - asked]
        asked += len(level)
        level = _describe(bus, level, until)
        below = []
        for node in level:
            node.children = [child for child in node.children if child.path != node.path]
            below += node.children
        level = below
    return found


def _describe(bus: Bus, level: list[Node], until: float) -> list[Node]:
    """Fill in one level; returns those of it that are shown, with children that are not filled in yet."""
    answers = iter(bus.gather((node.call("Accessible", "GetState") for node in level), until - time.monotonic()))
    for node in level:
        answer = next(answers)
        node.states = bits(answer[0]) if answer else frozenset()
    shown = [node for node in level if node.top or SHOWING in node.states]
    questions = [
        call
        for node in shown
        for call in (
            node.call("Accessible", "GetRoleName"), node.named(), node.call("Accessible", "GetInterfaces"),
            node.call("Component", "GetExtents", "u", 0), node.call("Text", "GetText", "ii", 0, MAX_TEXT + 1),
        )
    ]  # fmt: skip
    answers = iter(bus.gather(questions, until - time.monotonic()))
    for node in shown:
        role, label, interfaces, box, text = (next(answers) for _ in range(5))
        node.role = str(role[0]) if role else "unknown"
        node.label = str(label[0]) if label else ""
        node.interfaces = frozenset(name.rsplit(".", 1)[-1] for name in interfaces[0]) if interfaces else frozenset()
        node.box = tuple(box[0]) if box else (0, 0, 0, 0)
        node.text = str(text[0]) if text and (node.role in _WRITTEN or EDITABLE in node.states) else ""
    _descend(bus, [node for node in shown if node.role not in _DEAF and node.role not in _DROPPED], until)
    return shown


def _descend(bus: Bus, nodes: list[Node], until: float) -> None:
    plain_ones = [node for node in nodes if not (MANAGES in node.states and "Table" in node.interfaces)]
    questions = [node.call("Accessible", "GetChildren") for node in plain_ones]
    for node, answer in zip(plain_ones, bus.gather(questions, until - time.monotonic()), strict=True):
        node.children = [Node(name, path) for name, path in (answer[0] if answer else ())]
    for node in nodes:
        if MANAGES in node.states and "Table" in node.interfaces:
            node.children = _cells(bus, node, until)


def _cells(bus: Bus, table: Node, until: float) -> list[Node]:
    """The cells of a table that may have thousands of millions, from the first visible one on."""
    left, top, _, _ = table.box
    corner = bus.gather([table.call("Component", "GetAccessibleAtPoint", "iiu", left + 3, top + 3, 0)], 1.0)[0]
    row, column = 0, 0
    if corner:
        cell = Node(*corner[0])
        label = bus.gather([cell.named()], 1.0)[0]
        place = re.fullmatch(r"([A-Z]{1,3})([0-9]+)", str(label[0])) if label else None
        if place:
            row = int(place[2]) - 1
            for letter in place[1]:
                column = column * 26 + ord(letter) - 64
            column -= 1
    wanted = [(row + i, column + j) for i in range(ROWS) for j in range(COLUMNS)]
    asked = bus.gather(
        (table.call("Table", "GetAccessibleAt", "ii", i, j) for i, j in wanted), until - time.monotonic()
    )
    nobody = "/org/a11y/atspi/null"
    return [Node(*answer[0]) for answer in asked if answer and answer[0][1] != nobody]


def render(found: Iterable[Node]) -> str:
    """The lines of what is shown; a note where they were cut."""
    lines: list[str] = []
    for node in found:
        for child in node.children:
            _lines(child, 0, lines)
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"({len(lines) - MAX_LINES} more lines)"]
    return "\n".join(lines)


def _lines(node: Node, depth: int, into: list[str]) -> None:
    if SHOWING not in node.states or node.role in _DROPPED:
        return
    left, top, width, height = node.box
    if node.role == "table cell" and not node.text and not node.states & {FOCUSED, SELECTED}:
        return
    if width <= 0 or height <= 0 or left >= WIDTH or top >= HEIGHT or left + width <= 0 or top + height <= 0:
        return
    grouping = node.role in _GROUPS and not node.label and not node.text
    shown = [child for child in node.children if SHOWING in child.states and child.role not in _DROPPED]
    if node.role == "tool bar" and len(shown) > MAX_TOOLS:
        into.append("  " * depth + f"{_line(node)} ({len(shown)} items)")
        return
    if not grouping:
        into.append("  " * depth + _line(node))
    for child in node.children:
        _lines(child, depth + (not grouping), into)


def _line(node: Node) -> str:
    left, top, width, height = node.box
    parts = [node.role]
    if node.label:
        parts.append(quoted(node.label, MAX_NAME))
    if node.text and node.text != node.label:
        parts.append("text " + quoted(node.text, MAX_TEXT))
    parts += [word for bit, word in _SHOWN if bit in node.states]
    if node.role in _ENABLED and SENSITIVE not in node.states:
        parts.append("disabled")
    return " ".join([*parts, f"[{left},{top}][{left + width},{top + height}]"])


def quoted(text: str, longest: int) -> str:
    """In JSON's quotes; free space of a disk differs from run to run and is left out."""
    text = re.sub(r"Free space: [0-9.,]+ \S+", "Free space: ...", plain(text, longest))
    return json.dumps(text, ensure_ascii=False)


def descendants(node: Node) -> Iterable[Node]:
    for child in node.children:
        yield child
        yield from descendants(child)
