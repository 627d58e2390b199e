"""Names, words and small states from which tool tasks are made.

Owns: the seeded material (people, places, words, a database, a graph, a history). Refuses: instructions and checks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

GIVEN = tuple("Ada Ben Cara Dan Ella Finn Gita Hugo Iris Jon Kira Leo Mona Nils Olga Paul Rosa Sam Tara Uwe Vera "
              "Wim Yara Zeno Anya Boris Clara Diego Emil Fatma Goran Hana".split())  # fmt: skip
FAMILY = tuple("Abel Brook Castro Dorn Evans Frost Gallo Hall Ivanov Jansen Keller Lund Moreno Novak Olsen Perez "
               "Quist Rossi Silva Toth Urban Vogel Weber Young Zhou Ito Khan Larsen Meyer Nagy".split())  # fmt: skip
CITIES = tuple("Lima Oslo Turin Porto Graz Quito Accra Delhi Kyoto Perth Malmo Ghent Izmir Tunis Dakar Hanoi Osaka "
               "Leeds Basel Natal Davao Haifa Cusco Plano".split())  # fmt: skip
FIRMS = tuple("Acorn Borealis Cobalt Delta Ember Fathom Granite Harbor Indigo Juniper Kestrel Lumen Meridian Nimbus "
              "Orchard Pinnacle Quarry Redwood Summit Tundra".split())  # fmt: skip
GOODS = tuple("lamp chair desk kettle mug bowl rug clock shelf stool vase tray basket mirror pillow candle jug "
              "hammer ladder rope bucket brush broom crate".split())  # fmt: skip
WORDS = tuple("amber apple arrow badge beach berry birch blade board brick cabin candy cargo cedar charm cider clay "
              "cloud coast comet coral crane creek daisy delta dove dragon eagle elder falcon fern fiber field flint "
              "forge fossil frost garlic ginger glade globe grape gravel grove hazel heron honey igloo island jade "
              "jolly juice kayak lagoon lemon lilac linen lotus maple marble meadow melon mint mango moss motor nectar "
              "noble ocean olive onyx opal orbit otter panda paper pebble pine plum poppy quartz raven reef ribbon "
              "river robin rocket saddle salmon satin scarf shell slate spruce sugar teal thistle tiger topaz torch "
              "tulip umber valley velvet violet walnut willow winter wolf yarn zebra zinc".split())  # fmt: skip
STEMS = ("notes", "plan", "ideas", "tasks", "guests", "stock", "route", "menu", "rules", "budget", "parts", "log")
FOLDERS = ("archive", "inbox", "drafts", "shared", "projects", "old", "team", "travel")
SETTINGS = ("host", "port", "mode", "color", "level", "theme", "limit", "cache", "region", "retries")
TOPICS = ("parser", "reader", "writer", "server", "client", "loader", "printer", "router")
HABITS = ("likes tea", "likes coffee", "plays chess", "rides a bike", "speaks Spanish", "speaks Hindi", "sings",
          "paints", "runs", "works at night", "is left-handed", "keeps bees", "climbs", "bakes bread")  # fmt: skip
STATES = ("open", "paid", "sent", "lost")
ZONES = {  # minutes ahead of UTC on the first of January 2025
    "UTC": 0, "Europe/London": 0, "Europe/Lisbon": 0, "Europe/Paris": 60, "Europe/Berlin": 60, "Europe/Athens": 120,
    "Europe/Helsinki": 120, "Europe/Istanbul": 180, "Africa/Cairo": 120, "Africa/Nairobi": 180, "Africa/Lagos": 60,
    "Asia/Dubai": 240, "Asia/Karachi": 300, "Asia/Kolkata": 330, "Asia/Kathmandu": 345, "Asia/Bangkok": 420,
    "Asia/Singapore": 480, "Asia/Tokyo": 540, "Australia/Sydney": 660, "Pacific/Auckland": 780,
    "America/Sao_Paulo": -180, "America/New_York": -300, "America/Chicago": -360, "America/Denver": -420,
    "America/Los_Angeles": -480, "Pacific/Honolulu": -600,
}  # fmt: skip


def people(rng: random.Random, count: int) -> list[str]:
    """Distinct full names that share neither part."""
    pairs = zip(rng.sample(GIVEN, count), rng.sample(FAMILY, count), strict=True)
    return [f"{given} {family}" for given, family in pairs]


def text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def prose(rng: random.Random, low: int = 2, high: int = 4) -> list[str]:
    """Lines of two words, all words distinct."""
    count = rng.randint(low, high)
    words = rng.sample(WORDS, 2 * count)
    return [f"{words[2 * i]} {words[2 * i + 1]}" for i in range(count)]


def names(rng: random.Random, count: int, extension: str = "txt") -> list[str]:
    return [f"{stem}.{extension}" for stem in rng.sample(STEMS, count)]


def clock(minutes: int) -> str:
    """Minutes after midnight as HH:MM, on any day."""
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def settings(rng: random.Random) -> dict[str, str]:
    keys = rng.sample(SETTINGS, rng.randint(3, 5))
    return {key: str(rng.randint(10, 99)) if rng.random() < 0.5 else rng.choice(WORDS) for key in keys}


def lined(values: dict[str, str]) -> str:
    return text([f"{key}={value}" for key, value in values.items()])


def graph(rng: random.Random, persons: int = 3, firms: int = 2) -> dict[str, list[dict[str, Any]]]:
    """People who work at firms that lie in cities. Each observation and city occurs once."""
    who, habits = rng.sample(GIVEN, persons), rng.sample(HABITS, 2 * persons)
    where, cities = rng.sample(FIRMS, firms), rng.sample(CITIES, firms)
    entities: list[dict[str, Any]] = [
        {"name": name, "entityType": "person", "observations": habits[2 * i : 2 * i + rng.randint(1, 2)]}
        for i, name in enumerate(who)
    ]
    entities += [{"name": firm, "entityType": "firm", "observations": []} for firm in where]
    entities += [{"name": city, "entityType": "city", "observations": []} for city in cities]
    jobs = [where[i] if i < firms else rng.choice(where) for i in range(persons)]
    relations = [{"from": name, "to": job, "relationType": "works_at"} for name, job in zip(who, jobs, strict=True)]
    relations += [{"from": a, "to": b, "relationType": "lies_in"} for a, b in zip(where, cities, strict=True)]
    return {"entities": entities, "relations": relations}


Row = dict[str, Any]


def shop(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """(customers, orders): two cities at least, each customer with an order, several states."""
    cities = rng.sample(CITIES, 2)
    who = people(rng, rng.randint(4, 5))
    customers = [
        {"id": i + 1, "name": name, "city": cities[i] if i < 2 else rng.choice(cities)} for i, name in enumerate(who)
    ]
    owners = [row["id"] for row in customers] + rng.choices([row["id"] for row in customers], k=rng.randint(1, 3))
    rng.shuffle(owners)
    states = list(STATES[:2]) + rng.choices(STATES, k=len(owners) - 2)
    orders = [
        {"id": i + 1, "customer": owner, "item": rng.choice(GOODS), "quantity": rng.randint(1, 20), "state": state}
        for i, (owner, state) in enumerate(zip(owners, states, strict=True))
    ]
    return customers, orders


def dump(customers: Sequence[Row], orders: Sequence[Row]) -> str:
    """The database as SQL."""
    rows = [f"INSERT INTO customers VALUES ({r['id']}, '{r['name']}', '{r['city']}');" for r in customers]
    rows += [
        f"INSERT INTO orders VALUES ({r['id']}, {r['customer']}, '{r['item']}', {r['quantity']}, '{r['state']}');"
        for r in orders
    ]
    return text(
        [
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);",
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, item TEXT, quantity INTEGER, state TEXT);",
            *rows,
        ]
    )


def csv_of(rows: Sequence[Row]) -> str:
    """Rows as read_query prints them."""
    return text([",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)])


def repository(rng: random.Random) -> dict[str, Any]:
    """Three commits by distinct authors: two or three files, then a change of one, then of another."""
    topics, authors = rng.sample(TOPICS, rng.randint(2, 3)), people(rng, 3)
    first = {f"src/{topic}.txt": text(prose(rng)) for topic in topics}
    steps = [{"message": f"Add {', '.join(topics)}", "author": authors[0], "files": first}]
    for topic, author in zip(topics, authors[1:], strict=False):
        lines = [*first[f"src/{topic}.txt"].splitlines(), rng.choice(WORDS)]
        verb = rng.choice(("Extend", "Improve", "Correct", "Finish"))
        steps.append({"message": f"{verb} {topic}", "author": author, "files": {f"src/{topic}.txt": text(lines)}})
    return {"commits": steps, "branches": {"main": len(steps) - 1}, "changes": {}, "staged": []}
