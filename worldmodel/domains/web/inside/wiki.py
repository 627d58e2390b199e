"""The wiki: pages anybody may read and users may edit, their history, a watch list.

Owns: its pages and what its forms change. Tables: pages, history, watched, users. Refuses: tasks about it.
A page's history is its former texts, oldest first.
"""

from __future__ import annotations

from worldmodel.domains.web.inside.pages import Block, Field, Form, Items, Link, Page, Part, Redirect, Text
from worldmodel.domains.web.inside.site import (
    LOGIN,
    Record,
    Request,
    Route,
    State,
    find,
    layout,
    listed,
    missing,
    need_login,
    part,
    say,
    table,
    unpart,
    user,
)  # fmt: skip


def _page(state: State, title: str, *blocks: Block) -> Page:
    return layout(state, title, *blocks, links=(Link("All pages", "/all"), Link("Watch list", "/watched")))


def _home(state: State, request: Request, _: str) -> Page:
    count = len(table(state, "pages"))
    return _page(state, "Valley Wiki", Text(f"There are {count} pages."), Link("New page", "/new"))


def _rows(pages: list[Record]) -> list[tuple[Part, ...]]:
    titles = sorted(str(page["title"]) for page in pages)
    return [(Link(title, f"/page/{part(title)}"),) for title in titles]


def _all(state: State, request: Request, _: str) -> Page:
    return _page(state, "All pages", *listed("/all", {}, _rows(table(state, "pages")), request.number("page", 1)))


def _search(state: State, request: Request, _: str) -> Page:
    query = request.text("q")
    words = query.lower().split()
    found = [p for p in table(state, "pages") if all(word in f"{p['title']} {p['text']}".lower() for word in words)]
    blocks = listed("/search", {"q": query}, _rows(found), request.number("page", 1))
    return _page(state, "Search results", Text(f"{len(found)} pages found."), *blocks)


def _view(state: State, request: Request, name: str) -> Page:
    title = unpart(name)
    page = find(state, "pages", "title", title)
    if page is None:
        return missing(state)
    tools: list[Part] = [Link("Edit", f"/edit/{part(title)}"), Link("History", f"/history/{part(title)}"),
                         Link("Rename", f"/rename/{part(title)}")]  # fmt: skip
    if user(state):
        watched = any(w["page"] == title and w["user"] == user(state) for w in table(state, "watched"))
        tools.append(Form(f"/watch/{part(title)}", (), "Stop watching" if watched else "Watch"))
    return _page(state, title, Text(page["text"]), Items((tuple(tools),)))


def _store(state: State, page: Record, text: str) -> None:
    table(state, "history").append({"page": page["title"], "text": page["text"], "author": page["author"]})
    page.update(text=text, author=user(state))


def _edit(state: State, request: Request, name: str) -> Page | Redirect:
    page = find(state, "pages", "title", unpart(name))
    if page is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    form = Form(f"/edit/{part(page['title'])}", (Field("Text", "text", "area", page["text"]),), "Save")
    return _page(state, f"Edit {page['title']}", form)


def _save(state: State, request: Request, name: str) -> Page | Redirect:
    page, text = find(state, "pages", "title", unpart(name)), request.text("text")
    if page is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    if not text:
        say(state, "A page needs a text.")
        return Redirect(f"/edit/{part(page['title'])}")
    if text != page["text"]:
        _store(state, page, text)
    say(state, "Page saved.")
    return Redirect(f"/page/{part(page['title'])}")


def _history(state: State, request: Request, name: str) -> Page:
    page = find(state, "pages", "title", unpart(name))
    if page is None:
        return missing(state)
    title, rows = str(page["title"]), []
    for place, old in enumerate((h for h in table(state, "history") if h["page"] == title), 1):
        row: tuple[Part, ...] = (f"Version {place} by {old['author']}: {old['text']}",)
        rows.append((*row, Form(f"/restore/{part(title)}", (Field("", "version", "hidden", str(place)),),
                                f"Restore version {place}")) if user(state) else row)  # fmt: skip
    rows.append((f"Now, by {page['author']}: {page['text']}",))
    return _page(state, f"History of {title}", Items(tuple(rows)), Link(f"Back to {title}", f"/page/{part(title)}"))


