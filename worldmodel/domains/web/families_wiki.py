"""The web families of the wiki: one small seeded function each.

Owns: as ``families_shop``. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import random

from worldmodel.domains.web import vocabulary as v
from worldmodel.domains.web.drafts import Draft, answers, draft, expect, named, told
from worldmodel.domains.web.visit import Visit
from worldmodel.domains.web.vocabulary import State

FACTS = (("How many people live in {}?", v.people), ("On which day is the market in {}?", v.market),
         ("Who is the mayor of {}?", v.mayor), ("When was the bridge of {} built?", v.bridge))  # fmt: skip


def _pages(rng: random.Random, state: State, count: int = 2) -> list[State]:
    return rng.sample(state["tables"]["pages"], count)


def _open(user: Visit, title: str) -> Visit:
    return user.link("All pages").reach(title)


def _entered(state: State, user: Visit) -> Visit:
    return user.login(*v.login(state))


def fact(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    ask, read = rng.choice(FACTS)
    page = rng.choice(state["tables"]["pages"])
    title, right = page["title"], str(read(page))
    wrong = next(str(read(p)) for p in state["tables"]["pages"] if str(read(p)) != right)
    return draft(
        state, ask.format(title), answers(right),
        lambda user: _open(user, title).tell(right),
        lambda user: _open(user, title).tell(wrong),
        lambda user: _open(user, title),
    )  # fmt: skip


def last_author(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    page = rng.choice(state["tables"]["pages"])
    wrong = rng.choice([user["name"] for user in state["tables"]["users"] if user["name"] != page["author"]])
    title = page["title"]
    return draft(
        state, f"Which user wrote the current version of the page {title}?", answers(page["author"]),
        lambda user: _open(user, title).link("History").tell(page["author"]),
        lambda user: _open(user, title).link("History").tell(wrong),
        lambda user: _open(user, title).link("History"),
    )  # fmt: skip


def _saved(state: State, title: str, text: str) -> tuple[State, State]:
    """The page and the entry of its history after an edit by the visitor."""
    page = named(state["tables"]["pages"], title=title)
    old = {"page": title, "text": page["text"], "author": page["author"]}
    return {"title": title, "author": v.login(state)[0], "text": text}, old


def edit_fact(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    page, other = _pages(rng, state)
    title, day = page["title"], rng.choice([day for day in v.DAYS if day != v.market(page)])
    to = f"{rng.choice(v.FIRST).capitalize()} {rng.choice([name for name in v.LAST if name not in v.mayor(page)])}"
    what, old, new = rng.choice((("market day", v.market(page), day), ("mayor", v.mayor(page), to)))
    text = page["text"].replace(f" {old}.", f" {new}.")

    def change(tables: State) -> None:
        record, before = _saved(state, title, text)
        named(tables["pages"], title=title).update(record)
        tables["history"].append(before)

    def edit(user: Visit, where: str, wanted: str) -> Visit:
        return _open(_entered(state, user), where).link("Edit").write("Text", wanted)

    return draft(
        state, f"On the page {title}, change the {what} from {old} to {new} and nothing else. {told(state)}",
        expect(state, change, "pages", "history"),
        lambda user: edit(user, title, text).button("Save"),
        lambda user: edit(user, title, new).button("Save"),
        lambda user: edit(user, other["title"], other["text"].replace(".", f" {new}.", 1)).button("Save"),
        lambda user: edit(user, title, text),
    )  # fmt: skip


def create_page(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    taken = {page["title"] for page in state["tables"]["pages"]}
    title = rng.choice([name for name in v.PLACES if name not in taken])
    text = f"{title} lies on the river {rng.choice(v.RIVERS)}. It has {rng.randrange(300, 9000)} people."
    record = {"title": title, "author": v.login(state)[0], "text": text}

    def write(user: Visit, name: str, wanted: str) -> Visit:
        return _entered(state, user).link("Home", "New page").write("Title", name).write("Text", wanted)

    return draft(
        state, f'Create a page {title} with the text "{text}". {told(state)}',
        expect(state, lambda t: t["pages"].append(record), "pages"),
        lambda user: write(user, title, text).button("Create"),
        lambda user: write(user, title, text.split(". ")[0] + ".").button("Create"),
        lambda user: write(user, title, text),
    )  # fmt: skip


def restore_version(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    title = rng.choice(state["tables"]["history"])["page"]
    page = named(state["tables"]["pages"], title=title)
    state["tables"]["history"].append({"page": title, "text": v.place(rng, title, 250), "author": page["author"]})
    versions = [record for record in state["tables"]["history"] if record["page"] == title]
    number, wrong = rng.sample(range(1, len(versions) + 1), 2)

    def change(tables: State) -> None:
        record, before = _saved(state, title, versions[number - 1]["text"])
        named(tables["pages"], title=title).update(record)
        tables["history"].append(before)

    def restore(user: Visit, which: int) -> Visit:
        return _open(_entered(state, user), title).link("History").button(f"Restore version {which}")

    return draft(
        state, f"Restore version {number} of the page {title}. {told(state)}",
        expect(state, change, "pages", "history"),
        lambda user: restore(user, number),
        lambda user: restore(user, wrong),
        lambda user: _open(_entered(state, user), title).link("History"),
    )  # fmt: skip


def watch_page(rng: random.Random) -> Draft:
    state = v.wiki(rng)
    page, other = rng.sample(state["tables"]["pages"][1:], 2)
    entry = {"user": v.login(state)[0], "page": page["title"]}
    ask = rng.choice((f"Put the page {page['title']} on my watch list.", f"Start watching the page {page['title']}."))
    return draft(
        state, f"{ask} {told(state)}",
        expect(state, lambda t: t["watched"].append(entry), "watched"),
        lambda user: _open(_entered(state, user), page["title"]).button("Watch"),
        lambda user: _open(_entered(state, user), other["title"]).button("Watch"),
        lambda user: _open(_entered(state, user), page["title"]),
    )  # fmt: skip


def compare(rng: random.Random) -> Draft:
    """Held out: two pages are needed for one answer."""
    state = v.wiki(rng)
    larger, smaller = sorted(_pages(rng, state), key=v.people, reverse=True)
    first, second = rng.sample([larger["title"], smaller["title"]], 2)
    return draft(
        state, f"Where do more people live, in {first} or in {second}?", answers(larger["title"]),
        lambda user: _open(_open(user, first), second).tell(larger["title"]),
        lambda user: _open(_open(user, first), second).tell(smaller["title"]),
        lambda user: _open(user, second).tell(str(v.people(larger))),
    )  # fmt: skip


def rename_page(rng: random.Random) -> Draft:
    """Held out: a former name moves with everything that points to it."""
    state = v.wiki(rng)
    page, other = rng.sample(state["tables"]["pages"][1:], 2)
    title = page["title"]
    taken = {p["title"] for p in state["tables"]["pages"]}
    new = rng.choice([name for name in v.PLACES if name not in taken])

    def change(tables: State) -> None:
        named(tables["pages"], title=title)["title"] = new
        for record in tables["history"]:
            record["page"] = new if record["page"] == title else record["page"]

    def rename(user: Visit, which: str) -> Visit:
        return _open(_entered(state, user), which).link("Rename").write("New title", new)

    return draft(
        state, f"Rename the page {title} to {new}. {told(state)}",
        expect(state, change, "pages", "history"),
        lambda user: rename(user, title).button("Rename"),
        lambda user: rename(user, other["title"]).button("Rename"),
        lambda user: rename(user, title),
    )  # fmt: skip
