"""Choosing a bug for each HumanEval problem: ``python -m worldmodel.domains.swe.humaneval_build``.

Owns: trying mutations of a solution against its tests, in a box; writing ``humaneval.json``. Refuses: anything at run
time. The order in which mutations are tried is drawn from the problem's number, so the outcome repeats.

A bug is one other token in the function's body that the tests notice twice; several tokens where no single one will do;
else none, and the problem is left out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from rollout.seeds import derive_seed
from worldmodel.domains.swe.humaneval import HIDDEN, MODULE, PACKAGE, TEST, WHEEL, Problem, files, problems
from worldmodel.domains.swe.mutate import Edit, apply, functions, one_token, parses, several_tokens
from worldmodel.domains.swe.testing import Bench

SECONDS = 10.0
TRIES = 60  # mutations of one problem
OUT = Path(__file__).with_name("humaneval.json")


def candidates(problem: Problem) -> Iterator[tuple[Edit, ...]]:
    """Mutations of the function's body in the order in which they are tried."""
    rng = random.Random(derive_seed("humaneval", problem.number))
    function = next(found for found in functions(problem.module) if found.name == problem.entry)
    single = one_token(function)
    rng.shuffle(single)
    yield from single
    for _ in range(TRIES):
        if edits := several_tokens(function, rng):
            yield edits


def outcome(bench: Bench, problem: Problem, edits: tuple[Edit, ...]) -> str:
    """``passed``, ``failed``, or how else the test ended."""
    changes = {MODULE: [[edit.start, edit.stop, edit.new] for edit in edits]}
    reply = bench.run([TEST], SECONDS, edits=changes)
    return str(reply.get("outcomes", {}).get(HIDDEN, reply["end"]))


def chosen(problem: Problem) -> tuple[Edit, ...] | None:
    """The first mutation that the tests notice twice in a row; None where there is none or the solution fails."""
    with Bench(PACKAGE, {**files(problem.module), TEST: problem.hidden}) as bench:
        if outcome(bench, problem, ()) != "passed":
            return None
        for number, edits in enumerate(candidates(problem)):
            if number == TRIES:
                return None
            text = apply(problem.module, edits)
            if not parses(text) or text == problem.module:
                continue
            if outcome(bench, problem, edits) == outcome(bench, problem, edits) == "failed":
                return edits
    return None


def main() -> None:
    found = {}
    for problem in problems():
        edits = chosen(problem)
        if edits is None:
            print(f"no bug for {problem.number}", flush=True)
        else:
            found[problem.number] = [[edit.start, edit.stop, edit.new] for edit in edits]
    rows = ",\n".join(f'"{number}": {json.dumps(edits)}' for number, edits in found.items())
    OUT.write_text(f'{{"sha256": "{WHEEL.sha256}", "bugs": {{\n{rows}\n}}}}\n', encoding="utf-8")
    print(f"{len(found)} of {len(problems())} problems have a bug")


if __name__ == "__main__":
    main()
