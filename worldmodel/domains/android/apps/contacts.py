"""Contacts: a list that can be searched, one contact, and the form that adds or edits one.

Owns: its pages. Refuses: other apps' use of contacts (they read the table).
"""

from __future__ import annotations

from typing import Any

from worldmodel.domains.android.ui import (
    Device,
    Effect,
    Element,
    Page,
    Pages,
    View,
    button,
    confirm_delete,
    edit_field,
    going_to,
    up_button,
)

APP = "Contacts"


def by_name(device: Device) -> list[dict[str, Any]]:
    """All contacts in the order in which they are listed."""
    return sorted(device.data["contacts"], key=lambda contact: (contact["name"], contact["id"]))


def _main(device: Device, page: Page) -> View:
    wanted = page.fields.get("search", "").strip().lower()
    rows = tuple(
        Element("TextView", contact["name"], tap=going_to(APP, "view", id=contact["id"]))
        for contact in by_name(device)
        if wanted in contact["name"].lower()
    )
    add = button("Add contact", going_to(APP, "edit", {"name": "", "phone": ""}))
    head = (edit_field(page, "search", "Search contacts"),)
    return View("Contacts", head=head, rows=rows or (Element("TextView", "No contacts"),), foot=(add,))


def _get(device: Device, page: Page) -> dict[str, Any]:
    return next(contact for contact in device.data["contacts"] if contact["id"] == page.args["id"])


def _view(device: Device, page: Page) -> View:
    contact = _get(device, page)
    draft = {"name": contact["name"], "phone": contact["phone"]}
    edit = button("Edit", going_to(APP, "edit", draft, id=contact["id"]))
    delete = button("Delete", confirm_delete(contact["name"], _delete(contact)))
    rows = (Element("TextView", contact["name"], "Name"), Element("TextView", contact["phone"], "Phone"))
    return View("Contact", bar=(up_button(), edit, delete), rows=rows)


def _delete(contact: dict[str, Any]) -> Effect:
    def delete(device: Device) -> None:
        device.data["contacts"].remove(contact)
        device.pop()
        device.toast = "Contact deleted"

    return delete


def _edit(device: Device, page: Page) -> View:
    was = _get(device, page) if "id" in page.args else {"name": "", "phone": ""}
    rows = (edit_field(page, "name", "Name"), edit_field(page, "phone", "Phone"))
    changed = any(page.fields[name] != was[name] for name in ("name", "phone"))
    title = "Edit contact" if "id" in page.args else "New contact"
    return View(title, bar=(up_button(), button("Save", _save)), rows=rows, changed=changed)


def _save(device: Device) -> None:
    page = device.stack[-1]
    record = {name: page.fields[name].strip() for name in ("name", "phone")}
    if not record["name"]:
        device.toast = "Enter a name"
        return
    if "id" in page.args:
        _get(device, page).update(record)
    else:
        device.data["contacts"].append({**record, "id": device.new_id()})
    device.pop()
    device.toast = "Contact saved"


PAGES: Pages = {"main": _main, "view": _view, "edit": _edit}
