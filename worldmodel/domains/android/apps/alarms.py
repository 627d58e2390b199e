"""Alarms: a list of switches, and the form that adds or edits one.

Owns: its pages and which times exist. Refuses: ringing; the clock of the device stands still.
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

APP = "Alarms"
FIELDS = ("hour", "minute", "label")


def time_of(alarm: dict[str, Any]) -> str:
    return f"{alarm['hour']:02d}:{alarm['minute']:02d}"


def _draft(alarm: dict[str, Any]) -> dict[str, str]:
    return {"hour": f"{alarm['hour']:02d}", "minute": f"{alarm['minute']:02d}", "label": alarm["label"]}


def in_order(device: Device) -> list[dict[str, Any]]:
    """Earliest first."""
    return sorted(device.data["alarms"], key=lambda alarm: (alarm["hour"], alarm["minute"], alarm["id"]))


def _main(device: Device, page: Page) -> View:
    rows = tuple(
        Element("Switch", time_of(alarm), alarm["label"], tap=_flip(alarm), hold=_menu(alarm), checked=alarm["on"])
        for alarm in in_order(device)
    )
    add = button("Add alarm", going_to(APP, "edit", dict.fromkeys(FIELDS, "")))
    return View("Alarms", rows=rows or (Element("TextView", "No alarms"),), foot=(add,))


def _flip(alarm: dict[str, Any]) -> Effect:
    def flip(device: Device) -> None:
        alarm["on"] = not alarm["on"]
        device.toast = f"Alarm {time_of(alarm)} {'on' if alarm['on'] else 'off'}"

    return flip


def _menu(alarm: dict[str, Any]) -> Effect:
    edit = going_to(APP, "edit", _draft(alarm), id=alarm["id"])
    options = (("Edit", edit), ("Delete", confirm_delete(time_of(alarm), _delete(alarm))), ("Cancel", cancel))
    return lambda device: ask(device, Dialog("Alarm", time_of(alarm), options))


def _delete(alarm: dict[str, Any]) -> Effect:
    def delete(device: Device) -> None:
        device.data["alarms"].remove(alarm)
        device.toast = "Alarm deleted"

    return delete


def _get(device: Device, page: Page) -> dict[str, Any] | None:
    return next((alarm for alarm in device.data["alarms"] if alarm["id"] == page.args.get("id")), None)


def _edit(device: Device, page: Page) -> View:
    """The button that saves is at the bottom: the keyboard covers it."""
    alarm = _get(device, page)
    was = _draft(alarm) if alarm else dict.fromkeys(FIELDS, "")
    hints = {"hour": "Hour", "minute": "Minute", "label": "Label"}
    rows = tuple(edit_field(page, name, hints[name]) for name in FIELDS)
    title = "Edit alarm" if alarm else "New alarm"
    return View(title, bar=(up_button(),), rows=rows, foot=(button("Save", _save),), changed=page.fields != was)


def _number(text: str, end: int) -> int | None:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        return None
    return int(text) if int(text) < end else None


def _save(device: Device) -> None:
    page = device.stack[-1]
    hour, minute = _number(page.fields["hour"], 24), _number(page.fields["minute"], 60)
    if hour is None or minute is None:
        device.toast = "Enter a time from 00:00 to 23:59"
        return
    record = {"hour": hour, "minute": minute, "label": page.fields["label"].strip(), "on": True}
    alarm = _get(device, page)
    if alarm is not None:
        alarm.update(record)
    else:
        device.data["alarms"].append({**record, "id": device.new_id()})
    device.pop()
    device.toast = f"Alarm set for {hour:02d}:{minute:02d}"


PAGES: Pages = {"main": _main, "edit": _edit}
