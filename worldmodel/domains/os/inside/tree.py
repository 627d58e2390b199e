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
from worldmodel.domains.os.inside.documents import column as letters
from worldmodel.domains.os.inside.place import HEIGHT, WIDTH

ATSPI = "org.a11y.atspi"
ROOT = (f"{ATSPI}.Registry", f"/{'/'.join(ATSPI.split('.'))}/accessible/root")
MAX_NODES, MAX_LINES, MAX_TEXT, MAX_NAME = 1500, 220, 1200, 120
ROWS, COLUMNS = 14, 7  # of a table, from its first visible cell
_CELL = frozenset({"Text"})
LARGE = 400  # children; a table with more is asked for the cells in view
MAX_TOOLS = 10  # a tool bar with more entries is one line

ACTIVE, CHECKED, EDITABLE, EXPANDED, FOCUSED, PRESSED, SELECTED = 1, 4, 7, 10, 12, 20, 23
SENSITIVE, SHOWING, MODAL = 24, 25, 16
_SHOWN = ((ACTIVE, "active"), (MODAL, "modal"), (FOCUSED, "focused"), (CHECKED, "checked"), (PRESSED, "pressed"),
          (SELECTED, "selected"), (EXPANDED, "expanded"))  # fmt: skip
_GROUPS = {"filler", "panel", "scroll pane", "viewport", "split pane", "layered pane", "root pane", "section",
           "unknown", "redundant object", "glass pane", "grouping", "page tab list", "application"}  # fmt: skip
_BLANK = {"table cell", "label", "icon", "panel", "image"}
_DROPPED = {"scroll bar", "separator", "ruler", "tool tip", "tear off menu item"}
_WRITTEN = {"text", "paragraph", "entry", "password text", "spin button", "table cell", "heading"}
_DEAF = {
    "menu item",
    "check menu item",
    "radio menu item",
    "push button",
    "toggle button",
    "radio button",
    "check box",
    "label",
}  # without children of interest
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
    count: int = 0  # of children, as it says
    children: list[Node] = field(default_factory=list)

    def call(self, interface: str, member: str, signature: str = "", *arguments: Any) -> Call:
        return Call(self.name, self.path, f"{ATSPI}.{interface}", member, signature, arguments)

    def get(self, name: str) -> Call:
        wanted = (f"{ATSPI}.Accessible", name)
        return Call(self.name, self.path, "org.freedesktop.DBus.Properties", "Get", "ss", wanted)

    def text_length(self) -> Call:
        wanted = (f"{ATSPI}.Text", "CharacterCount")
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
    shown = [node for node in shown if not node.role]
    questions = [
        call
        for node in shown
        for call in (
            node.call("Accessible", "GetRoleName"), node.get("Name"), node.call("Accessible", "GetInterfaces"),
            node.call("Component", "GetExtents", "u", 0), node.get("ChildCount"),
        )
    ]  # fmt: skip
    answers = iter(bus.gather(questions, until - time.monotonic()))
    for node in shown:
        role, label, interfaces, box, count = (next(answers) for _ in range(5))
        node.role = str(role[0]) if role else "unknown"
        node.label = str(label[0]).strip() if label else ""
        node.interfaces = frozenset(name.rsplit(".", 1)[-1] for name in interfaces[0]) if interfaces else frozenset()
        node.box = tuple(box[0]) if box else (0, 0, 0, 0)
        node.count = int(count[0]) if count else 0
    _read(bus, [n for n in shown if n.role in _WRITTEN or EDITABLE in n.states], until)
    _descend(bus, [node for node in shown if node.role not in _DEAF and node.role not in _DROPPED], until)
    return shown


def _read(bus: Bus, nodes: list[Node], until: float) -> None:
    """The text of those that have one: some applications answer nothing where more is asked than there is."""
    nodes = [node for node in nodes if "Text" in node.interfaces]
    counts = bus.gather((node.text_length() for node in nodes), until - time.monotonic())
    ends = [min(int(count[0]), MAX_TEXT + 1) if count else 0 for count in counts]
    questions = [node.call("Text", "GetText", "ii", 0, end) for node, end in zip(nodes, ends, strict=True)]
    for node, answer in zip(nodes, bus.gather(questions, until - time.monotonic()), strict=True):
        node.text = str(answer[0]) if answer else ""


