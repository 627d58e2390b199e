"""Words and whole sites for web tasks.

Owns: names, texts and the seeded first state of a shop, a forum and a wiki. Refuses: what is asked (``families``).
"""

from __future__ import annotations

import random
from typing import Any

State = dict[str, Any]

FIRST = "ada amir bela carla chen dario elif emil freya gita hugo ines jonas kofi lena mara nils olga pavel".split()
LAST = "Abel Berg Costa Diaz Ek Frost Grant Holm Ito Jansen Klein Lund Moreau Novak Okoro Park Quist Roth Silva".split()
FRUIT = "plum pear fig lemon apple cherry quince grape melon peach".split()
STREETS = "Hill Mill Church Garden Station River Market Forest Harbour School".split()
TOWNS = "Ghent Turku Lyon Graz Porto Leeds Delft Bergen Siena Lugano".split()
MATERIALS = "Oak Steel Glass Linen Copper Bamboo Wool Ceramic Walnut Marble".split()
THINGS = {
    "Kitchen": ("kettle", "bowl", "tray", "jug", "spoon set", "bread box", "mortar"),
    "Garden": ("bench", "planter", "bird house", "watering can", "lantern", "trellis"),
    "Office": ("desk lamp", "pen holder", "book stand", "clock", "stool", "note board"),
}
COLOURS = "red blue green white black grey yellow".split()
REVIEWS = (
    "Does what it should.", "Smaller than it looks.", "A gift that was liked.", "Arrived with a scratch.",
    "Would buy it again.", "Good for the price.", "The colour is darker than shown.", "Solid and heavy.",
)  # fmt: skip
BOARDS = ("Garden", "Kitchen", "Repairs", "Trips", "Books", "Music")
TOPICS = (
    "Tomatoes in a cold summer", "Which paint for a fence", "A squeaking door", "Two days at the lake",
    "Bread without an oven", "The best short stories", "Old radios", "Snails again", "A leaking tap", "Night trains",
    "Choirs for beginners", "Sharpening knives", "Moss on the roof", "Jam with less sugar", "Walking with children",
    "Learning the cello",
)  # fmt: skip
POSTS = (
    "I had the same last year.", "Try it with less water.", "Thank you, that helped.", "Has anybody a photo of it?",
    "We used oil and it was fine.", "Start early in the morning.", "Mine lasted for ten years.", "I would not do that.",
    "The library has a copy.", "Ask at the market, they know.", "It took me three weekends.", "You need a second pair.",
    "Only when it is dry.", "Let it rest overnight.", "The old one was better.", "There is a map at the station.",
)  # fmt: skip
PLACES = (
    "Ashford", "Birkdal", "Corvane", "Dunmere", "Eastwick", "Fallbrook", "Greyhaven", "Holmsted", "Ivenby", "Kaldor",
    "Lowmoor", "Marrow Hill", "Norrvik", "Oakley", "Pennow", "Quarrytown", "Redmarsh", "Silverton", "Tarnby", "Underby",
)  # fmt: skip
RIVERS = ("Lund", "Arva", "Tessel", "Brenn", "Soule", "Wye")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def person(rng: random.Random) -> str:
    return f"{rng.choice(FIRST).capitalize()} {rng.choice(LAST)}"


def address(rng: random.Random) -> str:
    return f"{rng.randrange(1, 99)} {rng.choice(STREETS)} Road, {rng.choice(TOWNS)}"


def _users(rng: random.Random) -> list[State]:
    return [{"name": name, "password": f"{rng.choice(FRUIT)}-{rng.randrange(10, 100)}"}
            for name in rng.sample(FIRST, 4)]  # fmt: skip


def _site(name: str, tables: State) -> State:
    return {"site": name, "tables": tables, "session": {"user": ""}}


def login(state: State) -> tuple[str, str]:
    """The visitor's user name and password: those of the first user."""
    first = state["tables"]["users"][0]
    return first["name"], first["password"]


