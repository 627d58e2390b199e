"""A visit to a made site without a browser: the screens that a real one shows, and the actions that lead there.

Owns: what clicks and forms do to an own site, step by step; turning steps by name into calls with ids. Refuses:
scripts, tabs, history and anything but the made sites. That a real browser shows the same is proved by a test.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from rollout.errors import TaskError
from rollout.types import Action
from worldmodel.domains.web.grammar import MESSAGE, call, parse
from worldmodel.domains.web.inside import tree
from worldmodel.domains.web.inside.pages import Control, Form, Redirect, controls
from worldmodel.domains.web.inside.pages import tree as page_tree
from worldmodel.domains.web.inside.server import SITES, read_request
from worldmodel.domains.web.inside.site import respond

MAX_REDIRECTS = 5


class Visit:
    """Holds a copy of the state. Steps by name record their calls (``taken``) and raise TaskError where the page has
    no such control."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state: dict[str, Any] = copy.deepcopy(dict(state))
        self.taken: list[str] = []
        self._values: dict[int, str] = {}
        self._active: int | None = None
        self._load("GET", "/")

    def screen(self) -> str:
        body = tree.lines(page_tree(self._page, self._values, self._active), int)
        return tree.screen(f"{self._own}{self._address}", self._page.title, body)

    @property
    def _own(self) -> str:
        return f"http://{self.state['site']}.test"

    def act(self, action: Action) -> str:
        """The screen after ``action``; raises TaskError for one that this cannot do."""
        arguments = action.arguments
        if action.name == "goto":
            self._load("GET", arguments["url"].removeprefix(self._own) or "/")
        elif action.name in ("click", "fill", "select_option"):
            bid = arguments["bid"]
            if not 1 <= bid <= len(controls(self._page)):
                raise TaskError(f"there is no element with bid {bid}")
            self._use(action.name, bid, controls(self._page)[bid - 1], arguments)
        else:
            raise TaskError(f"a visit cannot do {action.name}")
        return self.screen()

    def _use(self, name: str, bid: int, control: Control, arguments: Mapping[str, Any]) -> None:
        if name == "fill":
            self._values[bid], self._active = arguments["value"], bid
        elif name == "select_option":
            self._values[bid] = arguments["options"][0]
        elif control.role == "link":
            self._load("GET", control.href)
        elif control.role == "button" and control.form is not None:
            self._submit(bid, control.form)
        else:
            self._active = bid
            if control.role == "checkbox" and control.field is not None:
                self._values[bid] = "" if self._values.get(bid, control.field.value) else "1"

    def _submit(self, button: int, form: Form) -> None:
        shown = [field for field in form.fields if field.kind != "hidden"]
        bids = {id(field): button - len(shown) + place for place, field in enumerate(shown)}
        pairs = []
        for field in form.fields:
            value = self._values.get(bids.get(id(field), 0), field.value)
            if field.kind != "check" or value:
                pairs.append((field.name, value))
        body = urlencode(pairs)
        if form.method == "get":
            self._load("GET", f"{form.action}?{body}")
        else:
            self._load("POST", form.action, body)

    def _load(self, method: str, target: str, body: str = "") -> None:
        for _ in range(MAX_REDIRECTS):
            found = respond(self.state, read_request(method, target, body), SITES[self.state["site"]])
            if not isinstance(found, Redirect):
                self._page, self._address = found, target
                self._values, self._active = {}, None
                return
            method, target, body = "GET", found.path, ""
        raise TaskError(f"{target} leads nowhere")

    # steps by name

    def link(self, *names: str) -> Visit:
        """Follow links, one after the other."""
        for name in names:
            self._do("click", bid=self._find("link", name))
        return self

    def button(self, name: str) -> Visit:
        return self._do("click", bid=self._find("button", name))

    def tick(self, name: str) -> Visit:
        return self._do("click", bid=self._find("checkbox", name))

    def write(self, name: str, text: str) -> Visit:
        return self._do("fill", bid=self._find("textbox", name), value=text)

    def choose(self, name: str, option: str) -> Visit:
        return self._do("select_option", bid=self._find("combobox", name), options=option)

    def search(self, text: str) -> Visit:
        return self.write("Search", text).button("Search")

    def login(self, name: str, password: str) -> Visit:
        return self.link("Log in").write("User name", name).write("Password", password).button("Log in")

    def reach(self, name: str) -> Visit:
        """Follow the link ``name``, turning over the pages of a list as needed."""
        while not self.has("link", name):
            self.link("Next page")
        return self.link(name)

    def has(self, role: str, name: str) -> bool:
        return any((c.role, c.name) == (role, name) for c in controls(self._page))

    def tell(self, text: str) -> tuple[str, ...]:
        """All calls, ending in the message ``text``."""
        return (*self.taken, call(MESSAGE, text=text))

    def _find(self, role: str, name: str) -> int:
        for bid, control in enumerate(controls(self._page), 1):
            if (control.role, control.name) == (role, name):
                return bid
        raise TaskError(f"no {role} {name!r} is on this page:\n{self.screen()}")

    def _do(self, name: str, **arguments: Any) -> Visit:
        text = call(name, **arguments)
        self.act(parse(text))
        self.taken.append(text)
        return self
