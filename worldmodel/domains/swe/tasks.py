"""Swe tasks: a bug of the catalogue becomes an issue, a gold repair and wrong ones.

Owns: ids, seeds, which bugs and packages belong to which split, edits as calls. Refuses: finding bugs (``build``),
running tasks (``real``).

A bug belongs to ``train`` or to ``heldout``, never to both; the packages of ``family`` occur in neither. Tasks repeat
their bugs, in other words, only after all bugs of a family were used.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, get_args

from rollout.errors import TaskError
from rollout.seeds import derive_seed
from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.swe.grammar import FINAL, PROBE, call
from worldmodel.domains.swe.mutate import Edit, apply
from worldmodel.domains.swe.packages import PACKAGES, tree
from worldmodel.domains.swe.verdict import PASSED
from worldmodel.tasks import Split

MAX_TURNS = 30
HELD_OUT = ("humanize",)  # whole packages
HELD_SHARE = 5  # every fifth bug is held out
SHOWN_CODE, SHOWN_TEST = 120, 60  # lines that the simulator is shown of each
OPENINGS = (
    "{test} fails in {package} {version}:",
    "Bug report for {package} {version}: the test {test} does not pass any more. It says:",
    "Since the last change to {package} ({version}), {test} is red:",
    "CI of {package} {version} stopped at {test} with",
)
CLOSINGS = (
    "Find the cause in the source and mend it. The tests are right.",
    "Please repair the package; leave the tests as they are.",
    "Mend the source so that this test and the others of its file pass.",
)

Bug = Mapping[str, Any]


@cache
def catalogue() -> dict[str, list[Bug]]:
    """Family (package-kind) -> bugs, as ``build`` found them. Raises TaskError where the pins have moved on."""
    text = resources.files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    found = json.loads(text)
    if found["versions"] != {package.name: package.version for package in PACKAGES.values()}:
        raise TaskError("swe: catalogue.json is of other versions: run python -m worldmodel.domains.swe.build")
    families: dict[str, list[Bug]] = {}
    for bug in found["bugs"]:
        families.setdefault(f"{bug['package']}-{bug['kind']}", []).append(bug)
    return families


def key(bug: Bug) -> str:
    return json.dumps([bug["package"], bug["path"], bug["edits"]])


def belongs(bug: Bug, split: str) -> bool:
    """Whether ``bug`` may be set in ``split``."""
    if (bug["package"] in HELD_OUT) != (split == "family"):
        return False
    held = zlib.crc32(key(bug).encode()) % HELD_SHARE == 0
    return split == "family" or held == (split == "heldout")


def families(split: str) -> dict[str, list[Bug]]:
    """Family -> its bugs in ``split``. Raises TaskError for an unknown split."""
    if split not in get_args(Split):
        raise TaskError(f"unknown split '{split}'; known: {', '.join(get_args(Split))}")
    chosen = {name: [bug for bug in bugs if belongs(bug, split)] for name, bugs in catalogue().items()}
    return {name: bugs for name, bugs in chosen.items() if bugs}


def generate(split: Split, count: int, seed: int) -> list[Task]:
    """``count`` tasks, families in rotation, each family's bugs in an order drawn from ``seed``. Equal arguments give
    equal tasks; splits share no seed. Raises ConfigError where the packages are not installed."""
    table = families(split)
    orders = {name: _shuffled(bugs, derive_seed("swe", "order", split, seed, name)) for name, bugs in table.items()}
    return list(_drawn(orders, split, count, seed))


def _shuffled(bugs: Sequence[Bug], seed: int) -> list[Bug]:
    order = list(bugs)
    random.Random(seed).shuffle(order)
    return order


def _drawn(orders: Mapping[str, list[Bug]], split: str, count: int, seed: int) -> Iterator[Task]:
    """A bug of each family in turn; a family that has no new one is passed over until all are through."""
    rounds = max(len(bugs) for bugs in orders.values())
    made = 0
    while True:
        for place in range(rounds):
            for name, bugs in orders.items():
                if place < len(bugs):
                    if made == count:
                        return
                    yield task(bugs[place], name, split, derive_seed("swe", split, seed, name, made), f"{seed}-{made}")
                    made += 1


def task(bug: Bug, family: str, split: str, seed: int, number: str) -> Task:
    """The exercise of one bug."""
    rng = random.Random(seed)
    files = list(dict.fromkeys(test.partition("::")[0] for test in bug["failing"]))
    wrong = [*(repair(bug, other) for other in bug["others"]), (call("shell", command=f"rm {files[0]}"),)]
    probe = call(PROBE, files=files, failing=bug["failing"])
    return Task(
        id=f"{family}-{split}-{number}", domain="swe", family=family, split=split, instruction=instruction(bug, rng),
        world=World(state(bug)), checks=(Check("tests", (probe,), Predicate("equals", PASSED)),),
        reference=Reference((*repair(bug, ()), call(FINAL)), tuple((*calls, call(FINAL)) for calls in wrong)),
        max_turns=MAX_TURNS, seed=seed,
    )  # fmt: skip


def instruction(bug: Bug, rng: random.Random) -> str:
    """An issue written from the failing test."""
    package = PACKAGES[bug["package"]]
    test = bug["failing"][0]
    opening = rng.choice(OPENINGS).format(test=test, package=package.name, version=package.version)
    more = len(bug["failing"]) > 1 and rng.random() < 0.5
    others = f"\n{bug['failing'][1]} fails too." if more else ""
    return f"{opening}\n\n    {bug['said'] or 'no message'}\n{others}\n{rng.choice(CLOSINGS)}"


def state(bug: Bug) -> dict[str, Any]:
    """The world: ``bug`` (what the pristine file's offsets become) is read by the real world alone."""
    package = PACKAGES[bug["package"]]
    files = dict(tree(package.name))
    path, edits = bug["path"], [Edit(*edit) for edit in bug["edits"]]
    text = apply(files[path], edits)
    lost = files[path].count("\n") - text.count("\n")
    files[path] = text
    first, last = bug["lines"]
    shown = [excerpt(path, text, first, min(last - lost, first + SHOWN_CODE - 1))]
    test, _, name = bug["failing"][0].partition("::")
    if lines := located(files[test], name.partition("[")[0].rpartition("::")[2]):
        shown.append(excerpt(test, files[test], *lines))
    return {
        "package": package.name, "version": package.version, "bug": {"path": path, "edits": bug["edits"]},
        "files": {name: text.count("\n") for name, text in files.items()}, "shown": shown,
    }  # fmt: skip


def excerpt(path: str, text: str, first: int, last: int) -> dict[str, Any]:
    """Lines as the read tool prints them."""
    lines = text.removesuffix("\n").split("\n")
    last = min(last, len(lines))
    shown = [f"{number:>5}  {lines[number - 1]}".rstrip() for number in range(first, last + 1)]
    if (first, last) != (1, len(lines)):
        shown.append(f"[lines {first}-{last} of {len(lines)}]")
    return {"path": path, "start": first, "end": last, "text": "\n".join(shown)}


def located(text: str, function: str) -> tuple[int, int] | None:
    """First and last line of a test function."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if re.match(rf"\s*(async )?def {re.escape(function)}\(", line):
            depth = len(line) - len(line.lstrip())
            last = number
            for later in range(number + 1, min(len(lines), number + SHOWN_TEST) + 1):
                body = lines[later - 1]
                if body.strip() and len(body) - len(body.lstrip()) <= depth and not body.lstrip().startswith(")"):
                    break
                last = later if body.strip() else last
            return number, last
    return None


def repair(bug: Bug, other: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """Edit calls that turn the bug into the pristine text, or into the wrong repair ``other``."""
    path = bug["path"]
    pristine = tree(bug["package"])[path]
    edits = sorted((Edit(*edit) for edit in bug["edits"]), key=lambda edit: edit.start)
    wanted = {edit[0]: edit[2] for edit in other}
    text = apply(pristine, edits)
    calls = []
    for index in reversed(range(len(edits))):
        edit = edits[index]
        start = edit.start + sum(len(e.new) - (e.stop - e.start) for e in edits[:index])
        new = wanted.get(edit.start, pristine[edit.start : edit.stop])
        if new == edit.new:
            continue
        old, replacement = unique(text, start, start + len(edit.new), new)
        calls.append(call("edit", path=path, old=old, new=replacement))
        text = text[:start] + new + text[start + len(edit.new) :]
    return tuple(calls)


def unique(text: str, start: int, stop: int, new: str) -> tuple[str, str]:
    """(old, new) of an edit of ``text[start:stop]``, with as many whole lines around it as make it unique."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", stop)
    last = len(text) if last < 0 else last
    while text.count(text[first:last]) > 1:
        first = text.rfind("\n", 0, max(0, first - 1)) + 1
        after = text.find("\n", last + 1)
        last = len(text) if after < 0 else after
    return text[first:last], text[first:start] + new + text[stop:last]