def _restore(state: State, request: Request, name: str) -> Page | Redirect:
    page, version = find(state, "pages", "title", unpart(name)), request.number("version")
    if page is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    old = [record for record in table(state, "history") if record["page"] == page["title"]]
    if 1 <= version <= len(old):
        _store(state, page, old[version - 1]["text"])
        say(state, f"Version {version} restored.")
    return Redirect(f"/page/{part(page['title'])}")


def _new(state: State, request: Request, _: str) -> Page | Redirect:
    if not user(state):
        return need_login(state)
    fields = (Field("Title", "title"), Field("Text", "text", "area"))
    return _page(state, "New page", Form("/new", fields, "Create"))


def _create(state: State, request: Request, _: str) -> Redirect:
    title, text = unpart(request.text("title")), request.text("text")
    if not user(state):
        return need_login(state)
    if not title or not text or "/" in title or find(state, "pages", "title", title):
        say(state, "A page needs a title that no page has, and a text.")
        return Redirect("/new")
    table(state, "pages").append({"title": title, "author": user(state), "text": text})
    say(state, "Page created.")
    return Redirect(f"/page/{part(title)}")


def _rename(state: State, request: Request, name: str) -> Page | Redirect:
    page = find(state, "pages", "title", unpart(name))
    if page is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    form = Form(f"/rename/{part(page['title'])}", (Field("New title", "title", "text", page["title"]),), "Rename")
    return _page(state, f"Rename {page['title']}", form)


def _move(state: State, request: Request, name: str) -> Page | Redirect:
    page, title = find(state, "pages", "title", unpart(name)), unpart(request.text("title"))
    if page is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    if not title or "/" in title or find(state, "pages", "title", title):
        say(state, "Give a title that no page has.")
        return Redirect(f"/rename/{part(page['title'])}")
    for record in (*table(state, "history"), *table(state, "watched")):
        if record["page"] == page["title"]:
            record["page"] = title
    page["title"] = title
    say(state, "Page renamed.")
    return Redirect(f"/page/{part(title)}")


def _watch(state: State, request: Request, name: str) -> Page | Redirect:
    title = unpart(name)
    if find(state, "pages", "title", title) is None:
        return missing(state)
    if not user(state):
        return need_login(state)
    entry, watched = {"user": user(state), "page": title}, table(state, "watched")
    if entry in watched:
        watched.remove(entry)
    else:
        watched.append(entry)
    say(state, "Watch list changed.")
    return Redirect(f"/page/{part(title)}")


def _watched(state: State, request: Request, _: str) -> Page | Redirect:
    if not user(state):
        return need_login(state)
    titles = [entry["page"] for entry in table(state, "watched") if entry["user"] == user(state)]
    rows = tuple((Link(title, f"/page/{part(title)}"),) for title in titles)
    return _page(state, "Watch list", Items(rows) if rows else Text("You watch no page."))


ROUTES: tuple[Route, ...] = (
    ("GET", "/", _home), ("GET", "/all", _all), ("GET", "/search", _search), ("GET", "/page/([^/]+)", _view),
    ("GET", "/edit/([^/]+)", _edit), ("POST", "/edit/([^/]+)", _save), ("GET", "/history/([^/]+)", _history),
    ("POST", "/restore/([^/]+)", _restore), ("GET", "/new", _new), ("POST", "/new", _create),
    ("GET", "/rename/([^/]+)", _rename), ("POST", "/rename/([^/]+)", _move), ("POST", "/watch/([^/]+)", _watch),
    ("GET", "/watched", _watched), *LOGIN,
)  # fmt: skip
