"""Makes ``catalogue.json``: bugs that the packages' own tests notice. ``python -m worldmodel.domains.swe.build``

Owns: drawing candidate bugs, trying each in a box on the tests that enter its function, the rows that are kept.
Refuses: package text in the catalogue: a row holds names, offsets, changed tokens and what a test said.

A bug is kept where at least one test now fails, every file is still collected and nothing hangs. A plausible wrong
repair (``others``) is kept on the same terms. A maintainer runs this where a pin in ``packages`` changes.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rollout.seeds import derive_seed
from worldmodel.domains.swe.mutate import (
    EMPTY,
    Edit,
    Function,
    apply,
    functions,
    one_token,
    parses,
    several_tokens,
    whole_body,
)
from worldmodel.domains.swe.packages import PACKAGES, Package, tree
from worldmodel.domains.swe.testing import Bench

GOALS = {"token": 100, "tokens": 45, "function": 50}  # rows of each kind for each package
SECONDS, CPU_SECONDS = 90.0, 8  # of one bug's tests
MAX_FAILING, MAX_MESSAGE, MAX_SHARE = 3, 200, 4  # bugs of one kind in one function at most


class Trier:
    """Tries bugs of one package in one box."""

    def __init__(self, package: Package, box: Bench) -> None:
        self._box = box
        self.files = tree(package.name)
        runs = [box.run(list(package.tests), 300.0, trace=list(package.code)), box.run(list(package.tests), 300.0)]
        stable = {
            name for name, seen in runs[0]["outcomes"].items() if seen == runs[1]["outcomes"].get(name) == "passed"
        }
        self.covering: dict[str, list[tuple[int, str]]] = defaultdict(list)  # path -> (line, test that enters it)
        for test, entered in runs[0]["entered"].items():
            for place in entered if test in stable else ():
                path, _, line = place.rpartition(":")
                self.covering[path].append((int(line), test))
        self.stable = stable

    def tests(self, path: str, function: Function) -> list[str]:
        first, last = function.lines
        return sorted({test.partition("[")[0] for line, test in self.covering[path] if first <= line <= last})

    def noticed(self, path: str, edits: Sequence[Edit], tests: Sequence[str]) -> tuple[list[str], str] | None:
        """(failing tests, what the first one said), or None where the bug is none or breaks collection."""
        if not tests or not parses(apply(self.files[path], edits)):
            return None
        changes = {path: [[edit.start, edit.stop, edit.new] for edit in edits]}
        reply = self._box.run(list(tests), SECONDS, edits=changes, cpu=CPU_SECONDS, bytecode=True)
        if reply["end"] != "ok":
            return None
        failing = [name for name, seen in reply["outcomes"].items() if seen == "failed"]
        if not failing or not set(failing) <= self.stable:
            return None
        return failing, said(reply["messages"].get(failing[0], ""))


def said(message: str) -> str:
    """The first line of a test's error, short and without what differs from run to run."""
    line = next((line for line in message.splitlines() if line.strip()), "")
    line = re.sub(r"0x[0-9a-f]+", "0x0", line)
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."


def candidates(functions_: Mapping[str, list[Function]], kind: str, rng: random.Random) -> list[Any]:
    """(path, function, edits) in random order."""
    found: list[tuple[str, Function, tuple[Edit, ...]]] = []
    for path, members in functions_.items():
        for function in members:
            if kind == "token":
                found += [(path, function, edits) for edits in one_token(function)]
            elif kind == "function":
                found.append((path, function, whole_body(function)))
            else:
                drawn = (several_tokens(function, rng) for _ in range(8))
                found += [(path, function, edits) for edits in drawn if edits]
    rng.shuffle(found)
    return found


def others(kind: str, function: Function, edits: tuple[Edit, ...]) -> Iterator[tuple[Edit, ...]]:
    """Wrong repairs: another token in the place, one of several left as it is, a body that does nothing."""
    if kind == "token":
        for place in function.places:
            if place.start == edits[0].start:
                yield from ((Edit(place.start, place.stop, new),) for new in place.choices if new != edits[0].new)
    elif kind == "function":
        yield whole_body(function, EMPTY)
    else:
        yield from ((edit,) for edit in edits)


def rows(package: Package) -> Iterator[dict[str, Any]]:
    """Kept bugs of one package."""
    rng = random.Random(derive_seed("swe", "catalogue", package.name))
    sources = {path: functions(text) for path, text in tree(package.name).items() if package.is_code(path)}
    with Bench(package, tree(package.name)) as box:
        trier = Trier(package, box)
        for kind, goal in GOALS.items():
            kept, used = 0, defaultdict[str, int](int)
            for path, function, edits in candidates(sources, kind, rng):
                place = f"{path}:{function.lines[0]}" + (f":{edits[0].start}" if kind == "token" else "")
                if kept >= goal or used[place] >= (1 if kind == "token" else MAX_SHARE):
                    continue
                tests = trier.tests(path, function)
                if (found := trier.noticed(path, edits, tests)) is None:
                    continue
                used[place] += 1
                kept += 1
                tried = (other for other in others(kind, function, edits) if trier.noticed(path, other, tests))
                wrong = list(islice(tried, 1))
                yield row(package, kind, path, function, edits, found, wrong)
            print(f"{package.name} {kind}: {kept}", file=sys.stderr, flush=True)


def row(
    package: Package, kind: str, path: str, function: Function, edits: Sequence[Edit],
    found: tuple[list[str], str], wrong: Sequence[Sequence[Edit]],
) -> dict[str, Any]:  # fmt: skip
    def plain(some: Sequence[Edit]) -> list[list[int | str]]:
        return [[edit.start, edit.stop, edit.new] for edit in some]

    return {
        "package": package.name, "kind": kind, "path": path, "function": function.name,
        "lines": list(function.lines), "edits": plain(edits),
        "failing": found[0][:MAX_FAILING], "said": found[1], "others": [plain(other) for other in wrong],
    }  # fmt: skip


def main() -> None:
    """Packages to try again may be named; the rows of the others stay."""
    target = Path(__file__).with_name("catalogue.json")
    chosen = sys.argv[1:] or list(PACKAGES)
    kept = json.loads(target.read_text(encoding="utf-8"))["bugs"] if target.exists() else []
    bugs = [bug for bug in kept if bug["package"] not in chosen]
    for name in chosen:
        bugs += rows(PACKAGES[name])
    bugs.sort(key=lambda bug: list(PACKAGES).index(bug["package"]))
    versions = {package.name: package.version for package in PACKAGES.values()}
    lines = ",\n".join(json.dumps(bug, ensure_ascii=False) for bug in bugs)
    target.write_text(f'{{"versions": {json.dumps(versions)}, "bugs": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
