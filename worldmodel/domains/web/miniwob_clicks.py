"""Scripted ways through pages of MiniWoB++ that are done by clicking.

Owns: one short way each. Refuses: pages with forms (``miniwob_forms``), any look behind the page.
"""

from __future__ import annotations

import re

from worldmodel.domains.web.grammar import call
from worldmodel.domains.web.miniwob_look import SUBMIT, Element, Look, Lost, Way, click, place, press, quoted


def labelled(goal: str, look: Look) -> Way:
    """The button, link or text that the goal names."""
    names = quoted(goal) or re.findall(r"[Bb]utton (\w+)", goal)
    for name in names or [look.one("button").text]:
        look = yield look.click("button", name)


def sequence(goal: str, look: Look) -> Way:
    for name in re.findall(r"button (\w+)", goal):
        look = yield look.click("button", name)


def any_button(goal: str, look: Look) -> Way:
    yield look.click("button")


def choose_list(goal: str, look: Look) -> Way:
    name = re.findall(r"Select (.*) from the list", goal)[0]
    look = yield call("select_option", bid=look.one("combobox").bid, options=name)
    yield look.click("button", SUBMIT)


def ticked(goal: str, look: Look) -> Way:
    names = re.findall(r"Select (.*) and click Submit", goal)[0]
    for name in [] if names == "nothing" else names.split(", "):
        look = yield look.click("checkbox|radio", name)
    yield look.click("button", SUBMIT)


def scroll_list(goal: str, look: Look) -> Way:
    names = re.findall(r"Select (.*) from the scroll list", goal)[0].split(", ")
    look = yield call("select_option", bid=look.one("listbox").bid, options=names)
    yield look.click("button", SUBMIT)


def dialog(goal: str, look: Look) -> Way:
    name = (quoted(goal) or ["x"])[0]
    yield look.click("button", "Close" if name == "x" else name)


def expand(goal: str, look: Look) -> Way:
    look = yield look.click("tab")
    for _ in range(5):
        if look.all("button", SUBMIT):
            break
        look = yield call("noop", wait_ms=300)
    yield look.click("button", SUBMIT)


def sections(goal: str, look: Look) -> Way:
    """Open one tab or section after the other until the word is there. One page pays for opening an empty tab where the
    word is nowhere else, and ends then."""
    name, count = quoted(goal)[0], len(look.all("tab"))
    for number in range(count):
        found = look.all("", name)
        if found:
            break
        heads = look.all("tab")
        inner = [e for e in look.after(heads[number])[:1] if e.role == "link"]
        look = yield click(inner[0] if inner else heads[number])
        look = yield call("noop", wait_ms=500)
    if found := look.all("", name):
        yield click(found[0])


def tab(goal: str, look: Look) -> Way:
    yield look.click("link", re.findall(r"Tab #\d+", goal)[0])


def greatest(goal: str, look: Look) -> Way:
    cards = look.all("generic|img", None, lambda e: e.text.isdigit())
    look = yield click(max(cards, key=lambda e: int(e.text)))
    yield look.click("button", SUBMIT)


def focused(goal: str, look: Look) -> Way:
    yield look.click("textbox", nth=place(goal) if re.search(r"\d", goal) else 0)


def _handles(look: Look) -> list[Element]:
    return look.all("", None, lambda e: "ui-slider-handle" in e.name)


def _values(look: Look) -> list[int]:
    return [int(e.value) for e in look.all("generic|text") if re.fullmatch(r"-?\d+", e.value)]


def slid(goal: str, look: Look) -> Way:
    """One slider or several; a click may move a handle, so the value is read again."""
    wanted = list(map(int, re.findall(r"-?\d+", re.sub(r"\d(st|nd|rd)", "", goal))))
    for number, to in enumerate(wanted):
        look = yield click(_handles(look)[number])
        for _ in range(60):
            now = _values(look)[number]
            if now == to:
                break
            look = yield press("ArrowRight" if to > now else "ArrowLeft")
    if "checkbox" in goal:
        look = yield look.click("checkbox", nth=place(goal))
    yield look.click("button", SUBMIT)


