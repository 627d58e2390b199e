"""A screen as a scripted solver reads it: elements by role, name and text, and calls on them.

Owns: parsing the lines of an observation. Refuses: knowing any page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass

from worldmodel.domains.web.grammar import call

_LINE = re.compile(r'( *)- ([\w-]+)(?: ("(?:[^"\\]|\\.)*"))?((?: \[[^\]]*\])*)(?:: (.*)|:)?')


SUBMIT = "Submit"


class Lost(Exception):
    """The page shows nothing like what is looked for."""


@dataclass(frozen=True, slots=True)
class Element:
    depth: int
    role: str
    name: str
    bid: int
    states: tuple[str, ...]
    value: str

    @property
    def text(self) -> str:
        return self.name or self.value


@dataclass(frozen=True, slots=True)
class Look:
    elements: tuple[Element, ...]

    def all(self, role: str = "", text: str | None = None, fits: Callable[[Element], bool] | None = None
            ) -> list[Element]:  # fmt: skip
        """Elements that can be acted on, in the order of the page; not the goal, which is the first."""
        return [
            e for e in self.elements[1:]
            if e.bid and (not role or e.role in role.split("|")) and (text is None or e.text == text)
            and (fits is None or fits(e))
        ]  # fmt: skip

    def one(self, role: str = "", text: str | None = None, nth: int = 0) -> Element:
        found = self.all(role, text)
        if not -len(found) <= nth < len(found):
            raise Lost(f"no {role or 'element'} {text or ''} ({nth})")
        return found[nth]

    def after(self, element: Element) -> list[Element]:
        return list(self.elements[self.elements.index(element) + 1 :])

    def click(self, role: str = "", text: str | None = None, nth: int = 0) -> str:
        return click(self.one(role, text, nth))

    def fill(self, text: str, nth: int = 0, role: str = "textbox|spinbutton|searchbox") -> str:
        return call("fill", bid=self.one(role, nth=nth).bid, value=text)


def click(element: Element) -> str:
    return call("click", bid=element.bid)


def read(screen: str) -> Look:
    found = []
    for line in screen.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            states = tuple(re.findall(r"\[([^\]]*)\]", match[4] or ""))
            bid = next((int(state[4:]) for state in states if state.startswith("bid=")), 0)
            name = json.loads(match[3]) if match[3] else ""
            found.append(Element(len(match[1]) // 2, match[2], name, bid, states, match[5] or ""))
    return Look(tuple(found))


def quoted(goal: str) -> list[str]:
    return re.findall(r'"([^"]*)"', goal)


def place(goal: str) -> int:
    """The number before st, nd, rd or th, from 0."""
    return int(re.findall(r"(\d+)(?:st|nd|rd|th)", goal)[0]) - 1


def press(key: str) -> str:
    return call("keyboard_press", key=key)


Way = Generator[str, Look, None]
Start = Callable[[str, Look], Way]
