"""The android families of messages and files, and those that need more than one app; which are held out.

Owns: as ``families``, and the tables of all families. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import random

from worldmodel.domains.android import families as f
from worldmodel.domains.android import vocabulary as v
from worldmodel.domains.android.apps.files import ROOT, join, split
from worldmodel.domains.android.apps.messages import PERMISSION, YOU
from worldmodel.domains.android.apps.settings import PERMISSIONS
from worldmodel.domains.android.drafts import Draft, Family, answers, draft, expect, fill, named
from worldmodel.domains.android.planner import User
from worldmodel.domains.android.vocabulary import State


def reply_message(rng: random.Random) -> Draft:
    state, text = v.device(rng), rng.choice(v.TEXTS)
    name, wrong = (thread["with"] for thread in rng.sample(state["messages"], 2))
    ask = rng.choice((f'Reply "{text}" to {name}.', f"Write to {name} in our thread: {text}"))
    return draft(
        state, ask, expect(state, lambda d: _say(d, name, text), f"messages/{name}", f"messages/{wrong}"),
        lambda user: user.open("Messages").tap(name).write(FIELD, text).tap("Send"),
        lambda user: user.open("Messages").tap(wrong).write(FIELD, text).tap("Send"),
        lambda user: user.open("Messages").tap(name).write(FIELD, text),
    )  # fmt: skip


def new_message(rng: random.Random) -> Draft:
    """The first message to a contact: the app asks for its permission."""
    state, text = v.device(rng), rng.choice(v.TEXTS)
    name, wrong = rng.sample(_without_thread(state), 2)
    ask = rng.choice((f'Send "{text}" to {name}.', f"Send {name} a message: {text}"))
    return draft(
        state, ask, expect(state, lambda d: _say(d, name, text), f"messages/{name}"),
        lambda user: _compose(user, name, text),
        lambda user: _compose(user, wrong, text),
        lambda user: user.open("Messages").tap("New message", "Don't allow"),
    )  # fmt: skip


def message_without_permission(rng: random.Random) -> Draft:
    """The permission was denied before: it has to be granted in Settings."""
    state, text = v.device(rng), rng.choice(v.TEXTS)
    state["permissions"][PERMISSION] = "deny"
    name = rng.choice(_without_thread(state))

    def change(wanted: State) -> None:
        _say(wanted, name, text)
        wanted["permissions"][PERMISSION] = "allow"

    return draft(
        state, f'Send "{text}" to {name}. Give Messages the permission it lacks.',
        expect(state, change, f"messages/{name}", "permissions"),
        lambda user: _write(user.open("Settings").tap(PERMISSIONS, PERMISSION).open("Messages"), name, text),
        lambda user: user.open("Messages").tap("New message"),
        lambda user: user.open("Settings").tap(PERMISSIONS, PERMISSION),
    )  # fmt: skip


def last_message(rng: random.Random) -> Draft:
    state = v.device(rng)
    one, two = rng.sample(state["messages"], 2)
    for thread, text in zip((one, two), rng.sample(v.TEXTS, 2), strict=True):
        thread["lines"].append([thread["with"], text])
    (_, text), (_, wrong) = one["lines"][-1], two["lines"][-1]
    ask = rng.choice((f"What was the last message from {one['with']}?", f"What did {one['with']} write last?"))
    return draft(
        state, ask, answers(text),
        lambda user: user.open("Messages").tap(one["with"]).answer(text),
        lambda user: user.open("Messages").tap(two["with"]).answer(wrong),
        lambda user: user.open("Messages").tap(one["with"]),
    )  # fmt: skip


def read_file(rng: random.Random) -> Draft:
    state = v.device(rng)
    path, wrong = _nested(rng, state, 2)
    text = state["files"][path]
    ask = rng.choice((f"What does the file {split(path)[1]} in {split(path)[0]} say?", f"Read {path} to me."))
    return draft(
        state, ask, answers(text),
        lambda user: _into(user, path).tap(split(path)[1]).answer(text),
        lambda user: _into(user, wrong).tap(split(wrong)[1]).answer(state["files"][wrong]),
        lambda user: _into(user, path).answer(split(path)[1]),
    )  # fmt: skip


def rename_file(rng: random.Random) -> Draft:
    state = v.device(rng)
    path, wrong = _nested(rng, state, 2)
    (folder, name), new = split(path), f"{rng.choice(v.STEMS)}{rng.randrange(30, 60)}.txt"
    return draft(
        state, rng.choice((f"Rename {name} in {folder} to {new}.", f"Give the file {path} the name {new}.")),
        expect(state, lambda d: _move(d, path, join(folder, new)), "files"),
        lambda user: _into(user, path).hold(name).tap("Rename").write("Name", new).tap("Save"),
        lambda user: _into(user, path).hold(name).tap("Rename").write("Name", new).back().back().tap("Discard"),
        lambda user: _into(user, wrong).hold(split(wrong)[1]).tap("Rename").write("Name", new).tap("Save"),
    )  # fmt: skip


def delete_file(rng: random.Random) -> Draft:
    state = v.device(rng)
    path, wrong = _nested(rng, state, 2)
    folder, name = split(path)
    return draft(
        state, rng.choice((f"Delete {name} in {folder}.", f"Remove the file {path}.")),
        expect(state, lambda d: d["files"].pop(path), "files"),
        lambda user: _into(user, path).hold(name).tap("Delete", "Delete"),
        lambda user: _into(user, wrong).hold(split(wrong)[1]).tap("Delete", "Delete"),
        lambda user: _into(user, path).hold(name).tap("Delete", "Cancel"),
    )  # fmt: skip


def new_folder(rng: random.Random) -> Draft:
    state = v.device(rng)
    name, inside = v.other(rng, state["folders"], v.FOLDERS), rng.choice(state["folders"])
    return draft(
        state, rng.choice((f"Make a folder {name} inside {inside}.", f"In {inside}, create the folder {name}.")),
        expect(state, lambda d: d["folders"].append(join(inside, name)), "folders"),
        lambda user: user.open("Files").tap(inside, "New folder").write("Name", name).tap("Save"),
        lambda user: user.open("Files").tap("New folder").write("Name", name).tap("Save"),
        lambda user: user.open("Files").tap(inside, "New folder").write("Name", name),
    )  # fmt: skip


def move_file(rng: random.Random) -> Draft:
    state = v.device(rng)
    (path,) = _nested(rng, state, 1)
    folder, name = split(path)
    to = rng.choice([place for place in state["folders"] if place != folder])
    return draft(
        state, rng.choice((f"Move {name} from {folder} to {to}.", f"Put the file {path} into the folder {to}.")),
        expect(state, lambda d: _move(d, path, join(to, name)), "files"),
        lambda user: _into(user, path).hold(name).tap("Move", to),
        lambda user: _into(user, path).hold(name).tap("Move", ROOT),
        lambda user: _into(user, path).hold(name).tap("Move").back(),
    )  # fmt: skip


def note_to_contact(rng: random.Random) -> Draft:
    """Two apps: the number is only in the note."""
    state = v.device(rng)
    note, name, phone = rng.choice(state["notes"]), v.new_name(rng, state), v.new_phone(rng, state)
    note.update(body=f"Call {name} at {phone}")
    wrong = state["contacts"][0]["phone"]
    ask = rng.choice((f'My note "{note["title"]}" has the number of {name}. Add the contact.',
                      f'Copy the number of {name} from the note "{note["title"]}" into a new contact.'))  # fmt: skip

    def add(user: User, number: str) -> User:
        user.open("Notes").tap(note["title"]).open("Contacts").tap("Add contact")
        return fill(user, ("Name", name), ("Phone", number)).tap("Save")

    return draft(
        state, ask, expect(state, lambda d: d["contacts"].append({"name": name, "phone": phone}), "contacts"),
        lambda user: add(user, phone),
        lambda user: add(user, wrong),
        lambda user: user.open("Notes").tap(note["title"]),
    )  # fmt: skip


def send_number(rng: random.Random) -> Draft:
    """Two apps: the number of one contact goes to another as a message."""
    state = v.device(rng)
    name = rng.choice(state["messages"])["with"]
    contact, wrong = rng.sample([c for c in state["contacts"] if c["name"] != name], 2)
    ask = rng.choice((f"Send {name} the number of {contact['name']}.",
                      f"{name} asks for the number of {contact['name']}. Send only the number."))  # fmt: skip

    def send(user: User, of: dict[str, str]) -> User:
        user.open("Contacts").tap(of["name"]).open("Messages").tap(name)
        return user.write(FIELD, of["phone"]).tap("Send")

    return draft(
        state, ask, expect(state, lambda d: _say(d, name, contact["phone"]), f"messages/{name}"),
        lambda user: send(user, contact),
        lambda user: send(user, wrong),
        lambda user: user.open("Contacts").tap(contact["name"]),
    )  # fmt: skip


FIELD = "Text message"


def _without_thread(state: State) -> list[str]:
    """Contacts that were never written to. There are two at least."""
    known = {thread["with"] for thread in state["messages"]}
    return [contact["name"] for contact in state["contacts"] if contact["name"] not in known]


def _say(state: State, name: str, text: str) -> None:
    threads = state["messages"]
    if all(thread["with"] != name for thread in threads):
        threads.append({"with": name, "lines": []})
    named(threads, "with", name)["lines"].append([YOU, text])


def _compose(user: User, name: str, text: str) -> User:
    user.open("Messages").tap("New message", "Allow", name)
    return user.write(FIELD, text).tap("Send")


def _write(user: User, name: str, text: str) -> User:
    return user.tap("New message", name).write(FIELD, text).tap("Send")


def _nested(rng: random.Random, state: State, count: int) -> list[str]:
    """Paths of files that are in folders."""
    return rng.sample([path for path in state["files"] if split(path)[0]], count)


def _into(user: User, path: str) -> User:
    return user.open("Files").tap(split(path)[0])


def _move(state: State, path: str, target: str) -> None:
    state["files"][target] = state["files"].pop(path)


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        f.toggle_setting, f.airplane_mode, f.set_choice, f.set_brightness, f.grant_permission, f.add_contact,
        f.edit_contact, f.delete_contact, f.find_number, f.create_note, f.rename_note, f.delete_note, f.pin_note,
        f.add_alarm, f.toggle_alarm, f.delete_alarm, f.change_alarm, reply_message, new_message,
        message_without_permission, last_message, read_file, rename_file, delete_file, new_folder, move_file,
        note_to_contact, send_number,
    )
}  # fmt: skip
HELD_OUT = ("change_alarm", "message_without_permission", "move_file", "note_to_contact", "send_number")
TRAIN = tuple(name for name in FAMILIES if name not in HELD_OUT)