def shop(rng: random.Random) -> State:
    """12 to 18 products of different prices in two or three categories, one of them on several pages."""
    users = [{**user, "address": address(rng), "email": f"{user['name']}@mail.test"} for user in _users(rng)]
    products: list[State] = []
    prices = iter(rng.sample(range(250, 9000, 5), 20))
    for category in rng.sample(sorted(THINGS), 2):
        pairs = [(material, thing) for material in MATERIALS for thing in THINGS[category]]
        for material, thing in rng.sample(pairs, rng.randrange(6, 10)):
            products.append({
                "id": str(len(products) + 1), "name": f"{material} {thing}", "category": category,
                "price": next(prices), "stock": rng.randrange(3, 12), "colour": rng.choice(COLOURS),
            })  # fmt: skip
    reviews = [
        {"product": product["id"], "author": rng.choice(users[1:])["name"], "rating": rng.choice("12345"), "text": text}
        for product, text in zip(rng.sample(products, 4), rng.sample(REVIEWS, 4), strict=True)
    ]
    return _site("shop", {"products": products, "cart": [], "orders": [], "reviews": reviews, "users": users})


def filled(rng: random.Random, state: State, lines: int) -> list[State]:
    """Put ``lines`` products into the cart; those products."""
    chosen = rng.sample(state["tables"]["products"], lines)
    state["tables"]["cart"] = [{"product": p["id"], "quantity": rng.randrange(1, p["stock"])} for p in chosen]
    return chosen


def forum(rng: random.Random) -> State:
    """Two boards, eight to ten threads of one to four posts; some by the visitor."""
    users = _users(rng)
    names, boards = [user["name"] for user in users], rng.sample(BOARDS, 2)
    threads: list[State] = []
    posts: list[State] = []
    for number, topic in enumerate(rng.sample(TOPICS, rng.randrange(8, 11)), 1):
        author = rng.choice(names[1:])
        threads.append({
            "board": boards[0] if number <= 6 else boards[1], "thread": str(number), "title": topic, "author": author,
            "votes": rng.randrange(9), "locked": False, "voters": [],
        })  # fmt: skip
        for place, text in enumerate(rng.sample(POSTS, rng.randrange(1, 5))):
            by = author if place == 0 else rng.choice(names)
            posts.append({"thread": str(number), "post": str(len(posts) + 1), "author": by, "text": text})
    messages = [{"to": names[0], "from": names[1], "text": rng.choice(POSTS)}]
    rows = [{"board": board} for board in boards]
    return _site("forum", {"boards": rows, "threads": threads, "posts": posts, "messages": messages, "users": users})


def wiki(rng: random.Random) -> State:
    """Eight to eleven pages about places; three have former versions."""
    users = _users(rng)
    names, people = [user["name"] for user in users], rng.sample(range(300, 9000), 12)
    pages, history = [], []
    for title, count in zip(rng.sample(PLACES, rng.randrange(8, 12)), people, strict=False):
        pages.append({"title": title, "author": rng.choice(names[1:]), "text": place(rng, title, count)})
    for page in rng.sample(pages, 3):
        for _ in range(rng.randrange(1, 3)):
            old = place(rng, page["title"], rng.randrange(300, 9000))
            history.append({"page": page["title"], "text": old, "author": rng.choice(names)})
    watched = [{"user": names[0], "page": pages[0]["title"]}]
    return _site("wiki", {"pages": pages, "history": history, "watched": watched, "users": users})


def place(rng: random.Random, title: str, people: int) -> str:
    return (
        f"{title} lies on the river {rng.choice(RIVERS)}. It has {people} people. The market is on {rng.choice(DAYS)}. "
        f"The mayor is {person(rng)}. The bridge was built in {rng.randrange(1700, 1990)}."
    )


def people(page: State) -> int:
    """How many the page says."""
    return int(page["text"].split(" people.")[0].rsplit(" ", 1)[1])


def market(page: State) -> str:
    return str(page["text"].split("The market is on ")[1].split(".")[0])


def mayor(page: State) -> str:
    return str(page["text"].split("The mayor is ")[1].split(".")[0])


def bridge(page: State) -> str:
    return str(page["text"].split("was built in ")[1].split(".")[0])