def unfold(goal: str, look: Look) -> Way:
    """Open folders from the top until the name is there."""
    name, opened = quoted(goal)[0], set()
    for _ in range(18):
        found = look.all("", name)
        if found:
            look = yield click(found[-1])
            return
        closed = [e for e in look.all("generic|text|button") if e.text and e.text not in opened]
        if not closed:
            raise Lost(name)
        opened.add(closed[0].text)
        look = yield click(closed[0])


def parity(goal: str, look: Look) -> Way:
    numbers = [e for e in look.all("generic|text") if re.fullmatch(r"-?\d+", e.text)]
    for place_, number in enumerate(numbers):
        name = "Odd" if int(number.text) % 2 else "Even"
        look = yield look.click("button", name, place_)
    yield look.click("button", SUBMIT)


def phone_book(goal: str, look: Look) -> Way:
    name = re.findall(r"Find (.*) in the contact book", goal)[0]
    what = re.findall(r"click on their (.*)\.", goal)[0]
    label = next(text for text in ("Phone", "Email", "Address") if text.lower() in what.lower())
    for _ in range(18):
        heading = look.all("heading", name)
        if heading:
            rows = look.after(heading[0])
            start = next(number for number, e in enumerate(rows) if e.text.startswith(label))
            yield click(next(e for e in rows[start + 1 :] if e.bid))
            return
        look = yield look.click("link", ">")


def agreement(goal: str, look: Look) -> Way:
    if "cancel" in goal.lower():
        yield look.click("button", "Cancel")
        return
    raise Lost("the agreement has to be read first")


def posts(goal: str, look: Look) -> Way:
    who = re.findall(r"@[\w-]+", goal)[0]
    action = quoted(goal)[0].lower()
    count = int((re.findall(r"on (\d+) post", goal) or ["99"])[0])
    marks = [number for number, e in enumerate(look.elements) if number and re.search(r"@[\w-]+", e.text)]
    for start in [m for m in marks if re.search(rf"{who}\b", look.elements[m].text)][:count]:
        rest = look.elements[start:]
        icon = next((e for e in rest if e.bid and e.text.lower().split(" ")[0] == action), None)
        if icon is None:
            icon = next(e for e in rest if e.bid and e.text == "More")
            look = yield click(icon)
            icon = next(e for e in look.all() if e.text.lower() == quoted(goal)[0].lower())
        look = yield click(icon)
    if look.all("button", SUBMIT):
        yield look.click("button", SUBMIT)


def ticket(goal: str, look: Look) -> Way:
    """Cheapest or dearest, shortest or longest."""
    offers: list[tuple[tuple[int, int], Element]] = []
    minutes = 0
    for element in look.elements[1:]:
        found = re.findall(r"(\d+)h (\d+)m", element.text)
        minutes = int(found[0][0]) * 60 + int(found[0][1]) if found else minutes
        if element.role == "button":
            offers.append(((minutes, int(re.findall(r"\d+", element.text)[0])), element))
    by = 0 if "duration" in goal or "short" in goal or "long" in goal else 1
    ranked = sorted(offers, key=lambda offer: offer[0][by])
    yield click(ranked[-1 if re.search("longest|expensive|highest", goal) else 0][1])


def mail(goal: str, look: Look) -> Way:
    """Delete, star, forward or answer."""
    who = re.findall(r"(?:email by|email from|from|Find the email by) (\w+)", goal)[0]
    row = next(e for e in look.all() if e.text == who)
    if "trash" in goal or "star" in goal:
        kind = "trash" if "trash" in goal else "star"
        inside = [e for e in look.after(row) if kind in e.text.split()]
        yield click(inside[0])
        return
    look = yield click(row)
    if "forward" in goal:
        look = yield click(next(e for e in look.all() if "forward" in e.text.lower().split()[:1]))
        look = yield look.fill(re.findall(r"to (\w+)\.$", goal)[0])
    else:
        look = yield click(next(e for e in look.all() if "reply" in e.text.lower().split()[:1]))
        look = yield look.fill(quoted(goal)[0])
    yield click(next(e for e in look.all() if "send" in e.text.lower()))