def _descend(bus: Bus, nodes: list[Node], until: float) -> None:
    """Ask for the children. A sheet would name each of its thousands of millions: of it the cells in view are asked."""
    sheets = [node for node in nodes if "Table" in node.interfaces and not 0 <= node.count < LARGE]
    others = [node for node in nodes if 0 <= node.count < LARGE]
    others = [node for node in others if not (node.role == "tool bar" and node.count > MAX_TOOLS)]
    others = [node for node in others if node.role != "menu" or node.states & {SELECTED, EXPANDED}]  # a closed menu
    questions = [node.call("Accessible", "GetChildren") for node in others]
    for node, answer in zip(others, bus.gather(questions, until - time.monotonic()), strict=True):
        node.children = [Node(name, path) for name, path in (answer[0] if answer else ())]
    for node in sheets:
        node.children = _cells(bus, node, until)


def _corner(bus: Bus, sheet: Node) -> tuple[int, int]:
    """Row and column, from 0, of the first cell in view."""
    left, top, _, _ = sheet.box
    (found,) = bus.gather([sheet.call("Component", "GetAccessibleAtPoint", "iiu", left + 3, top + 3, 0)], 1.0)
    (label,) = bus.gather([Node(*found[0]).get("Name")], 1.0) if found else (None,)
    place = re.fullmatch(r"([A-Z]{1,3})([0-9]+)", str(label[0])) if label else None
    if place is None:
        return 0, 0
    column = 0
    for letter in place[1]:
        column = column * 26 + ord(letter) - 64
    return int(place[2]) - 1, column - 1


def _cells(bus: Bus, sheet: Node, until: float) -> list[Node]:
    """The cells of a sheet in view that hold something or are focused. Each answer is dear: role and name are known."""
    row, column = _corner(bus, sheet)
    wanted = [(row + i, column + j) for i in range(ROWS) for j in range(COLUMNS)]
    left = until - time.monotonic()
    asked = bus.gather((sheet.call("Table", "GetAccessibleAt", "ii", i, j) for i, j in wanted), left)
    cells = []
    for (i, j), answer in zip(wanted, asked, strict=True):
        if answer and not str(answer[0][1]).endswith("/null"):
            name, path = answer[0]
            cells.append(Node(name, path, role="table cell", label=f"{letters(j)}{i + 1}", interfaces=_CELL))
    _read(bus, cells, until)
    states = bus.gather((node.call("Accessible", "GetState") for node in cells), until - time.monotonic())
    for node, answer in zip(cells, states, strict=True):
        node.states = bits(answer[0]) if answer else frozenset()
    cells = [node for node in cells if node.text or FOCUSED in node.states]
    boxes = bus.gather((node.call("Component", "GetExtents", "u", 0) for node in cells), until - time.monotonic())
    for node, answer in zip(cells, boxes, strict=True):
        node.box = tuple(answer[0]) if answer else (0, 0, 0, 0)
    return cells


def render(found: Iterable[Node]) -> str:
    """The lines of what is shown; a note where they were cut."""
    lines: list[str] = []
    for node in found:
        for child in node.children:
            _lines(child, 0, "", lines)
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"({len(lines) - MAX_LINES} more lines)"]
    return "\n".join(lines)


def _lines(node: Node, depth: int, parent: str, into: list[str]) -> None:
    if SHOWING not in node.states or node.role in _DROPPED or (node.role == "menu" and not parent.startswith("menu")):
        return
    left, top, width, height = node.box
    unseen = width <= 0 or height <= 0
    if not unseen and (left >= WIDTH or top >= HEIGHT or left + width <= 0 or top + height <= 0):
        return
    bare = not node.label and not node.text
    if bare and not node.children and (node.role in _BLANK) and FOCUSED not in node.states:
        return
    grouping = unseen or (bare and (node.role in _GROUPS or (node.role == "table cell" and bool(node.children))))
    if not grouping:
        into.append("  " * depth + _line(node))
    for child in node.children:
        _lines(child, depth + (not grouping), node.role, into)


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
    text = re.sub(r"Free space: [0-9.,]+\s\S+", "Free space: ...", plain(text, longest))
    return json.dumps(text, ensure_ascii=False)


def descendants(node: Node) -> Iterable[Node]:
    for child in node.children:
        yield child
        yield from descendants(child)
