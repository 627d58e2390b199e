"""Makes ``catalogue.json``: bugs that the packages' own tests notice. ``python -m worldmodel.domains.swe.build``

Owns: drawing candidate bugs, trying each in a box on the tests that enter its function, the rows that are kept.
Refuses: package text in the catalogue: a row holds names, offsets, changed tokens and what a test said.

A bug is kept where at least one test now fails, every file is still collected and nothing hangs. A plausible wrong
repair (``others``) is kept on the same terms. A maintainer runs this where a pin in ``packages`` changes, for all
packages or for those named (``toolz``, ``toolz:function``). What a trial found is kept in the cache folder, so a run
that was cut off goes on where it was, and the catalogue is written as it grows.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rollout.seeds import derive_seed
from worldmodel import installed
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
from worldmodel.domains.swe.testing import LIMITS, Bench

GOALS = {"token": 100, "tokens": 45, "function": 50}  # rows of each kind for each package
SECONDS, CPU_SECONDS = 90.0, 8  # of one bug's tests
BASELINE_SECONDS = 900  # of all tests, traced
MAX_FAILING, MAX_MESSAGE, MAX_SHARE = 3, 200, 4  # bugs of one kind in one function at most
MAX_TESTS = 40  # test functions that one bug is tried on: those that enter the fewest functions
AT_ONCE = 3  # boxes
EVERY = 10  # rows after which the catalogue is written

Found = tuple[list[str], str]  # failing tests, what the first one said
Row = dict[str, Any]


class Trier:
    """Tries bugs of one package in one box. ``journal``: what earlier trials found, one JSON line each."""

    def __init__(self, package: Package, files: Mapping[str, str], box: Bench, journal: Path) -> None:
        self._box, self._files = box, files
        runs = [
            box.run(list(package.tests), float(BASELINE_SECONDS), trace=trace) for trace in (list(package.code), [])
        ]
        traced, plain = (run["outcomes"] for run in runs)
        self.stable = {name for name, seen in traced.items() if seen == plain.get(name) == "passed"}
        self._covering: dict[str, list[tuple[int, str]]] = defaultdict(list)  # path -> (line, test that enters it)
        self._breadth: dict[str, int] = {}  # test function -> how many functions it enters
        for test, entered in runs[0]["entered"].items():
            name = test.partition("[")[0]
            self._breadth[name] = max(len(entered), self._breadth.get(name, 0))
            for place in entered if test in self.stable else ():
                path, _, line = place.rpartition(":")
                self._covering[path].append((int(line), name))
        self._journal = journal
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        self._known: dict[str, Found | None] = dict(json.loads(line) for line in lines)

    def tests(self, path: str, function: Function) -> list[str]:
        """Test functions that enter ``function``."""
        first, last = function.lines
        found = {test for line, test in self._covering[path] if first <= line <= last}
        return sorted(sorted(found, key=lambda test: (self._breadth[test], test))[:MAX_TESTS])

    def noticed(self, path: str, edits: Sequence[Edit], tests: Sequence[str]) -> Found | None:
        """(failing tests, what the first one said), or None where the bug is none or breaks collection."""
        if not tests or not parses(apply(self._files[path], edits)):
            return None
        changes = [[edit.start, edit.stop, edit.new] for edit in edits]
        key = hashlib.sha256(json.dumps([path, changes, list(tests)]).encode()).hexdigest()[:24]
        if key not in self._known:
            self._known[key] = self._try({path: changes}, tests)
            with self._journal.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, self._known[key]]) + "\n")
        return self._known[key]

    def _try(self, changes: Mapping[str, Any], tests: Sequence[str]) -> Found | None:
        reply = self._box.run(list(tests), SECONDS, edits=changes, cpu=CPU_SECONDS, bytecode=True)
        if reply["end"] != "ok":
            return None
        failing = [name for name, seen in reply["outcomes"].items() if seen == "failed"]
        if not failing or not set(failing) <= self.stable:
            return None
        return failing[:MAX_FAILING], said(reply["messages"].get(failing[0], ""))


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


def rows(package: Package, kinds: Sequence[str], journal: Path) -> Iterator[Row]:
    """Kept bugs of one package."""
    files = tree(package.name)
    sources = {path: functions(text) for path, text in files.items() if package.is_code(path)}
    with Bench(package, files, replace(LIMITS, cpu_seconds=BASELINE_SECONDS)) as box:
        trier = Trier(package, files, box, journal)
        print(f"{package.name}: {len(trier.stable)} tests pass", file=sys.stderr, flush=True)
        for kind in kinds:
            kept = 0
            for bug in bugs_of(package, kind, sources, trier):
                yield bug
                kept += 1
            print(f"{package.name} {kind}: {kept}", file=sys.stderr, flush=True)


def bugs_of(package: Package, kind: str, sources: Mapping[str, list[Function]], trier: Trier) -> Iterator[Row]:
    rng = random.Random(derive_seed("swe", "catalogue", package.name, kind))
    used: dict[str, int] = defaultdict(int)
    tried: set[tuple[str, tuple[Edit, ...]]] = set()
    kept = 0
    for path, function, edits in candidates(sources, kind, rng):
        place = f"{path}:{function.lines[0]}" + (f":{edits[0].start}" if kind == "token" else "")
        if used[place] >= (1 if kind == "token" else MAX_SHARE) or (path, edits) in tried:
            continue
        tried.add((path, edits))
        tests = trier.tests(path, function)
        if (found := trier.noticed(path, edits, tests)) is None:
            continue
        used[place] += 1
        judged = [test for test in tests if test.partition("::")[0] in files_of(found[0])]  # the verdict runs no others
        wrong = (other for other in others(kind, function, edits) if trier.noticed(path, other, judged))
        yield row(package, kind, path, function, edits, found, list(islice(wrong, 1)))
        kept += 1
        if kept == GOALS[kind]:
            return


def files_of(tests: Sequence[str]) -> set[str]:
    return {test.partition("::")[0] for test in tests}


def row(
    package: Package, kind: str, path: str, function: Function, edits: Sequence[Edit],
    found: Found, wrong: Sequence[Sequence[Edit]],
) -> Row:  # fmt: skip
    def plain(some: Sequence[Edit]) -> list[list[int | str]]:
        return [[edit.start, edit.stop, edit.new] for edit in some]

    return {
        "package": package.name, "kind": kind, "path": path, "function": function.name,
        "lines": list(function.lines), "edits": plain(edits),
        "failing": found[0], "said": found[1], "others": [plain(other) for other in wrong],
    }  # fmt: skip


def write(target: Path, bugs: Sequence[Row]) -> None:
    """All at once, packages in the order of their pins, kinds in that of the goals."""
    order, kinds = list(PACKAGES), list(GOALS)
    bugs = sorted(bugs, key=lambda bug: (order.index(bug["package"]), kinds.index(bug["kind"])))
    versions = {package.name: package.version for package in PACKAGES.values()}
    lines = ",\n".join(json.dumps(bug, ensure_ascii=False) for bug in bugs)
    partial = target.with_suffix(".partial")
    partial.write_text(f'{{"versions": {json.dumps(versions)}, "bugs": [\n{lines}\n]}}\n', encoding="utf-8")
    partial.replace(target)


def main() -> None:
    """Packages, or PACKAGE:KIND, to try again may be named; the other rows stay. ``AT_ONCE`` of them together."""
    target = Path(__file__).with_name("catalogue.json")
    journals = installed.folder("swe-build")
    journals.mkdir(parents=True, exist_ok=True)
    words = [word.partition(":") for word in sys.argv[1:] or PACKAGES]
    chosen = [(name, [kind] if kind else list(GOALS)) for name, _, kind in words]
    bugs = json.loads(target.read_text(encoding="utf-8"))["bugs"] if target.exists() else []
    bugs = [bug for bug in bugs if not any(bug["package"] == name and bug["kind"] in kinds for name, kinds in chosen)]
    lock = threading.Lock()

    def fill(name: str, kinds: Sequence[str]) -> None:
        for bug in rows(PACKAGES[name], kinds, journals / f"{name}.jsonl"):
            with lock:
                bugs.append(bug)
                if len(bugs) % EVERY == 0:
                    write(target, bugs)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for job in [pool.submit(fill, *one) for one in chosen]:
            job.result()
    write(target, bugs)


if __name__ == "__main__":
    main()
