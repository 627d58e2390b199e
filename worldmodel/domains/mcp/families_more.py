"""The task families over the repository, the clock, and several servers at once; which families are held out.

Owns: instruction, state, known good and wrong ways, checks, ``TRAIN`` and ``HELD_OUT``. Refuses: ids, running checks.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rollout.types import Check, Predicate
from worldmodel.domains.mcp import families as one
from worldmodel.domains.mcp import vocabulary as v
from worldmodel.domains.mcp.catalogue import REPO
from worldmodel.domains.mcp.drafts import (
    Draft,
    answered,
    call,
    change,
    file_is,
    git,
    graph_is,
    last_message,
    others,
    read,
    rows_are,
    select,
    status_has,
    version_is,
    way,
    world,
    write,
)
from worldmodel.domains.mcp.history import commits


def commit_one(rng: random.Random) -> Draft:
    repo = v.repository(rng)
    head = commits(repo)[-1]
    path, other = rng.sample(sorted(head.tree), 2)
    repo["changes"] = {name: head.tree[name] + f"{rng.choice(v.WORDS)}\n" for name in (path, other)}
    message = f"{rng.choice(('Add', 'Note', 'Keep'))} {rng.choice(v.WORDS)}"
    ask = rng.choice((
        f'Commit the change of {path}, and nothing else, with the message "{message}".',
        f'Only {path} is ready: commit it as "{message}" and leave {other} as it is.',
    ))  # fmt: skip
    done = git("commit", message=message)
    return Draft(
        ask, world("git", repo=repo),
        (*last_message(message, head.id), version_is("HEAD", path, repo["changes"][path]),
         version_is("HEAD", other, head.tree[other])),
        way(git("status"), git("add", files=[path]), done),
        (way(git("add", files=["."]), done), way(git("add", files=[other]), done), way(git("add", files=[path]))),
    )  # fmt: skip


def unstage(rng: random.Random) -> Draft:
    """Two files are staged, one is to be committed."""
    repo = v.repository(rng)
    head = commits(repo)[-1]
    path, other = rng.sample(sorted(head.tree), 2)
    repo["changes"] = {name: head.tree[name] + f"{rng.choice(v.WORDS)}\n" for name in (path, other)}
    repo["staged"] = [path, other]
    ask = rng.choice((
        f"Unstage everything but {path}; commit nothing.",
        f"Leave {path} staged and take {other} out of the staging area. Do not commit.",
    ))  # fmt: skip
    staged = 'Changes to be committed:\n  (use "git restore --staged <file>..." to unstage)\n\tmodified:   {}\n\n'
    return Draft(
        ask, world("git", repo=repo), (status_has(staged.format(path)),),
        way(git("reset"), git("add", files=[path])),
        (way(git("reset")), way(git("reset"), git("add", files=[other]))),
    )  # fmt: skip


def new_branch(rng: random.Random) -> Draft:
    repo = v.repository(rng)
    base, name = rng.sample(v.WORDS, 2)
    repo["branches"][base] = rng.randrange(len(repo["commits"]) - 1)
    head = commits(repo)[repo["branches"][base]]
    ask = rng.choice((
        f"Make a branch {name} from the branch {base} and switch to it.",
        f"Switch to a new branch {name} that begins at {base}.",
    ))  # fmt: skip
    made = git("create_branch", branch_name=name, base_branch=base)
    switch = git("checkout", branch_name=name)
    return Draft(
        ask, world("git", repo=repo), (status_has(f"On branch {name}\n"), version_log(name, head.id)),
        way(git("branch", branch_type="local"), made, switch),
        (way(git("create_branch", branch_name=name), switch), way(made), way(git("checkout", branch_name=base))),
    )  # fmt: skip


def version_log(revision: str, commit: str) -> Check:
    return Check("base", (git("show", revision=revision),), Predicate("contains", f"commit {commit}\n"))


def who_changed(rng: random.Random) -> Draft:
    repo = v.repository(rng)
    found = commits(repo)
    commit = rng.choice(found[1:])
    (path,) = commit.files
    ask = rng.choice((f"Who changed {path} last?", f"Which author made the latest commit that changes {path}?"))
    looking = git("log"), git("show", revision=commit.id)
    wrong = others([other.author for other in found], commit.author)
    return Draft(
        f"{ask} Answer with the full name.", world("git", repo=repo), (answered(commit.author),),
        way(*looking, answer=commit.author), tuple(way(looking[0], answer=name) for name in wrong),
    )  # fmt: skip


def edit_and_commit(rng: random.Random) -> Draft:
    repo = v.repository(rng)
    head = commits(repo)[-1]
    path = rng.choice(sorted(head.tree))
    word = rng.choice(head.tree[path].split())
    new = rng.choice([other for other in v.WORDS if other not in head.tree[path]])
    message = f"Rename {word} to {new}"
    text = " ".join(new if piece == word else piece for piece in head.tree[path].replace("\n", " \n ").split(" "))
    right = text.replace(" \n ", "\n").replace(" \n", "\n")
    ask = rng.choice((
        f'In {path} of the repository, replace the word {word} by {new}, and commit that as "{message}".',
        f'The word {word} in {path} should be {new}. Change it and commit with the message "{message}".',
    ))  # fmt: skip
    place = f"{REPO}/{path}"
    edit = call("write_file", path=place, content=right)
    done = git("add", files=[path]), git("commit", message=message)
    return Draft(
        ask, world("filesystem", "git", repo=repo), (*last_message(message, head.id), version_is("HEAD", path, right)),
        way(call("read_text_file", path=place), edit, *done),
        (way(edit), way(edit, done[0], git("commit", message="Update")), way(edit, done[1])),
    )  # fmt: skip


def _zones(rng: random.Random) -> tuple[str, str]:
    while True:
        source, target = rng.sample(sorted(v.ZONES), 2)
        if v.ZONES[source] != v.ZONES[target]:
            return source, target


def convert_clock(rng: random.Random) -> Draft:
    source, target = _zones(rng)
    start, gap = 5 * rng.randrange(288), v.ZONES[target] - v.ZONES[source]
    right = v.clock(start + gap)
    ask = rng.choice((
        f"A call begins at {v.clock(start)} in {source}. What time is it then in {target}?",
        f"What is the local time in {target} when it is {v.clock(start)} in {source}?",
    ))  # fmt: skip
    asked = call("convert_time", source_timezone=source, time=v.clock(start), target_timezone=target)
    wrong = others([v.clock(start - gap), v.clock(start), v.clock(start + gap + 60)], right)
    return Draft(
        f"{ask} Answer as HH:MM.", world("time"), (answered(right),), way(asked, answer=right),
        tuple(way(asked, answer=value) for value in wrong),
    )  # fmt: skip


def order_state(rng: random.Random) -> Draft:
    """From a file into the database."""
    customers, orders = v.shop(rng)
    spot = rng.randrange(len(orders))
    new = rng.choice([state for state in v.STATES if state != orders[spot]["state"]])
    number, name = orders[spot]["id"], f"inbox/{rng.choice(v.STEMS)}.txt"
    right = [{**row, "state": new} if i == spot else row for i, row in enumerate(orders)]
    files = {name: f"order: {number}\nstate: {new}\n", f"inbox/{rng.choice(v.TOPICS)}.txt": v.text(v.prose(rng))}
    ask = rng.choice((
        f"The file {name} gives the new state of an order. Enter it in the database.",
        f"Bring the database up to date: {name} says which state an order has now.",
    ))  # fmt: skip
    update = f"UPDATE orders SET state = '{new}'"
    return Draft(
        ask, world("filesystem", "sqlite", files=files, database=v.dump(customers, orders)),
        (rows_are("orders", v.csv_of(right)),), way(read(name), change(f"{update} WHERE id = {number}")),
        (way(read(name), change(update)), way(read(name), change(f"DELETE FROM orders WHERE id = {number}"))),
    )  # fmt: skip


# Held out whole: each joins servers in a way that no family above does.


def report_of_city(rng: random.Random) -> Draft:
    customers, orders = v.shop(rng)
    city, other = dict.fromkeys(row["city"] for row in customers)
    listed = {place: sorted(row["name"] for row in customers if row["city"] == place) for place in (city, other)}
    to = f"{rng.choice(v.STEMS)}.txt"
    ask = rng.choice((
        f"Write the names of all customers from {city}, sorted, a line each, to the file {to}.",
        f"Make a file {to} that lists the customers who live in {city} in alphabetical order, one a line.",
    ))  # fmt: skip
    looking = select(f"SELECT name FROM customers WHERE city = '{city}' ORDER BY name")
    everyone = sorted(row["name"] for row in customers)
    return Draft(
        ask, world("filesystem", "sqlite", database=v.dump(customers, orders)), (file_is(to, v.text(listed[city])),),
        way(looking, write(to, v.text(listed[city]))),
        (way(looking, write(to, v.text(listed[other]))), way(looking, write(to, v.text(everyone)))),
    )  # fmt: skip


def card_to_graph(rng: random.Random) -> Draft:
    graph = v.graph(rng)
    taken = {entity["name"] for entity in graph["entities"]}
    name, other = rng.sample([name for name in v.GIVEN if name not in taken], 2)
    habits = rng.sample(v.HABITS, 2)
    files = {f"cards/{name.lower()}.txt": f"{habits[0]}\n", f"cards/{other.lower()}.txt": f"{habits[1]}\n"}
    person = {"name": name, "entityType": "person", "observations": [habits[0]]}
    right = {"entities": [*graph["entities"], person], "relations": graph["relations"]}
    source = f"cards/{name.lower()}.txt"
    ask = rng.choice((
        f"Add the person {name} to the graph; the observation is the line in {source}.",
        f"Put {name} (a person) into the graph, with what {source} says as the one observation.",
    ))  # fmt: skip
    swapped = call("create_entities", entities=[{**person, "observations": [habits[1]]}])
    bare = call("create_entities", entities=[{**person, "observations": []}])
    return Draft(
        ask, world("filesystem", "memory", files=files, graph=graph), (graph_is(right),),
        way(read(source), call("create_entities", entities=[person])), (way(swapped), way(bare)),
    )  # fmt: skip


def restore_file(rng: random.Random) -> Draft:
    repo = v.repository(rng)
    found = commits(repo)
    (path,) = found[1].files
    old, message = found[0].tree[path], f"Restore {path}"
    ask = rng.choice((
        f'Bring {path} back to how it was in the first commit, and commit that as "{message}".',
        f'Undo all changes of {path} since the first commit; commit with the message "{message}".',
    ))  # fmt: skip
    place, shown = f"{REPO}/{path}", git("show", revision=f"{found[0].id}:{path}")
    back = call("write_file", path=place, content=old)
    done = git("add", files=[path]), git("commit", message=message)
    other = call("write_file", path=place, content="\n")
    return Draft(
        ask, world("filesystem", "git", repo=repo),
        (*last_message(message, found[-1].id), version_is("HEAD", path, old)), way(git("log"), shown, back, *done),
        (way(shown, back), way(shown, other, *done)),
    )  # fmt: skip


def meeting_time(rng: random.Random) -> Draft:
    source, target = _zones(rng)
    start, gap = 5 * rng.randrange(288), v.ZONES[target] - v.ZONES[source]
    name, to = v.names(rng, 2)
    files = {name: f"meeting: {v.clock(start)}\nzone: {source}\n"}
    right = f"meeting: {v.clock(start + gap)}\nzone: {target}\n"
    wrong = f"meeting: {v.clock(start)}\nzone: {target}\n", f"meeting: {v.clock(start - gap)}\nzone: {target}\n"
    ask = rng.choice((
        f"Write {to}, which says the same as {name} but in the time of {target}, in the same form.",
        f"Convert the meeting in {name} to the zone {target} and write it to {to}, keeping the form of the file.",
    ))  # fmt: skip
    asked = call("convert_time", source_timezone=source, time=v.clock(start), target_timezone=target)
    return Draft(
        ask, world("filesystem", "time", files=files), (file_is(to, right),), way(read(name), asked, write(to, right)),
        tuple(way(read(name), write(to, text)) for text in wrong if text != right),
    )  # fmt: skip


Family = Callable[[random.Random], Draft]
_TRAIN: tuple[Family, ...] = (
    one.change_setting, commit_one, one.add_person, one.change_quantity, convert_clock, one.move_file, who_changed,
    one.correct_fact, one.add_order, one.join_files, new_branch, one.forget, one.drop_orders, one.keep_matching,
    edit_and_commit, one.city_of_person, one.quantity_of_city, one.find_in_files, unstage, order_state,
    one.total_of_item,
)  # fmt: skip
_HELD_OUT: tuple[Family, ...] = report_of_city, card_to_graph, restore_file, meeting_time
FAMILIES = {family.__name__: family for family in (*_TRAIN, *_HELD_OUT)}
TRAIN, HELD_OUT = tuple(family.__name__ for family in _TRAIN), tuple(family.__name__ for family in _HELD_OUT)
