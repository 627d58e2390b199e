"""Messages: threads, one thread with its field to write in, and the choice of a contact for a new one.

Owns: its pages, and asking for the permission to read contacts the first time it needs them.
Refuses: delivery; a message that was sent is a line in its thread.
"""

from __future__ import annotations

from worldmodel.domains.android.apps.contacts import by_name
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
    edit_field,
    up_button,
)

APP = "Messages"
PERMISSION = "Messages: Contacts"
YOU = "You"
NEWEST = 10**6  # a position that the layout clamps to the last rows


def _main(device: Device, page: Page) -> View:
    rows = tuple(
        Element("TextView", thread["with"], thread["lines"][-1][1], tap=_open(thread["with"]))
        for thread in device.data["messages"]
    )
    new = button("New message", _new)
    return View("Messages", rows=rows or (Element("TextView", "No messages"),), foot=(new,))


def _open(name: str) -> Effect:
    return lambda device: device.push(Page(APP, "thread", {"with": name}, {"text": ""}, top=NEWEST))


def _new(device: Device) -> None:
    """To the list of contacts, if that is allowed."""
    granted = device.data["permissions"].get(PERMISSION, "ask")
    if granted == "allow":
        device.push(Page(APP, "pick"))
    elif granted == "deny":
        device.toast = "Contacts permission is off"
    else:
        options = (("Don't allow", _answered("deny")), ("Allow", _answered("allow")))
        ask(device, Dialog("Permission", "Allow Messages to access your contacts?", options))


def _answered(granted: str) -> Effect:
    def answered(device: Device) -> None:
        device.data["permissions"][PERMISSION] = granted
        _new(device)

    return answered


def _pick(device: Device, page: Page) -> View:
    rows = tuple(Element("TextView", c["name"], tap=_start(c["name"])) for c in by_name(device))
    return View("Choose contact", bar=(up_button(),), rows=rows or (Element("TextView", "No contacts"),))


def _start(name: str) -> Effect:
    def start(device: Device) -> None:
        device.pop()
        _open(name)(device)

    return start


def _thread(device: Device, page: Page) -> View:
    name = page.args["with"]
    lines: list[list[str]] = next((thread["lines"] for thread in device.data["messages"] if thread["with"] == name), [])
    rows = tuple(Element("TextView", text, sender) for sender, text in lines)
    draft = page.fields["text"]
    foot = (edit_field(page, "text", "Text message"), button("Send", _send, enabled=bool(draft.strip())))
    return View(name, bar=(up_button(),), rows=rows, foot=foot, resizes=True)


def _send(device: Device) -> None:
    """The thread moves to the top of the list."""
    page = device.stack[-1]
    if device.data["settings"].get("Airplane mode"):
        device.toast = "Not sent: airplane mode is on"
        return
    threads = device.data["messages"]
    thread = next((t for t in threads if t["with"] == page.args["with"]), None)
    if thread is None:
        thread = {"with": page.args["with"], "lines": []}
    else:
        threads.remove(thread)
    thread["lines"].append([YOU, page.fields["text"].strip()])
    threads.insert(0, thread)
    page.fields["text"], page.top = "", NEWEST
    device.toast = "Message sent"


PAGES: Pages = {"main": _main, "pick": _pick, "thread": _thread}
