"""A scripted solver for pages of MiniWoB++ whose task can be read off the tree: what shows that they work here.

Owns: one short way for each page, from the goal and the screens alone. Refuses: pages that need pixels or knowledge of
the world, and any look behind the page.
A way is a generator: it yields calls and is sent the screen after each. It raises Lost where the page is not as expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

from worldmodel.domains.web.grammar import call
from worldmodel.domains.web.miniwob_look import Element, Look, Lost, click, read

Way = Generator[str, Look, None]
Start = Callable[[str, Look], Way]
SUBMIT = "Submit"
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
_ORDER = {"1st": 0, "2nd": 1, "3rd": 2}


def quoted(goal: str) -> list[str]:
    return re.findall(r'"([^"]*)"', goal)


def place(goal: str) -> int:
    """The number before st, nd, rd or th, from 0."""
    return int(re.findall(r"(\d+)(?:st|nd|rd|th)", goal)[0]) - 1


def press(key: str) -> str:
    return call("keyboard_press", key=key)


def labelled(goal: str, look: Look) -> Way:
    """The button, link or text that the goal names."""
    names = quoted(goal) or re.findall(r"[Bb]utton (\w+)", goal)
    for name in names or [look.one("button").text]:
        look = yield look.click("button", name)


def delayed(goal: str, look: Look) -> Way:
    look = yield look.click("button", "ONE")
    for _ in range(int(re.findall(r"wait (\d+)", goal)[0])):
        look = yield call("noop", wait_ms=1000)
    yield look.click("button", "TWO")


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


def word(goal: str, look: Look) -> Way:
    yield look.click("", quoted(goal)[0])


def expand(goal: str, look: Look) -> Way:
    look = yield look.click("tab")
    for _ in range(5):
        if look.all("button", SUBMIT):
            break
        look = yield call("noop", wait_ms=300)
    yield look.click("button", SUBMIT)


def sections(goal: str, look: Look) -> Way:
    """Open one tab or section after the other until the word is there."""
    name, count = quoted(goal)[0], len(look.all("tab"))
    for number in range(count):
        found = look.all("", name)
        if found:
            break
        heads = look.all("tab")
        inner = [e for e in look.after(heads[number])[:1] if e.role == "link"]
        look = yield click(inner[0] if inner else heads[number])
        look = yield call("noop", wait_ms=500)
    yield look.click("", name)


def tab(goal: str, look: Look) -> Way:
    yield look.click("link", re.findall(r"Tab #\d+", goal)[0])


def widget(goal: str, look: Look) -> Way:
    kind = quoted(goal)[0]
    role = {"text": "textbox", "textarea": "textbox"}.get(kind, kind)
    found = look.all(role)
    if kind in ("text", "textarea"):  # a text area shows its text; an input here has none
        found = [e for e in found if bool(e.value) == (kind == "textarea")] or found
    if not found:
        raise Lost(kind)
    yield click(found[0])


def copied(goal: str, look: Look) -> Way:
    boxes = look.all("textbox")
    source = boxes[place(goal)] if re.search(r"\d(st|nd|rd)", goal) else boxes[0]
    look = yield call("fill", bid=boxes[-1].bid, value=source.value)
    yield look.click("button", SUBMIT)


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


def greatest(goal: str, look: Look) -> Way:
    cards = look.all("generic|img", None, lambda e: e.text.isdigit())
    look = yield click(max(cards, key=lambda e: int(e.text)))
    yield look.click("button", SUBMIT)


def focused(goal: str, look: Look) -> Way:
    yield look.click("textbox", nth=place(goal) if re.search(r"\d", goal) else 0)


def slide(look: Look, handle: Element, now: int, to: int) -> Generator[str, Look, Look]:
    look = yield click(handle)
    for _ in range(abs(to - now)):
        look = yield press("ArrowRight" if to > now else "ArrowLeft")
    return look


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


def agreement(goal: str, look: Look) -> Way:
    if "cancel" in goal.lower():
        yield look.click("button", "Cancel")
        return
    look = yield look.click("textbox")
    look = yield press("Control+End")
    raise Lost("the agreement has to be read first")


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


def ticket(goal: str, look: Look) -> Way:
    """Cheapest or dearest, shortest or longest."""
    offers, minutes = [], 0
    for element in look.elements[1:]:
        found = re.findall(r"(\d+)h (\d+)m", element.text)
        minutes = int(found[0][0]) * 60 + int(found[0][1]) if found else minutes
        if element.role == "button":
            offers.append((minutes, int(re.findall(r"\d+", element.text)[0]), element))
    by = 0 if "duration" in goal or "short" in goal or "long" in goal else 1
    ranked = sorted(offers, key=lambda offer: int(offer[by]))
    yield click(ranked[-1 if re.search("longest|expensive|highest", goal) else 0][2])


def menu(goal: str, look: Look) -> Way:
    for name in goal.split("Select ", 1)[1].split(">"):
        look = yield look.click("menuitem", name)
        look = yield call("noop", wait_ms=400)


def icon_menu(goal: str, look: Look) -> Way:
    look = yield look.click("button", "Menu")
    look = yield call("noop", wait_ms=300)
    name = quoted(goal)[-1] if len(quoted(goal)) > 1 else "Menu"
    found = [e for e in look.all() if e.text.strip() == name]
    if not found:
        raise Lost(name)
    look = yield click(found[-1])


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


def meal(goal: str, look: Look) -> Way:
    wanted = [name.strip() for name in goal.split(": ", 1)[1].split(",")]
    for name in wanted:
        item = next(e for e in look.all() if e.text.strip() == name)
        look = yield click(next(e for e in look.after(item) if e.text == "+"))
    yield look.click("button", "Order!")


def terminal(goal: str, look: Look) -> Way:
    look = yield look.click("textbox")
    look = yield call("keyboard_type", text="ls")
    look = yield press("Enter")
    names = [name for e in look.elements[1:] for name in e.text.split()]
    end = re.findall(r"extension \.?([\w.]+?)\.?$", goal)
    files = [name for name in names if re.fullmatch(r"[a-z]+(\.[a-z.0-9]+)?", name)]
    skip = {"user", "ls", "terminal", "help", "for", "a", "list", "of", "available", "commands."}
    found = [f for f in files if f not in skip and (f.endswith(f".{end[0]}") if end else "." not in f)]
    if not found:
        raise Lost("no such file")
    look = yield call("keyboard_type", text=f"rm {found[-1]}")
    yield press("Enter")


def pie(goal: str, look: Look) -> Way:
    look = yield look.click("", "+", -1)
    look = yield call("noop", wait_ms=1000)
    yield look.click("", quoted(goal)[0])


def colour(goal: str, look: Look) -> Way:
    names = {"red": "FF0000", "green": "00FF00", "blue": "0000FF", "yellow": "FFFF00", "cyan": "00FFFF",
             "magenta": "FF00FF", "black": "000000", "white": "FFFFFF", "pink": "FFC0CB"}  # fmt: skip
    look = yield look.fill(names[re.findall(r"Select (\w+) with", goal)[0]])
    look = yield press("Tab")
    yield look.click("button", SUBMIT)


WAYS: dict[str, Start] = {
    **dict.fromkeys(("click-button", "click-test-2", "click-test-transfer", "unicode-test"), labelled),
    **dict.fromkeys(("click-checkboxes", "click-checkboxes-large", "click-checkboxes-transfer", "click-option"), ticked),
    **dict.fromkeys(("click-dialog", "click-dialog-2"), dialog),
    **dict.fromkeys(("click-collapsible", "click-collapsible-nodelay"), expand),
    **dict.fromkeys(("click-collapsible-2", "click-collapsible-2-nodelay", "click-tab-2", "click-tab-2-easy",
                     "click-tab-2-medium", "click-tab-2-hard"), sections),
    **dict.fromkeys(("copy-paste", "copy-paste-2"), copied),
    **dict.fromkeys(("enter-text", "enter-text-2", "enter-text-dynamic", "enter-password"), entered),
    **dict.fromkeys(("choose-date", "choose-date-easy", "choose-date-medium", "choose-date-nodelay"), calendar),
    **dict.fromkeys(("focus-text", "focus-text-2"), focused),
    **dict.fromkeys(("form-sequence", "use-slider", "use-slider-2"), slid),
    **dict.fromkeys(("login-user", "login-user-popup"), login),
    **dict.fromkeys(("multi-layouts", "multi-orderings"), movies),
    **dict.fromkeys(("read-table", "read-table-2"), from_table),
    **dict.fromkeys(("social-media", "social-media-all", "social-media-some"), posts),
    **dict.fromkeys(("use-autocomplete", "use-autocomplete-nodelay"), completed),
    **dict.fromkeys(("click-pie", "click-pie-nodelay"), pie),
    **dict.fromkeys(("email-inbox", "email-inbox-delete", "email-inbox-forward", "email-inbox-important",
                     "email-inbox-noscroll", "email-inbox-reply", "email-inbox-star-reply"), mail),
    "button-delay": delayed, "click-button-sequence": sequence, "click-test": any_button, "choose-list": choose_list,
    "click-scroll-list": scroll_list, "click-link": word, "click-tab": tab, "click-widget": widget,
    "text-transform": spelled, "enter-date": date_field, "enter-time": time_field, "find-word": nth_word,
    "find-greatest": greatest, "form-sequence-2": radio_and_text, "form-sequence-3": dropdown_and_button,
    "generate-number": generated, "guess-number": guessed, "navigate-tree": unfold, "odd-or-even": parity,
    "phone-book": phone_book, "scroll-text": last_word, "scroll-text-2": to_the_end, "search-engine": searched,
    "sign-agreement": agreement, "simple-algebra": algebra, "simple-arithmetic": arithmetic, "use-spinner": spun,
    "buy-ticket": ticket, "click-menu": menu, "click-menu-2": icon_menu, "order-food": meal, "terminal": terminal,
    "use-colorwheel": colour,
}  # fmt: skip


def begin(page: str, goal: str, screen: str) -> Way:
    """The way for ``page``; raises Lost where there is none."""
    if page not in WAYS:
        raise Lost(f"no way is written for {page}")
    return WAYS[page](goal, read(screen))
