"""The screen of a real Android device, read from a dump of ``uiautomator``.

Owns: which nodes of the XML are elements, and their text form, the one of the reference device.
Refuses: talking to a device (``device``). Not run on a device: written after the documented form of the dump.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from worldmodel.domains.android.ui import clean, quoted

MAX_DUMP, MAX_NODES, MAX_LABEL = 4_000_000, 200, 200  # characters; elements; characters of a text
_BOUNDS = re.compile(r"\[(-?\d{1,5}),(-?\d{1,5})\]\[(-?\d{1,5}),(-?\d{1,5})\]")
Bounds = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Node:
    """One element; bounds in pixels (left, top, right, bottom). ``checked`` None: it cannot be checked."""

    kind: str
    text: str
    desc: str
    bounds: Bounds
    checked: bool | None
    focused: bool
    enabled: bool

    @property
    def centre(self) -> tuple[int, int]:
        left, top, right, bottom = self.bounds
        return (left + right) // 2, (top + bottom) // 2


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """What one dump shows: the package in front, the size of the screen, the elements in document order."""

    package: str
    size: tuple[int, int]
    nodes: tuple[Node, ...]


def read(dump: str) -> Hierarchy:
    """The hierarchy in what ``uiautomator dump`` printed. Raises ValueError where there is none."""
    start, end = dump.find("<hierarchy"), dump.rfind("</hierarchy>")
    if start < 0 or end < 0 or len(dump) > MAX_DUMP:
        raise ValueError(f"no hierarchy in the dump: {clean(dump[:80])!r}")
    try:
        root = ElementTree.fromstring(dump[start : end + len("</hierarchy>")])  # no prolog: no entities
    except ElementTree.ParseError as error:
        raise ValueError(f"the hierarchy is no XML: {error}") from error
    found = [(element, bounds) for element in root.iter("node") if (bounds := _bounds(element)) is not None]
    if not found:
        raise ValueError("the hierarchy is empty")
    nodes = [_node(element, bounds) for element, bounds in found if _matters(element)]
    right, bottom = max(b[2] for _, b in found), max(b[3] for _, b in found)
    return Hierarchy(found[0][0].get("package", ""), (right, bottom), tuple(nodes[:MAX_NODES]))


def render(hierarchy: Hierarchy, activity: str, keyboard: bool) -> str:
    """The screen as the reference device prints it; a device does not say what is a dialog."""
    lines = [
        f"app {clean(hierarchy.package)} | screen {quoted(clean(activity))}",
        f"keyboard {'shown' if keyboard else 'hidden'}",
    ]
    return "\n".join([*lines, *(_line(index, node) for index, node in enumerate(hierarchy.nodes))])


def _bounds(element: ElementTree.Element) -> Bounds | None:
    match = _BOUNDS.fullmatch(element.get("bounds", ""))
    if match is None:
        return None
    left, top, right, bottom = map(int, match.groups())
    return (left, top, right, bottom) if left < right and top < bottom else None


def _matters(element: ElementTree.Element) -> bool:
    """What says something, what takes text or has a state, and what is touched without containing anything."""
    kind = element.get("class", "")
    return bool(
        element.get("text")
        or element.get("content-desc")
        or kind.endswith(("EditText", "SeekBar"))
        or element.get("checkable") == "true"
        or (element.get("clickable") == "true" and len(element) == 0)
    )


def _node(element: ElementTree.Element, bounds: Bounds) -> Node:
    checked = element.get("checked") == "true" if element.get("checkable") == "true" else None
    return Node(
        kind=clean(element.get("class", "View").rpartition(".")[2]),
        text=clean(element.get("text", ""))[:MAX_LABEL],
        desc=clean(element.get("content-desc", ""))[:MAX_LABEL],
        bounds=bounds,
        checked=checked,
        focused=element.get("focused") == "true",
        enabled=element.get("enabled") != "false",
    )


def _line(index: int, node: Node) -> str:
    states = [
        *([quoted(node.text)] if node.text or not node.desc else []),
        *(["desc " + quoted(node.desc)] if node.desc else []),
        *([] if node.checked is None else ["checked" if node.checked else "unchecked"]),
        *(["focused"] if node.focused else []),
        *([] if node.enabled else ["disabled"]),
    ]
    left, top, right, bottom = node.bounds
    return f"[{index}] {node.kind} {' '.join(states)} [{left},{top}][{right},{bottom}]"
