"""The web families of the forum: one small seeded function each.

Owns: as ``families_shop``. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import random

from worldmodel.domains.web import vocabulary as v
from worldmodel.domains.web.drafts import Draft, answers, draft, expect, named, told
from worldmodel.domains.web.visit import Visit
from worldmodel.domains.web.vocabulary import State


def _open(user: Visit, thread: State) -> Visit:
    return user.link(thread["board"]).reach(thread["title"])


def _entered(state: State, user: Visit) -> Visit:
    return user.login(*v.login(state))


def _posted(state: State, thread: str, text: str) -> State:
    number = str(max(int(post["post"]) for post in state["tables"]["posts"]) + 1)
    return {"thread": thread, "post": number, "author": v.login(state)[0], "text": text}


def reply(rng: random.Random) -> Draft:
    state, text = v.forum(rng), rng.choice(v.POSTS)
    thread, wrong = rng.sample(state["tables"]["threads"], 2)
    record = _posted(state, thread["thread"], text)

    def answer(user: Visit, to: State) -> Visit:
        return _open(_entered(state, user), to).write("Reply", text)

    return draft(
        state, f'Reply "{text}" in the thread "{thread["title"]}" on the board {thread["board"]}. {told(state)}',
        expect(state, lambda t: t["posts"].append(record), "posts"),
        lambda user: answer(user, thread).button("Send reply"),
        lambda user: answer(user, wrong).button("Send reply"),
        lambda user: answer(user, thread),
    )  # fmt: skip


def new_thread(rng: random.Random) -> Draft:
    state, text = v.forum(rng), rng.choice(v.POSTS)
    title = rng.choice([topic for topic in v.TOPICS if topic not in {t["title"] for t in state["tables"]["threads"]}])
    board, other = rng.sample([board["board"] for board in state["tables"]["boards"]], 2)
    number = str(len(state["tables"]["threads"]) + 1)
    record = {"board": board, "thread": number, "title": title, "author": v.login(state)[0], "votes": 0,
              "locked": False, "voters": []}  # fmt: skip

    def change(tables: State) -> None:
        tables["threads"].append(record)
        tables["posts"].append(_posted(state, number, text))

    def begin(user: Visit, where: str) -> Visit:
        return _entered(state, user).link(where, "New thread").write("Title", title).write("Text", text)

    return draft(
        state, f'Start a thread "{title}" on the board {board} with the text "{text}". {told(state)}',
        expect(state, change, "threads", f"posts/{number}"),
        lambda user: begin(user, board).button("Create"),
        lambda user: begin(user, other).button("Create"),
        lambda user: begin(user, board),
    )  # fmt: skip


def _mine(rng: random.Random, state: State) -> tuple[State, State, int]:
    """A thread, a post of the visitor in it, and the post's place there: it is added."""
    thread = rng.choice(state["tables"]["threads"])
    post = _posted(state, thread["thread"], rng.choice(v.POSTS))
    state["tables"]["posts"].append(post)
    return thread, post, sum(p["thread"] == thread["thread"] for p in state["tables"]["posts"])


def edit_post(rng: random.Random) -> Draft:
    state = v.forum(rng)
    thread, post, place = _mine(rng, state)
    text = rng.choice([text for text in v.POSTS if text != post["text"]])

    def edit(user: Visit, wanted: str) -> Visit:
        return _open(_entered(state, user), thread).link(f"Edit post {place}").write("Text", wanted)

    return draft(
        state, f'Change my post {place} in "{thread["title"]}" (board {thread["board"]}) to "{text}". {told(state)}',
        expect(state, lambda t: named(t["posts"], post=post["post"]).update(text=text), "posts"),
        lambda user: edit(user, text).button("Save"),
        lambda user: edit(user, f"{post['text']} {text}").button("Save"),
        lambda user: _open(_entered(state, user), thread).write("Reply", text).button("Send reply"),
    )  # fmt: skip


def delete_post(rng: random.Random) -> Draft:
    state = v.forum(rng)
    thread, post, place = _mine(rng, state)
    return draft(
        state, f'Delete my post {place} in "{thread["title"]}" on the board {thread["board"]}. {told(state)}',
        expect(state, lambda t: t["posts"].remove(named(t["posts"], post=post["post"])), "posts"),
        lambda user: _open(_entered(state, user), thread).button(f"Delete post {place}"),
        lambda user: _open(_entered(state, user), thread).link(f"Edit post {place}").write("Text", "").button("Save"),
        lambda user: _open(_entered(state, user), thread),
    )  # fmt: skip


def vote(rng: random.Random) -> Draft:
    state = v.forum(rng)
    thread, wrong = rng.sample(state["tables"]["threads"], 2)

    def change(tables: State) -> None:
        record = named(tables["threads"], thread=thread["thread"])
        record.update(votes=record["votes"] + 1, voters=[v.login(state)[0]])

    return draft(
        state, f'Vote for the thread "{thread["title"]}" on the board {thread["board"]}. {told(state)}',
        expect(state, change, "threads"),
        lambda user: _open(_entered(state, user), thread).button("Vote for this thread"),
        lambda user: _open(_entered(state, user), wrong).button("Vote for this thread"),
        lambda user: _open(_entered(state, user), thread),
    )  # fmt: skip


def who_started(rng: random.Random) -> Draft:
    state = v.forum(rng)
    thread = rng.choice(state["tables"]["threads"])
    wrong = rng.choice([user["name"] for user in state["tables"]["users"] if user["name"] != thread["author"]])
    ask = rng.choice((f'Who started the thread "{thread["title"]}"?', f'Which user began "{thread["title"]}"?'))
    return draft(
        state, ask, answers(thread["author"]),
        lambda user: user.search(thread["title"]).link(thread["title"]).tell(thread["author"]),
        lambda user: user.search(thread["title"]).tell(wrong),
        lambda user: user.search(thread["title"]).link(thread["title"]),
    )  # fmt: skip


def most_votes(rng: random.Random) -> Draft:
    """The board has two pages."""
    state = v.forum(rng)
    board = state["tables"]["boards"][0]["board"]
    threads = [thread for thread in state["tables"]["threads"] if thread["board"] == board]
    for thread, votes in zip(threads, rng.sample(range(20), len(threads)), strict=True):
        thread["votes"] = votes
    best, second = sorted(threads, key=lambda thread: -int(thread["votes"]))[:2]
    return draft(
        state, f"Which thread on the board {board} has the most votes? Answer with its title.", answers(best["title"]),
        lambda user: user.link(board, "Next page").tell(best["title"]),
        lambda user: user.link(board).tell(second["title"]),
        lambda user: user.link(board, "Next page"),
    )  # fmt: skip


def send_message(rng: random.Random) -> Draft:
    """Held out: the page of messages."""
    state, text = v.forum(rng), rng.choice(v.POSTS)
    me, to, other, _ = (user["name"] for user in state["tables"]["users"])

    def write(user: Visit, name: str) -> Visit:
        return _entered(state, user).link("Messages", "New message").write("To", name).write("Message", text)

    return draft(
        state, f'Send the user {to} the private message "{text}". {told(state)}',
        expect(state, lambda t: t["messages"].append({"to": to, "from": me, "text": text}), "messages"),
        lambda user: write(user, to).button("Send"),
        lambda user: write(user, other).button("Send"),
        lambda user: write(user, to),
    )  # fmt: skip
