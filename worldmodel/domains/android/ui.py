"""The vocabulary of the reference device's user interface, and what every screen has in common.

Owns: elements, views, dialogs, pages, the device's state (data, back stack, keyboard, dialog, toast, answer) and the
layout of a view on a 360 x 640 screen. Refuses: knowing any app (``apps``) and what actions mean (``engine``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT, ROW = 360, 640, 48  # units of the bounds
KEYBOARD_TOP = 400  # what ends below it is covered while the keyboard is shown
WINDOW, STEP = 8, 6  # rows of a list that are visible at most; rows that one scroll moves
MAX_TEXT = 200  # characters of a field
UP = "Navigate up"


@dataclass(frozen=True, slots=True)
class Element:
    """One node of a screen. ``text`` is what is printed on it, ``desc`` its content description; ``field`` names the
    draft that an EditText edits, ``desc`` is then its hint. ``checked`` None: it cannot be checked."""

    kind: str
    text: str = ""
    desc: str = ""
    tap: Effect | None = None
    hold: Effect | None = None
    drag: Drag | None = None
    field: str = ""
    checked: bool | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """A page as its app describes it: a tool bar (one line), fixed rows, scrolling rows, fixed rows at the bottom.
    ``changed``: leaving it would lose something. ``resizes``: the bottom rows stay above the keyboard."""

    title: str
    bar: tuple[Element, ...] = ()
    head: tuple[Element, ...] = ()
    rows: tuple[Element, ...] = ()
    foot: tuple[Element, ...] = ()
    changed: bool = False
    resizes: bool = False


@dataclass(frozen=True, slots=True)
class Dialog:
    """A modal question: while it is shown, only its own elements are on the screen."""

    title: str
    message: str
    options: tuple[tuple[str, Effect], ...]


@dataclass(slots=True)
class Page:
    """One entry of the back stack. ``fields``: drafts by name; ``top``: the first visible row."""

    app: str
    name: str
    args: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    focus: str = ""
    top: int = 0


@dataclass(slots=True)
class Device:
    """The whole state. An empty stack is the launcher. ``data`` belongs to this device: records carry an ``id``."""

    data: dict[str, Any]
    stack: list[Page] = field(default_factory=list)
    keyboard: bool = False
    dialog: Dialog | None = None
    toast: str = ""
    answer: str = ""
    made: int = 0  # ids given out

    def push(self, page: Page) -> None:
        self.stack.append(page)
        self.keyboard, self.dialog = False, None

    def pop(self) -> None:
        self.stack.pop()
        self.keyboard, self.dialog = False, None

    def open(self, app: str) -> None:
        """Start ``app`` at its first page; whatever was not saved elsewhere is lost."""
        self.home()
        self.push(Page(app, "main"))

    def home(self) -> None:
        self.stack.clear()
        self.keyboard, self.dialog = False, None

    def new_id(self) -> int:
        self.made += 1
        return self.made


Effect = Callable[[Device], None]
Drag = Callable[[Device, int], None]  # +1: to the right
Build = Callable[[Device, Page], View]
Pages = Mapping[str, Build]  # of one app; the first page is ``main``


@dataclass(frozen=True, slots=True)
class Placed:
    """An element with its bounds (left, top, right, bottom)."""

    element: Element
    bounds: tuple[int, int, int, int]
    covered: bool = False


def up_button() -> Element:
    return Element("ImageButton", desc=UP, tap=leave)


def button(text: str, tap: Effect, enabled: bool = True) -> Element:
    return Element("Button", text, tap=tap, enabled=enabled)


def edit_field(page: Page, name: str, hint: str) -> Element:
    return Element("EditText", page.fields.get(name, ""), hint, field=name)


def going_to(app: str, name: str, fields: Mapping[str, str] | None = None, **args: Any) -> Effect:
    """The effect that pushes a page; each push gets drafts of its own."""
    return lambda device: device.push(Page(app, name, dict(args), dict(fields or {})))


def leave(device: Device) -> None:
    """Go one page back; the engine has asked before where something would be lost."""
    if device.stack:
        device.pop()


def cancel(device: Device) -> None:
    """Nothing: a touched option has closed the dialog before its effect."""


def confirm_delete(what: str, delete: Effect) -> Effect:
    """The effect that asks before ``delete``."""
    return lambda device: ask(device, Dialog("Confirm", f"Delete {what}?", (("Cancel", cancel), ("Delete", delete))))


def ask(device: Device, dialog: Dialog) -> None:
    device.dialog, device.keyboard = dialog, False


def quoted(text: str) -> str:
    """``text`` in double quotes, on one line, without any ambiguity."""
    return json.dumps(text, ensure_ascii=False)


def clean(text: str) -> str:
    """``text`` as a device stores it: one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def dialog_layout(dialog: Dialog) -> list[Placed]:
    """The dialog's elements, in the middle of the screen; nothing else can be reached."""
    texts = [Element("TextView", dialog.title), Element("TextView", dialog.message)]
    elements = [*texts, *(Element("Button", label, tap=effect) for label, effect in dialog.options)]
    top = (HEIGHT - ROW * len(elements)) // 2
    return [Placed(e, (24, top + ROW * i, WIDTH - 24, top + ROW * (i + 1))) for i, e in enumerate(elements)]


def visible_rows(device: Device, view: View) -> tuple[int, int]:
    """(first, end) of the scrolling rows on the screen, after clamping the page's position."""
    shown = min(WINDOW, (_bottom(device, view) - ROW * (1 + len(view.head) + len(view.foot))) // ROW)
    wanted = device.stack[-1].top if device.stack else 0
    first = max(0, min(wanted, len(view.rows) - shown))
    return first, min(len(view.rows), first + shown)


def layout(device: Device, view: View) -> list[Placed]:
    """Every element on the screen, in the order of their indices: bar, head, visible rows, foot."""
    width = WIDTH // max(1, len(view.bar))
    placed = [Placed(e, (width * i, 0, width * (i + 1), ROW)) for i, e in enumerate(view.bar)]
    first, end = visible_rows(device, view)
    for i, element in enumerate((*view.head, *view.rows[first:end])):
        placed.append(_row(device, element, ROW * (i + 1)))
    bottom = _bottom(device, view)
    for i, element in enumerate(view.foot):
        placed.append(_row(device, element, bottom - ROW * (len(view.foot) - i)))
    return placed


def _bottom(device: Device, view: View) -> int:
    return KEYBOARD_TOP if device.keyboard and view.resizes else HEIGHT


def _row(device: Device, element: Element, top: int) -> Placed:
    return Placed(element, (0, top, WIDTH, top + ROW), covered=device.keyboard and top + ROW > KEYBOARD_TOP)
