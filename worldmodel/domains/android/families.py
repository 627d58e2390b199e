"""The android families that change settings, contacts, notes and alarms: one small seeded function each.

Owns: instruction, initial data, known good and wrong ways, checks. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import random

from worldmodel.domains.android import vocabulary as v
from worldmodel.domains.android.apps.alarms import time_of
from worldmodel.domains.android.apps.settings import BRIGHTNESS, CHOICES, PERMISSIONS, SWITCHES
from worldmodel.domains.android.drafts import Draft, answers, draft, drop, expect, fill, named


def toggle_setting(rng: random.Random) -> Draft:
    state = v.device(rng)
    name, wrong = rng.sample([name for name in SWITCHES if name != "Airplane mode"], 2)
    to = not state["settings"][name]
    ask = rng.choice((f"Turn {'on' if to else 'off'} {name}.", f"Switch {name} {'on' if to else 'off'}."))
    return draft(
        state, ask, expect(state, lambda d: d["settings"].update({name: to}), "settings"),
        lambda user: user.open("Settings").tap(name),
        lambda user: user.open("Settings").tap(wrong),
        lambda user: user.open("Settings").tap(name, name),
    )  # fmt: skip


def airplane_mode(rng: random.Random) -> Draft:
    """In airplane mode Wi-Fi cannot be reached: the order matters."""
    state = v.device(rng)
    state["settings"].update({"Airplane mode": True, "Wi-Fi": False, "Bluetooth": False})
    name = rng.choice(("Wi-Fi", "Bluetooth"))
    ask = rng.choice((f"Turn off airplane mode and turn on {name}.", f"Get {name} on again: airplane mode is on."))
    return draft(
        state, ask,
        expect(state, lambda d: d["settings"].update({"Airplane mode": False, name: True}), "settings"),
        lambda user: user.open("Settings").tap("Airplane mode", name),
        lambda user: user.open("Settings").tap(name, "Airplane mode"),
        lambda user: user.open("Settings").tap("Airplane mode"),
    )  # fmt: skip


def set_choice(rng: random.Random) -> Draft:
    state = v.device(rng)
    name = rng.choice(sorted(CHOICES))
    to, wrong = rng.sample([value for value in CHOICES[name] if value != state["settings"][name]], 2)
    ask = rng.choice((f"Set {name.lower()} to {to}.", f"Change the {name.lower()} of the phone to {to}."))
    return draft(
        state, ask, expect(state, lambda d: d["settings"].update({name: to}), "settings"),
        lambda user: user.open("Settings").tap(name, to),
        lambda user: user.open("Settings").tap(name, wrong),
        lambda user: user.open("Settings").tap(name),
    )  # fmt: skip


def set_brightness(rng: random.Random) -> Draft:
    state = v.device(rng)
    now = state["settings"][BRIGHTNESS]
    steps = rng.choice([n for n in (-3, -2, -1, 1, 2, 3) if 0 <= now + 10 * n <= 100])
    ask = rng.choice((f"Set the brightness to {now + 10 * steps}%.", f"Make the brightness {now + 10 * steps}%."))
    return draft(
        state, ask, expect(state, lambda d: d["settings"].update({BRIGHTNESS: now + 10 * steps}), "settings"),
        lambda user: user.open("Settings").tap(BRIGHTNESS).drag(BRIGHTNESS, steps),
        lambda user: user.open("Settings").tap(BRIGHTNESS).drag(BRIGHTNESS, steps + (1 if steps < 0 else -1)),
        lambda user: user.open("Settings").tap(BRIGHTNESS),
    )  # fmt: skip


def grant_permission(rng: random.Random) -> Draft:
    state = v.device(rng)
    name, wrong = rng.sample([name for name in v.PERMISSIONS if name != "Messages: Contacts"], 2)
    to = "deny" if state["permissions"][name] == "allow" else "allow"
    app, right = name.split(": ")
    verb = "Allow" if to == "allow" else "Do not allow"
    return draft(
        state, f"{verb} the app {app} to use: {right}.",
        expect(state, lambda d: d["permissions"].update({name: to}), "permissions"),
        lambda user: user.open("Settings").tap(PERMISSIONS, name),
        lambda user: user.open("Settings").tap(PERMISSIONS, wrong),
    )  # fmt: skip


def add_contact(rng: random.Random) -> Draft:
    state = v.device(rng)
    name, phone = v.new_name(rng, state), v.new_phone(rng, state)
    form = ("Name", name), ("Phone", phone)
    ask = rng.choice((f"Add a contact {name} with the number {phone}.", f"Save {phone} as the number of {name}."))
    return draft(
        state, ask, expect(state, lambda d: d["contacts"].append({"name": name, "phone": phone}), "contacts"),
        lambda user: fill(user.open("Contacts").tap("Add contact"), *form).tap("Save"),
        lambda user: fill(user.open("Contacts").tap("Add contact"), *form),
        lambda user: fill(user.open("Contacts").tap("Add contact"), form[0], ("Phone", phone[:-1])).tap("Save"),
    )  # fmt: skip


def edit_contact(rng: random.Random) -> Draft:
    state = v.device(rng)
    phone = v.new_phone(rng, state)
    contact, wrong = rng.sample(state["contacts"], 2)
    name = contact["name"]
    ask = rng.choice((f"Change the number of {name} to {phone}.", f"{name} has a new number, {phone}. Update it."))
    return draft(
        state, ask, expect(state, lambda d: named(d["contacts"], "name", name).update(phone=phone), "contacts"),
        lambda user: user.open("Contacts").tap(name, "Edit").write("Phone", phone).tap("Save"),
        lambda user: user.open("Contacts").tap(name, "Edit").write("Phone", phone).back().back().tap("Discard"),
        lambda user: user.open("Contacts").tap(wrong["name"], "Edit").write("Phone", phone).tap("Save"),
    )  # fmt: skip


def delete_contact(rng: random.Random) -> Draft:
    state = v.device(rng)
    name, wrong = (contact["name"] for contact in rng.sample(state["contacts"], 2))
    ask = rng.choice((f"Delete the contact {name}.", f"Remove {name} from my contacts."))
    return draft(
        state, ask, expect(state, lambda d: drop(d["contacts"], "name", name), "contacts"),
        lambda user: user.open("Contacts").tap(name, "Delete", "Delete"),
        lambda user: user.open("Contacts").tap(name, "Delete", "Cancel"),
        lambda user: user.open("Contacts").tap(wrong, "Delete", "Delete"),
    )  # fmt: skip


def find_number(rng: random.Random) -> Draft:
    state = v.device(rng)
    contact, wrong = rng.sample(state["contacts"], 2)
    wrong["phone"] = contact["phone"][:-1] + str((int(contact["phone"][-1]) + 1) % 10)
    ask = rng.choice((f"What is the number of {contact['name']}?", f"Which number has {contact['name']}?"))
    return draft(
        state, ask, answers(contact["phone"]),
        lambda user: user.open("Contacts").tap(contact["name"]).answer(contact["phone"]),
        lambda user: user.open("Contacts").tap(wrong["name"]).answer(wrong["phone"]),
        lambda user: user.open("Contacts").tap(contact["name"]),
    )  # fmt: skip


def create_note(rng: random.Random) -> Draft:
    state = v.device(rng)
    title = v.other(rng, [note["title"] for note in state["notes"]], v.TITLES)
    form = ("Title", title), ("Text", rng.choice(v.BODIES))
    note = {"title": title, "body": form[1][1], "pinned": False}
    ask = rng.choice(
        (f'Make a note "{title}" that says: {note["body"]}', f'Write "{note["body"]}" in a note "{title}".')
    )
    return draft(
        state, ask, expect(state, lambda d: d["notes"].append(note), "notes"),
        lambda user: fill(user.open("Notes").tap("New note"), *form).tap("Save"),
        lambda user: fill(user.open("Notes").tap("New note"), *form).back(),
        lambda user: fill(user.open("Notes").tap("New note"), form[0]).tap("Save"),
    )  # fmt: skip


def rename_note(rng: random.Random) -> Draft:
    state = v.device(rng)
    title, wrong = (note["title"] for note in rng.sample(state["notes"], 2))
    new = v.other(rng, [note["title"] for note in state["notes"]], v.TITLES)
    ask = rng.choice((f'Rename the note "{title}" to "{new}".', f'Change the title of the note "{title}" to "{new}".'))
    return draft(
        state, ask, expect(state, lambda d: named(d["notes"], "title", title).update(title=new), "notes"),
        lambda user: user.open("Notes").tap(title).write("Title", new).tap("Save"),
        lambda user: user.open("Notes").tap(title).write("Title", new).back(),
        lambda user: user.open("Notes").tap(wrong).write("Title", new).tap("Save"),
    )  # fmt: skip


def delete_note(rng: random.Random) -> Draft:
    state = v.device(rng)
    title, wrong = (note["title"] for note in rng.sample(state["notes"], 2))
    ask = rng.choice((f'Delete the note "{title}".', f'I no longer need the note "{title}". Remove it.'))
    return draft(
        state, ask, expect(state, lambda d: drop(d["notes"], "title", title), "notes"),
        lambda user: user.open("Notes").hold(title).tap("Delete", "Delete"),
        lambda user: user.open("Notes").hold(title).tap("Delete").back(),
        lambda user: user.open("Notes").hold(wrong).tap("Delete", "Delete"),
    )  # fmt: skip


def pin_note(rng: random.Random) -> Draft:
    state = v.device(rng)
    note, wrong = rng.sample(state["notes"], 2)
    verb = "Unpin" if note["pinned"] else "Pin"
    change = {"pinned": not note["pinned"]}
    return draft(
        state, f'{verb} the note "{note["title"]}".',
        expect(state, lambda d: named(d["notes"], "title", note["title"]).update(change), "notes"),
        lambda user: user.open("Notes").hold(note["title"]).tap(verb),
        lambda user: user.open("Notes").hold(note["title"]).tap("Cancel"),
        lambda user: user.open("Notes").hold(wrong["title"]).tap("Unpin" if wrong["pinned"] else "Pin"),
    )  # fmt: skip


def add_alarm(rng: random.Random) -> Draft:
    """The keyboard covers the button that saves."""
    state = v.device(rng)
    label = v.other(rng, [alarm["label"] for alarm in state["alarms"]], v.LABELS)
    alarm = {"hour": rng.randrange(24), "minute": rng.randrange(60), "label": label, "on": True}
    hour, minute = time_of(alarm).split(":")
    form = ("Hour", hour), ("Minute", minute), ("Label", label)
    ask = rng.choice(
        (f"Set an alarm for {hour}:{minute} called {label}.", f"Add the alarm {label} at {hour}:{minute}.")
    )
    return draft(
        state, ask, expect(state, lambda d: d["alarms"].append(alarm), "alarms"),
        lambda user: fill(user.open("Alarms").tap("Add alarm"), *form).tap("Save"),
        lambda user: fill(user.open("Alarms").tap("Add alarm"), *form),
        lambda user: fill(user.open("Alarms").tap("Add alarm"), form[0], ("Minute", f"{(int(minute) + 1) % 60}"),
                           form[2]).tap("Save"),
    )  # fmt: skip


def toggle_alarm(rng: random.Random) -> Draft:
    state = v.device(rng)
    alarm, wrong = rng.sample(state["alarms"], 2)
    time, to = time_of(alarm), not alarm["on"]
    word = "on" if to else "off"
    ask = rng.choice((f"Turn {word} the alarm at {time}.", f"Switch the {alarm['label']} alarm of {time} {word}."))
    return draft(
        state, ask, expect(state, lambda d: named(d["alarms"], "hour", alarm["hour"]).update(on=to), "alarms"),
        lambda user: user.open("Alarms").tap(time),
        lambda user: user.open("Alarms").tap(time_of(wrong)),
    )  # fmt: skip


def delete_alarm(rng: random.Random) -> Draft:
    state = v.device(rng)
    alarm, wrong = rng.sample(state["alarms"], 2)
    time = time_of(alarm)
    ask = rng.choice((f"Delete the alarm at {time}.", f"Remove the {alarm['label']} alarm."))
    return draft(
        state, ask, expect(state, lambda d: drop(d["alarms"], "hour", alarm["hour"]), "alarms"),
        lambda user: user.open("Alarms").hold(time).tap("Delete", "Delete"),
        lambda user: user.open("Alarms").hold(time_of(wrong)).tap("Delete", "Delete"),
        lambda user: user.open("Alarms").hold(time).tap("Delete", "Cancel"),
    )  # fmt: skip


def change_alarm(rng: random.Random) -> Draft:
    state = v.device(rng)
    alarm, wrong = rng.sample(state["alarms"], 2)
    time, minute = time_of(alarm), f"{(alarm['minute'] + rng.randrange(1, 59)) % 60:02d}"
    new = f"{time[:2]}:{minute}"
    change = {"minute": int(minute), "on": True}
    ask = rng.choice(
        (f"Move the alarm at {time} to {new}.", f"Change the {alarm['label']} alarm from {time} to {new}.")
    )
    return draft(
        state, ask, expect(state, lambda d: named(d["alarms"], "hour", alarm["hour"]).update(change), "alarms"),
        lambda user: user.open("Alarms").hold(time).tap("Edit").write("Minute", minute).tap("Save"),
        lambda user: user.open("Alarms").hold(time).tap("Edit").write("Minute", minute).back().back().tap("Discard"),
        lambda user: user.open("Alarms").hold(time_of(wrong)).tap("Edit").write("Minute", minute).tap("Save"),
    )  # fmt: skip
