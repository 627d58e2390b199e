"""Files: folders and text files; a long press opens the menu that renames, moves and deletes.

Owns: its pages, paths and which names are allowed. Refuses: editing the text of a file.
"""

from __future__ import annotations

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

APP = "Files"
ROOT = "Device storage"


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def split(path: str) -> tuple[str, str]:
    """(folder, name); the root folder is ''."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _main(device: Device, page: Page) -> View:
    """One folder: its folders first, then its files."""
    here = page.args.get("folder", "")
    folders = sorted(path for path in device.data["folders"] if split(path)[0] == here)
    files = sorted(path for path in device.data["files"] if split(path)[0] == here)
    rows = [
        Element("TextView", split(p)[1], "folder", tap=going_to(APP, "main", folder=p), hold=_menu(p, True))
        for p in folders
    ]
    rows += [
        Element("TextView", split(p)[1], "file", tap=going_to(APP, "open", path=p), hold=_menu(p, False)) for p in files
    ]
    new = button("New folder", going_to(APP, "name", {"name": ""}, folder=here))
    bar = (up_button(),) if here else ()
    return View(here or ROOT, bar=bar, rows=tuple(rows) or (Element("TextView", "Empty folder"),), foot=(new,))


def _open(device: Device, page: Page) -> View:
    path = page.args["path"]
    return View(split(path)[1], bar=(up_button(),), rows=(Element("TextView", device.data["files"][path], "text"),))


def _menu(path: str, folder: bool) -> Effect:
    name = split(path)[1]
    options = [
        ("Rename", going_to(APP, "name", {"name": name}, path=path)),
        ("Move", going_to(APP, "move", path=path)),
        ("Delete", confirm_delete(name, _delete(path))),
        ("Cancel", cancel),
    ]
    if folder:
        del options[1]
    return lambda device: ask(device, Dialog("Folder" if folder else "File", name, tuple(options)))


def _delete(path: str) -> Effect:
    def delete(device: Device) -> None:
        _replace(device, path, None)
        device.toast = "Deleted"

    return delete


def _replace(device: Device, path: str, target: str | None) -> None:
    """Give ``path`` and all below it the path ``target``, or remove them."""

    def moved(old: str) -> str | None:
        if old != path and not old.startswith(path + "/"):
            return old
        return None if target is None else target + old[len(path) :]

    data = device.data
    data["folders"] = [new for old in data["folders"] if (new := moved(old)) is not None]
    data["files"] = {new: text for old, text in data["files"].items() if (new := moved(old)) is not None}


def _name(device: Device, page: Page) -> View:
    """A new folder in ``folder``, or a new name for ``path``."""
    was = split(page.args["path"])[1] if "path" in page.args else ""
    bar = (up_button(), button("Save", _save))
    title = "Rename" if "path" in page.args else "New folder"
    return View(title, bar=bar, rows=(edit_field(page, "name", "Name"),), changed=page.fields["name"] != was)


def _save(device: Device) -> None:
    page = device.stack[-1]
    name, old = page.fields["name"].strip(), page.args.get("path")
    target = join(split(old)[0] if old else page.args["folder"], name)
    if not name or "/" in name:
        device.toast = "Enter a name without /"
    elif target != old and _taken(device, target):
        device.toast = "This name is taken"
    else:
        if old:
            _replace(device, old, target)
        else:
            device.data["folders"].append(target)
        device.pop()
        device.toast = "Renamed" if old else "Folder created"


def _taken(device: Device, path: str) -> bool:
    return path in device.data["folders"] or path in device.data["files"]


def _move(device: Device, page: Page) -> View:
    """Every folder but the one the file is in."""
    here = split(page.args["path"])[0]
    places = [folder for folder in ("", *sorted(device.data["folders"])) if folder != here]
    rows = tuple(Element("TextView", folder or ROOT, "folder", tap=_move_to(folder)) for folder in places)
    return View("Move to", bar=(up_button(),), rows=rows or (Element("TextView", "No other folder"),))


def _move_to(folder: str) -> Effect:
    def move(device: Device) -> None:
        path = device.stack[-1].args["path"]
        target = join(folder, split(path)[1])
        if _taken(device, target):
            device.toast = "This name is taken"
            return
        _replace(device, path, target)
        device.pop()
        device.toast = f"Moved to {folder or ROOT}"

    return move


PAGES: Pages = {"main": _main, "open": _open, "name": _name, "move": _move}
