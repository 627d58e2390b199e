"""What the made sites share: the state, requests, the log-in, lists over several pages, dispatch.

Owns: the form of a state (JSON: ``site``, ``tables`` of records, ``session``) and ``respond``, a function of state and
request that changes the state in place. Refuses: single sites, sockets (``server``).
A site has one visitor: the session is part of the state and there are no cookies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlencode

from worldmodel.domains.web.inside.pages import (
    Block,
    Field,
    Form,
    Heading,
    Items,
    Link,
    Nav,
    Page,
    Part,
    Redirect,
    Status,
)  # fmt: skip

State = dict[str, Any]
Record = dict[str, Any]
PER_PAGE = 5
MAX_TEXT = 500  # characters of a field that is stored


@dataclass(frozen=True, slots=True)
class Request:
    """``values``: the query of a GET, the form of a POST; the first of equal names."""

    method: str
    path: str
    values: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return " ".join(self.values.get(name, "").split())[:MAX_TEXT]

    def number(self, name: str, otherwise: int = 0) -> int:
        value = self.values.get(name, "")
        return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else otherwise


Handler = Callable[[State, Request, str], Page | Redirect]  # the last: what the pattern's group matched, or ''
Route = tuple[str, str, Handler]


def respond(state: State, request: Request, routes: Sequence[Route]) -> Page | Redirect:
    """The site's answer; never raises on any request."""
    for method, pattern, handler in routes:
        match = re.fullmatch(pattern, request.path)
        if match and method == request.method:
            return handler(state, request, match[1] if match.re.groups else "")
    return missing(state)


def table(state: State, name: str) -> list[Record]:
    return cast(list[Record], state["tables"][name])


def find(state: State, name: str, key: str, value: object) -> Record | None:
    return next((record for record in table(state, name) if record[key] == value), None)


def user(state: State) -> str:
    """Who is logged in, or ''."""
    return str(state["session"].get("user", ""))


def say(state: State, notice: str) -> None:
    """Shown at the top of the next page."""
    state["session"]["notice"] = notice


def layout(state: State, title: str, *blocks: Block, links: Sequence[Link] = (), search: bool = True) -> Page:
    """The page with navigation, the notice (once) and its heading."""
    who = user(state)
    own = (Form("/logout", (), f"Log out {who}"),) if who else (Link("Log in", "/login"),)
    notice = state["session"].pop("notice", "")
    found = (Form("/search", (Field("Search", "q"),), "Search", "get"),) if search else ()
    top: tuple[Block, ...] = (Nav((Link("Home", "/"), *links, *own)), *found)
    return Page(title, (*top, *((Status(notice),) if notice else ()), Heading(title), *blocks))


def missing(state: State) -> Page:
    page = layout(state, "Page not found", Link("Go to the home page", "/"), search=False)
    return Page(page.title, page.blocks, 404)


def listed(path: str, query: Mapping[str, str], items: Sequence[tuple[Part, ...]], page: int) -> tuple[Block, ...]:
    """The items of one page of a longer list, with links to the pages before and after."""
    last = max(1, -(-len(items) // PER_PAGE))
    page = min(max(page, 1), last)
    found: list[Block] = [Items(tuple(items[(page - 1) * PER_PAGE : page * PER_PAGE]))] if items else []
    if page > 1:
        found.append(Link("Previous page", address(path, {**query, "page": str(page - 1)})))
    if page < last:
        found.append(Link("Next page", address(path, {**query, "page": str(page + 1)})))
    return tuple(found)


def address(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def part(text: str) -> str:
    """``text`` as one part of a path."""
    return quote(text.replace(" ", "_"), safe="")


def unpart(text: str) -> str:
    return text.replace("_", " ")


def need_login(state: State) -> Redirect:
    say(state, "Please log in first.")
    return Redirect("/login")


def _login(state: State, request: Request, _: str) -> Page | Redirect:
    fields = (Field("User name", "name"), Field("Password", "password", "password"))
    return layout(state, "Log in", Form("/login", fields, "Log in"), search=False)


def _enter(state: State, request: Request, _: str) -> Page | Redirect:
    found = find(state, "users", "name", request.text("name"))
    if found is None or found["password"] != request.values.get("password", ""):
        say(state, "Wrong user name or password.")
        return Redirect("/login")
    state["session"]["user"] = found["name"]
    say(state, f"Logged in as {found['name']}.")
    return Redirect("/")


def _leave(state: State, request: Request, _: str) -> Page | Redirect:
    state["session"]["user"] = ""
    say(state, "Logged out.")
    return Redirect("/")


LOGIN: tuple[Route, ...] = (("GET", "/login", _login), ("POST", "/login", _enter), ("POST", "/logout", _leave))
