"""The reference device: what each action does, and the screen as text.

Owns: the device from its initial data, dispatch of actions, back and keyboard rules, the element list, the digest of
the state. Refuses: the action grammar (``actions``), what single apps do (``apps``), reading state as text (``dump``).

It is a model of a phone's user interface, made for this project: deterministic, with a fixed clock and no processes.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from worldmodel.domains.android.apps import APPS
from worldmodel.domains.android.ui import (
    MAX_TEXT,
    STEP,
    Device,
    Dialog,
    Element,
    Placed,
    View,
    ask,
    cancel,
    clean,
    dialog_layout,
    layout,
    leave,
    quoted,
    visible_rows,
)

CLOCK = "Mon 3 March 09:30"
WITH_IDS = ("contacts", "notes", "alarms")
EMPTY: dict[str, Any] = {
    "settings": {}, "permissions": {}, "contacts": [], "notes": [], "alarms": [], "messages": [],
    "folders": [], "files": {},
}  # fmt: skip


def boot(state: Mapping[str, Any]) -> Device:
    """A device at its launcher, with a copy of ``state``; tables that are left out are empty."""
    device = Device(copy.deepcopy({**EMPTY, **state}))
    for table in WITH_IDS:
        for record in device.data[table]:
            record["id"] = device.new_id()
    return device


def view_of(device: Device) -> View:
    """The page on top of the back stack."""
    if not device.stack:
        buttons = tuple(Element("Button", name, tap=_opens(name)) for name in APPS)
        return View("Launcher", rows=(Element("TextView", CLOCK), *buttons))
    page = device.stack[-1]
    return APPS[page.app][page.name](device, page)


def elements(device: Device) -> list[Placed]:
    """What is on the screen; the position in the list is the index that actions use."""
    return dialog_layout(device.dialog) if device.dialog else layout(device, view_of(device))


def render(device: Device) -> str:
    """The complete screen: two or more header lines, then one line per element."""
    view = view_of(device)
    app = device.stack[-1].app if device.stack else "Home"
    keyboard = "shown" if device.keyboard else "hidden"
    dialog = quoted(device.dialog.title) if device.dialog else "none"
    lines = [f"app {app} | screen {quoted(view.title)}", f"keyboard {keyboard} | dialog {dialog}"]
    if device.toast:
        lines.append(f"toast {quoted(device.toast)}")
    first, end = visible_rows(device, view)
    if end - first < len(view.rows) and not device.dialog:
        lines.append(f"rows {first + 1}-{end} of {len(view.rows)}")
    focus = device.stack[-1].focus if device.stack else ""
    lines += [_line(index, placed, focus) for index, placed in enumerate(elements(device))]
    return "\n".join(lines)


def digest(device: Device) -> str:
    """Identity of the whole state."""
    stack = [asdict(page) for page in device.stack]
    value = [device.data, stack, device.answer, device.made, render(device)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def act(device: Device, name: str, arguments: Mapping[str, Any]) -> None:
    """Carry out one action of the grammar. What has no effect (an absent, covered or disabled element) changes
    nothing but the toast, which lasts for one screen."""
    device.toast = ""
    match name:
        case "click" | "double_tap" | "long_press":
            _touch(device, name, arguments["index"])
        case "input_text":
            _type(device, arguments)
        case "scroll":
            _scroll(device, arguments["direction"])
        case "swipe":
            _swipe(device, arguments["direction"], arguments.get("index"))
        case "keyboard_enter":
            _enter(device)
        case "navigate_back":
            _back(device)
        case "navigate_home":
            device.home()
        case "open_app":
            wanted = {app.lower(): app for app in APPS}.get(arguments["app_name"].strip().lower())
            if wanted:
                device.open(wanted)
        case "answer":
            device.answer = arguments["text"]


def _line(index: int, placed: Placed, focus: str) -> str:
    element = placed.element
    states = [
        *([quoted(element.text)] if element.text or not element.desc else []),
        *([("hint " if element.field else "desc ") + quoted(element.desc)] if element.desc else []),
        *([] if element.checked is None else ["checked" if element.checked else "unchecked"]),
        *(["focused"] if element.field and element.field == focus else []),
        *([] if element.enabled else ["disabled"]),
        *(["covered"] if placed.covered else []),
    ]
    left, top, right, bottom = placed.bounds
    return f"[{index}] {element.kind} {' '.join(states)} [{left},{top}][{right},{bottom}]"


def _opens(name: str) -> Any:
    return lambda device: device.open(name)


def _reach(device: Device, index: int | None) -> Element | None:
    """The element at ``index`` where a finger gets to it."""
    found = elements(device)
    if index is None or not 0 <= index < len(found):
        return None
    return found[index].element if found[index].element.enabled and not found[index].covered else None


def _touch(device: Device, name: str, index: int) -> None:
    element = _reach(device, index)
    if element is None or (name == "double_tap" and element.checked is not None):
        return  # two taps on a switch leave it as it was
    effect = element.hold if name == "long_press" else element.tap
    in_dialog = device.dialog is not None
    if effect:
        device.dialog = None  # an option may ask the next question
    if element.field:
        _focus(device, element.field)
    elif effect is leave and not in_dialog:
        _leave(device)
    elif effect:
        effect(device)


def _focus(device: Device, field: str) -> None:
    device.stack[-1].focus, device.keyboard = field, True


def _type(device: Device, arguments: Mapping[str, Any]) -> None:
    """Typing needs a field in focus: the one at ``index``, or the one that the keyboard is writing into."""
    if "index" in arguments:
        element = _reach(device, arguments["index"])
        if element is None or not element.field:
            return
        _focus(device, element.field)
    if not device.keyboard:
        return
    page = device.stack[-1]
    before = "" if arguments.get("clear_text") else page.fields.get(page.focus, "")
    page.fields[page.focus] = (before + clean(arguments["text"]))[:MAX_TEXT]


def _scroll(device: Device, direction: str) -> None:
    if device.dialog or not device.stack or direction not in ("up", "down"):
        return
    view = view_of(device)
    first, _ = visible_rows(device, view)
    device.stack[-1].top = max(0, first + (STEP if direction == "down" else -STEP))
    device.stack[-1].top = visible_rows(device, view)[0]


def _swipe(device: Device, direction: str, index: int | None) -> None:
    """A finger's movement: up scrolls down; sideways on a slider moves it."""
    element = _reach(device, index)
    if direction in ("up", "down"):
        _scroll(device, "down" if direction == "up" else "up")
    elif element is not None and element.drag:
        element.drag(device, 1 if direction == "right" else -1)


def _enter(device: Device) -> None:
    """The next field gets the focus; after the last one the keyboard goes."""
    if not device.keyboard:
        return
    view, page = view_of(device), device.stack[-1]
    fields = [e.field for e in (*view.head, *view.rows, *view.foot) if e.field]
    place = fields.index(page.focus) + 1 if page.focus in fields else len(fields)
    if place < len(fields):
        page.focus = fields[place]
    else:
        device.keyboard = False


def _back(device: Device) -> None:
    """A dialog is cancelled first, then the keyboard hides, then the page is left."""
    if device.dialog or device.keyboard:
        device.dialog, device.keyboard = None, False
    else:
        _leave(device)


def _leave(device: Device) -> None:
    if not device.stack:
        return
    if view_of(device).changed:
        options = (("Keep editing", cancel), ("Discard", leave))
        ask(device, Dialog("Discard changes", "Your changes are not saved.", options))
    else:
        leave(device)
