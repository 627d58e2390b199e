"""The forum: boards, threads of posts, private messages.

Owns: its pages and what its forms change. Tables: boards, threads, posts, messages, users. Refuses: tasks about it.
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
    return layout(state, title, *blocks, links=(Link("Messages", "/messages"),))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _home(state: State, request: Request, _: str) -> Page:
    rows = []
    for board in table(state, "boards"):
        threads = [thread for thread in table(state, "threads") if thread["board"] == board["board"]]
        rows.append((Link(board["board"], f"/board/{part(board['board'])}"), _count(len(threads), "thread")))
    return _page(state, "Village Forum", Items(tuple(rows)))


def _row(state: State, thread: Record) -> tuple[Part, ...]:
    posts = [post for post in table(state, "posts") if post["thread"] == thread["thread"]]
    marks = f"started by {thread['author']}, {_count(len(posts), 'post')}, {_count(int(thread['votes']), 'vote')}"
    return Link(thread["title"], f"/thread/{thread['thread']}"), marks + (", locked" if thread["locked"] else "")


def _board(state: State, request: Request, name: str) -> Page:
    name = unpart(name)
    if find(state, "boards", "board", name) is None:
        return missing(state)
    rows = [_row(state, thread) for thread in table(state, "threads") if thread["board"] == name]
    path = f"/board/{part(name)}"
    return _page(state, name, Link("New thread", f"{path}/new"), *listed(path, {}, rows, request.number("page", 1)))


def _search(state: State, request: Request, _: str) -> Page:
    query = request.text("q")
    words = query.lower().split()
    rows = [_row(state, t) for t in table(state, "threads") if all(word in t["title"].lower() for word in words)]
    blocks = listed("/search", {"q": query}, rows, request.number("page", 1))
    return _page(state, "Search results", Text(f"{_count(len(rows), 'thread')} found."), *blocks)


def _thread(state: State, request: Request, number: str) -> Page:
    thread = find(state, "threads", "thread", number)
    if thread is None:
        return missing(state)
    rows: list[tuple[Part, ...]] = []
    for place, post in enumerate((p for p in table(state, "posts") if p["thread"] == number), 1):
        row: tuple[Part, ...] = (f"Post {place} by {post['author']}: {post['text']}",)
        if post["author"] == user(state):
            row += (Link(f"Edit post {place}", f"/post/{post['post']}/edit"),
                    Form(f"/post/{post['post']}/delete", (), f"Delete post {place}"))  # fmt: skip
        rows.append(row)
    board = thread["board"]
    votes = f"Board: {board}. {_count(int(thread['votes']), 'vote')}."
    blocks: list[Block] = [Text(votes), Items(tuple(rows))] if rows else [Text(votes)]
    if thread["locked"]:
        blocks.append(Text("This thread is locked."))
    elif user(state):
        blocks.append(Form(f"/thread/{number}/vote", (), "Vote for this thread"))
        blocks.append(Form(f"/thread/{number}/reply", (Field("Reply", "text", "area"),), "Send reply"))
    return _page(state, thread["title"], Link(f"Back to {board}", f"/board/{part(board)}"), *blocks)


def _next(state: State, name: str, key: str) -> str:
    return str(max((int(record[key]) for record in table(state, name)), default=0) + 1)


def _post(state: State, thread: str, text: str) -> None:
    number = _next(state, "posts", "post")
    table(state, "posts").append({"thread": thread, "post": number, "author": user(state), "text": text})


def _reply(state: State, request: Request, number: str) -> Redirect:
    thread = find(state, "threads", "thread", number)
    if not user(state):
        return need_login(state)
    if thread is None or thread["locked"]:
        say(state, "This thread is locked.")
    elif not request.text("text"):
        say(state, "A reply needs a text.")
    else:
        _post(state, number, request.text("text"))
        say(state, "Reply sent.")
    return Redirect(f"/thread/{number}")


def _vote(state: State, request: Request, number: str) -> Redirect:
    thread = find(state, "threads", "thread", number)
    if not user(state):
        return need_login(state)
    if thread and not thread["locked"]:
        if user(state) in thread["voters"]:
            say(state, "You have voted for this thread already.")
        else:
            thread["votes"] += 1
            thread["voters"].append(user(state))
            say(state, "Vote counted.")
    return Redirect(f"/thread/{number}")


def _new(state: State, request: Request, name: str) -> Page | Redirect:
    if not user(state):
        return need_login(state)
    if find(state, "boards", "board", unpart(name)) is None:
        return missing(state)
    fields = (Field("Title", "title"), Field("Text", "text", "area"))
    return _page(state, f"New thread in {unpart(name)}", Form(f"/board/{part(unpart(name))}/new", fields, "Create"))


def _create(state: State, request: Request, name: str) -> Page | Redirect:
    title, text = request.text("title"), request.text("text")
    if not user(state):
        return need_login(state)
    if find(state, "boards", "board", unpart(name)) is None:
        return missing(state)
    if not title or not text:
        say(state, "A thread needs a title and a text.")
        return Redirect(f"/board/{part(unpart(name))}/new")
    number = _next(state, "threads", "thread")
    table(state, "threads").append({
        "board": unpart(name), "thread": number, "title": title, "author": user(state), "votes": 0, "locked": False,
        "voters": [],
    })  # fmt: skip
    _post(state, number, text)
    say(state, "Thread created.")
    return Redirect(f"/thread/{number}")


def _own(state: State, number: str) -> Record | None:
    post = find(state, "posts", "post", number)
    return post if post and post["author"] == user(state) else None


def _edit(state: State, request: Request, number: str) -> Page:
    post = _own(state, number)
    if post is None:
        return missing(state)
    fields = (Field("Text", "text", "area", post["text"]),)
    return _page(state, "Edit post", Form(f"/post/{number}/edit", fields, "Save"))


def _change(state: State, request: Request, number: str) -> Page | Redirect:
    post = _own(state, number)
    if post is None:
        return missing(state)
    if not request.text("text"):
        say(state, "A post needs a text.")
        return Redirect(f"/post/{number}/edit")
    post["text"] = request.text("text")
    say(state, "Post saved.")
    return Redirect(f"/thread/{post['thread']}")


def _delete(state: State, request: Request, number: str) -> Page | Redirect:
    post = _own(state, number)
    if post is None:
        return missing(state)
    table(state, "posts").remove(post)
    say(state, "Post deleted.")
    return Redirect(f"/thread/{post['thread']}")


def _messages(state: State, request: Request, _: str) -> Page | Redirect:
    if not user(state):
        return need_login(state)
    rows = tuple((f"From {m['from']}: {m['text']}",) for m in table(state, "messages") if m["to"] == user(state))
    inbox: Block = Items(rows) if rows else Text("No messages.")
    return _page(state, "Messages", inbox, Link("New message", "/messages/new"))


def _write(state: State, request: Request, _: str) -> Page | Redirect:
    if not user(state):
        return need_login(state)
    fields = (Field("To", "to"), Field("Message", "text", "area"))
    return _page(state, "New message", Form("/messages/new", fields, "Send"))


def _send(state: State, request: Request, _: str) -> Redirect:
    to, text = request.text("to"), request.text("text")
    if not user(state):
        return need_login(state)
    if find(state, "users", "name", to) is None or not text:
        say(state, "Give the name of a user and a text.")
        return Redirect("/messages/new")
    table(state, "messages").append({"to": to, "from": user(state), "text": text})
    say(state, f"Message sent to {to}.")
    return Redirect("/messages")


ROUTES: tuple[Route, ...] = (
    ("GET", "/", _home), ("GET", "/search", _search), ("GET", "/board/([^/]+)", _board),
    ("GET", "/board/([^/]+)/new", _new), ("POST", "/board/([^/]+)/new", _create),
    ("GET", "/thread/([0-9]+)", _thread), ("POST", "/thread/([0-9]+)/reply", _reply),
    ("POST", "/thread/([0-9]+)/vote", _vote), ("GET", "/post/([0-9]+)/edit", _edit),
    ("POST", "/post/([0-9]+)/edit", _change), ("POST", "/post/([0-9]+)/delete", _delete),
    ("GET", "/messages", _messages), ("GET", "/messages/new", _write), ("POST", "/messages/new", _send), *LOGIN,
)  # fmt: skip
