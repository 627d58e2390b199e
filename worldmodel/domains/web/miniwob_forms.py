"""Scripted ways through pages of MiniWoB++ that are done by filling in.

Owns: one short way each. Refuses: pages that need only clicks (``miniwob_clicks``), any look behind the page.
"""

from __future__ import annotations

import re

from worldmodel.domains.web.grammar import call
from worldmodel.domains.web.miniwob_look import SUBMIT, Look, Lost, Way, click, place, press, quoted

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
_ORDER = {"1st": 0, "2nd": 1, "3rd": 2}


def entered(goal: str, look: Look) -> Way:
    text = quoted(goal)[0]
    text = text.upper() if "upper case" in goal else text.lower() if "lower case" in goal else text
    look = yield look.fill(text)
    if len(look.all("textbox")) > 1:
        look = yield look.fill(text, 1)
    yield look.click("button", SUBMIT)


def spelled(goal: str, look: Look) -> Way:
    letters = [e.value for e in look.all("generic|text") if len(e.value) == 1]
    look = yield look.fill("".join(letters))
    yield look.click("button", SUBMIT)


def date_field(goal: str, look: Look) -> Way:
    month, day, year = re.findall(r"(\d+)/(\d+)/(\d+)", goal)[0]
    look = yield look.fill(f"{year}-{month}-{day}")
    yield look.click("button", SUBMIT)


def time_field(goal: str, look: Look) -> Way:
    hour, minute, half = re.findall(r"(\d+):(\d+) ([AP]M)", goal)[0]
    look = yield look.fill(f"{int(hour) % 12 + (12 if half == 'PM' else 0):02d}:{minute}")
    yield look.click("button", SUBMIT)


def calendar(goal: str, look: Look) -> Way:
    month, day, _ = map(int, re.findall(r"(\d+)/(\d+)/(\d+)", goal)[0])
    look = yield look.click("textbox")
    for _ in range(24):
        shown = next((i for i, name in enumerate(MONTHS, 1) if any(name in e.text for e in look.elements[1:])), 0)
        if not shown:
            raise Lost("no month is shown")
        if shown == month:
            break
        name = "Prev" if shown > month else "Next"
        found = look.all("", None, lambda e: e.text.startswith(name))  # noqa: B023
        look = yield click(found[0])
    look = yield look.click("link", str(day))
    yield look.click("button", SUBMIT)


def nth_word(goal: str, look: Look) -> Way:
    words = look.one("paragraph").value.split()
    look = yield look.fill(words[place(goal)].strip(".,"))
    yield look.click("button", SUBMIT)


def radio_and_text(goal: str, look: Look) -> Way:
    first, second = (_ORDER[word] for word in re.findall(r"1st|2nd|3rd", goal))
    look = yield look.click("radio", nth=first)
    look = yield look.fill(quoted(goal)[0], second)
    yield look.click("button", SUBMIT)


def dropdown_and_button(goal: str, look: Look) -> Way:
    choice = re.findall(r"Choose (.*) from the dropdown", goal)[0]
    look = yield call("select_option", bid=look.one("combobox").bid, options=choice)
    yield look.click("button", quoted(goal)[0])


def generated(goal: str, look: Look) -> Way:
    kind, bound = re.findall(r"number (greater|less|lesser) than (-?\d+)", goal)[0] if "than" in goal else ("", "0")
    for _ in range(30):
        look = yield look.click("button", "Generate")
        now = next((int(e.value) for e in look.all("generic|text") if re.fullmatch(r"-?\d+", e.value)), None)
        if now is None:
            continue
        fits = {"greater": now > int(bound), "": now % 2 == ("odd" in goal)}.get(kind, now < int(bound))
        if fits:
            yield look.click("button", SUBMIT)
            return


def guessed(goal: str, look: Look) -> Way:
    low, high = map(int, re.findall(r"(\d+)-(\d+)", goal)[0])
    while low <= high:
        middle = (low + high) // 2
        look = yield look.fill(str(middle))
        look = yield look.click("button", SUBMIT)
        told = " ".join(e.text for e in look.elements[1:])
        if "higher" in told:
            low = middle + 1
        elif "lower" in told:
            high = middle - 1
        else:
            return


