"""Words and whole devices for android tasks.

Owns: names, texts and the seeded initial data of a device. Refuses: what is asked (``families``).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from worldmodel.domains.android.apps.settings import BRIGHTNESS, CHOICES, SWITCHES

State = dict[str, Any]

FIRST = (
    "Ada Amir Bela Carla Chen Dario Elif Emil Freya Gita Hugo Ines Jonas Kofi Lena Mara Nils Olga Pavel Rosa".split()
)
LAST = "Abel Berg Costa Diaz Ek Frost Grant Holm Ito Jansen Klein Lund Moreau Novak Okoro Park Quist Roth Silva".split()
TITLES = (
    "Groceries", "Packing list", "Book ideas", "Garden plan", "Recipes", "Meeting points", "Gift ideas", "Bike repair",
    "Travel plan", "Films to see", "Workout", "Paint colours", "Questions", "Birthday", "Course notes", "House rules",
)  # fmt: skip
BODIES = (
    "milk and bread", "two pairs of shoes", "call before noon", "tomatoes in May", "ask for a receipt", "new chain",
    "window seat", "blue or green", "three sets of ten", "bring the charger", "check the dates", "water twice a week",
)  # fmt: skip
LABELS = ("Gym", "Work", "School", "Train", "Pills", "Laundry", "Yoga", "Call home", "Market", "Piano")
TEXTS = (
    "See you at six", "I am on my way", "Thanks for the book", "Can we meet tomorrow", "The key is under the pot",
    "Happy birthday", "Lunch is at noon", "Please call me back", "The train is late", "I sent the papers",
    "Do you need a ride", "Dinner is ready", "The meeting moved", "I found your scarf",
)  # fmt: skip
FOLDERS = ("Documents", "Pictures", "Projects", "Receipts", "Music", "Archive", "Backup", "Invoices", "Travel")
STEMS = ("report", "budget", "letter", "agenda", "invoice", "summary", "draft", "poem", "survey", "minutes", "plan")
PERMISSIONS = ("Alarms: Notifications", "Files: Photos", "Messages: Contacts", "Notes: Microphone")


def new_phone(rng: random.Random, state: State) -> str:
    """A number that no contact has."""
    taken = {contact["phone"] for contact in state["contacts"]}
    while (phone := f"555-{rng.randrange(10_000):04d}") in taken:
        continue
    return phone


def other(rng: random.Random, taken: Collection[str], words: tuple[str, ...]) -> str:
    """One of ``words`` that is not in ``taken``."""
    return rng.choice([word for word in words if word not in taken])


def new_name(rng: random.Random, state: State) -> str:
    """A full name that no contact has."""
    taken = {contact["name"] for contact in state["contacts"]}
    while (name := f"{rng.choice(FIRST)} {rng.choice(LAST)}") in taken:
        continue
    return name


def device(rng: random.Random) -> State:
    """The data of one device. Names, titles, times and paths are unique; every folder but perhaps one holds a file."""
    state: State = {"settings": _settings(rng), "permissions": _permissions(rng), "contacts": []}
    for _ in range(rng.randrange(5, 12)):
        state["contacts"].append({"name": new_name(rng, state), "phone": new_phone(rng, state)})
    titles, bodies = rng.sample(TITLES, rng.randrange(3, 7)), rng.sample(BODIES, 6)
    state["notes"] = [
        {"title": title, "body": body, "pinned": rng.random() < 0.2}
        for title, body in zip(titles, bodies, strict=False)
    ]
    state["alarms"] = [
        {"hour": hour, "minute": rng.randrange(0, 60, 5), "label": label, "on": rng.random() < 0.5}
        for hour, label in zip(rng.sample(range(5, 23), rng.randrange(2, 6)), rng.sample(LABELS, 5), strict=False)
    ]
    state["messages"] = [_thread(rng, c["name"]) for c in rng.sample(state["contacts"], rng.randrange(2, 4))]
    state["folders"] = sorted(rng.sample(FOLDERS, 3))
    state["files"] = _files(rng, state["folders"])
    return state


def _settings(rng: random.Random) -> State:
    settings: State = {name: rng.random() < 0.5 for name in SWITCHES}
    settings["Airplane mode"] = False
    settings[BRIGHTNESS] = rng.randrange(1, 10) * 10
    return settings | {name: rng.choice(values) for name, values in CHOICES.items()}


def _permissions(rng: random.Random) -> State:
    return {name: rng.choice(("allow", "deny")) for name in PERMISSIONS} | {"Messages: Contacts": "ask"}


def _thread(rng: random.Random, name: str) -> State:
    texts = rng.sample(TEXTS, rng.randrange(1, 4))
    return {"with": name, "lines": [[rng.choice((name, "You")), text] for text in texts]}


def _files(rng: random.Random, folders: list[str]) -> dict[str, str]:
    names = [f"{stem}{rng.randrange(1, 30)}.txt" for stem in rng.sample(STEMS, 5)]
    places = [*rng.sample(folders, 2), rng.choice(folders), rng.choice(folders), ""]
    texts = rng.sample(BODIES, 5)
    return {
        (f"{place}/{name}" if place else name): text for place, name, text in zip(places, names, texts, strict=True)
    }
