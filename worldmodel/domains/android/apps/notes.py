"""Notes: a list with the pinned ones first, and the page that shows and edits one.

Owns: its pages and its menu on a long press. Refuses: nothing else's business is here.
"""

from __future__ import annotations

from typing import Any

from worldmodel.domains.android.ui import (
    Device,
    Dialog,
    Effect,
    Element,
    Page,
    Pages,
    View,
    ask,
    button,
    cancel,
    confirm_delete,
    edit_field,
    going_to,
    up_button,
)

APP = "Notes"


def in_order(device: Device) -> list[dict[str, Any]]:
    """Pinned notes first, each part with the oldest first."""
    return sorted(device.data["notes"], key=lambda note: (not note["pinned"], note["id"]))


def _main(device: Device, page: Page) -> View:
    rows = tuple(_row(note) for note in in_order(device)) or (Element("TextView", "No notes"),)
    return View("Notes", rows=rows, foot=(button("New note", going_to(APP, "edit", {"title": "", "body": ""})),))


def _row(note: dict[str, Any]) -> Element:
    opened = going_to(APP, "edit", {"title": note["title"], "body": note["body"]}, id=note["id"])
    return Element("TextView", note["title"], "pinned" if note["pinned"] else "", tap=opened, hold=_menu(note))


def _menu(note: dict[str, Any]) -> Effect:
    pin = "Unpin" if note["pinned"] else "Pin"
    options = ((pin, _pin(note)), ("Delete", confirm_delete(note["title"], _delete(note))), ("Cancel", cancel))
    return lambda device: ask(device, Dialog("Note", note["title"], options))


def _pin(note: dict[str, Any]) -> Effect:
    def pin(device: Device) -> None:
        note["pinned"] = not note["pinned"]
        device.toast = "Note pinned" if note["pinned"] else "Note unpinned"

    return pin


def _delete(note: dict[str, Any]) -> Effect:
    def delete(device: Device) -> None:
        device.data["notes"].remove(note)
        if device.stack[-1].name == "edit":
            device.pop()
        device.toast = "Note deleted"

    return delete


def _get(device: Device, page: Page) -> dict[str, Any] | None:
    return next((note for note in device.data["notes"] if note["id"] == page.args.get("id")), None)


def _edit(device: Device, page: Page) -> View:
    note = _get(device, page)
    bar = [up_button(), button("Save", _save)]
    if note is not None:
        pin = button("Unpin" if note["pinned"] else "Pin", _pin(note))
        bar += [pin, button("Delete", confirm_delete(note["title"], _delete(note)))]
    was = note or {"title": "", "body": ""}
    changed = any(page.fields[name] != was[name] for name in ("title", "body"))
    rows = (edit_field(page, "title", "Title"), edit_field(page, "body", "Text"))
    return View("Edit note" if note else "New note", bar=tuple(bar), rows=rows, changed=changed)


def _save(device: Device) -> None:
    page = device.stack[-1]
    record = {name: page.fields[name].strip() for name in ("title", "body")}
    note = _get(device, page)
    if not record["title"]:
        device.toast = "Enter a title"
        return
    if note is not None:
        note.update(record)
    else:
        device.data["notes"].append({**record, "pinned": False, "id": device.new_id()})
    device.pop()
    device.toast = "Note saved"


PAGES: Pages = {"main": _main, "edit": _edit}