def login(goal: str, look: Look) -> Way:
    name, password = quoted(goal)
    for number, text in enumerate((name, password)):
        look = yield look.fill(text, number)
        while True:  # a window may come up and has to be sent away
            cancel = look.all("button", "Cancel")
            if not cancel:
                break
            look = yield click(cancel[0])
            look = yield look.fill(text, number)
    buttons = [e for e in look.all("button") if e.text in ("Login", "OK")]
    look = yield click(buttons[-1])
    if look.all("button", "Cancel"):
        look = yield look.click("button", "Cancel")
        yield look.click("button", "Login")


def movies(goal: str, look: Look) -> Way:
    genre, director, year = re.findall(r"Search for (.*) movies directed by (.*) from year (\d+)", goal)[0]
    label = ""
    fields: list[tuple[str, int]] = []
    for element in look.elements[1:]:
        if element.role == "textbox":
            fields.append((f"{label} {element.name}".lower(), element.bid))
        elif element.text:
            label = element.text
    for told, bid in fields:
        text = next(t for word, t in (("year", year), ("director", director), ("genre", genre)) if word in told)
        look = yield call("fill", bid=bid, value=text)
    found = look.all("", None, lambda e: e.text in ("Search", SUBMIT) and e.role in ("button", "generic", "text"))
    yield click(found[-1])


def from_table(goal: str, look: Look) -> Way:
    cells = [e.text for e in look.elements if e.role == "cell"]
    value = dict(zip(cells[::2], cells[1::2], strict=False))
    boxes = look.all("textbox")
    labels = [e.text.rstrip(":") for e in look.elements[1:] if e.text.endswith(":")]
    labels = labels if len(boxes) > 1 else [re.findall(r"value of (.*) into", goal)[0]]
    for box, label in zip(boxes, labels, strict=True):
        look = yield call("fill", bid=box.bid, value=value[label])
    yield look.click("button", SUBMIT)


def last_word(goal: str, look: Look) -> Way:
    words = look.one("textbox").value.split()
    look = yield look.fill(words[-1].strip(".,"), 1)
    yield look.click("button", SUBMIT)


def to_the_end(goal: str, look: Look) -> Way:
    look = yield look.click("textbox")
    look = yield press("Control+End")
    yield look.click("button", SUBMIT)


def searched(goal: str, look: Look) -> Way:
    look = yield look.fill(quoted(goal)[0])
    look = yield look.click("button", "Search")
    number = place(goal)
    for _ in range(number // 3):
        look = yield look.click("", ">")
    results = [e for e in look.all("link|generic") if e.text and e.depth == look.all("link|generic")[0].depth]
    results = [e for e in look.all("link") if not re.fullmatch(r"\d|<|>|<<|>>", e.text)] or results
    yield click(results[number % 3])


def algebra(goal: str, look: Look) -> Way:
    text = next(e.value for e in look.all("generic|text") if re.search(r"[a-z] *[-+]|[-+] *[a-z]", e.value))
    left, sign, right, total = re.findall(r"(\w+) ([-+]) (\w+) = (-?\d+)", text)[0]
    if left.isalpha():
        answer = int(total) - int(right) if sign == "+" else int(total) + int(right)
    else:
        answer = int(total) - int(left) if sign == "+" else int(left) - int(total)
    look = yield look.fill(str(answer))
    yield look.click("button", SUBMIT)


def arithmetic(goal: str, look: Look) -> Way:
    text = next(e.value for e in look.all("generic|text") if re.search(r"\d+ . \d+", e.value))
    left, sign, right = re.findall(r"(\d+) (.) (\d+)", text)[0]
    one, two = int(left), int(right)
    look = yield look.fill(str({"+": one + two, "-": one - two}.get(sign, one * two)))
    yield look.click("button", SUBMIT)


def completed(goal: str, look: Look) -> Way:
    parts = quoted(goal)
    look = yield look.click("textbox")
    look = yield call("keyboard_type", text=parts[0])
    look = yield call("noop", wait_ms=800)
    for element in look.all("menuitem|generic|listitem|option"):
        if element.text.startswith(parts[0]) and (len(parts) == 1 or element.text.endswith(parts[1])):
            look = yield click(element)
            break
    yield look.click("button", SUBMIT)


def spun(goal: str, look: Look) -> Way:
    look = yield look.fill(re.findall(r"-?\d+", goal)[0])
    yield look.click("button", SUBMIT)
