"""Choosing a bug for each HumanEval problem: ``python -m worldmodel.domains.swe.humaneval_build``.

Owns: trying mutations of a solution against its tests, in a box; writing ``humaneval.json``. Refuses: anything at run
time. The order in which mutations are tried is drawn from the problem's number, so the outcome repeats.

A bug is one other token in the function's body that the tests notice twice; several tokens where no single one will do;
else a returned value that is cut, negated or undone; else the problem is left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from rollout.seeds import derive_seed
from worldmodel.domains.swe.humaneval import HIDDEN, MODULE, PACKAGE, TEST, WHEEL, Problem, bugs, files, problems
from worldmodel.domains.swe.mutate import Edit, apply, functions, line_starts, one_token, parses, several_tokens
from worldmodel.domains.swe.testing import Bench

SECONDS = 10.0
TRIES = 60  # mutations of tokens, of one problem
SPOILT = (("(", ")[:-1]"), ("(", ")[1:]"), ("-(", ")"), ("not (", ")"))
OUT = Path(__file__).with_name("humaneval.json")


def candidates(problem: Problem) -> Iterator[tuple[Edit, ...]]:
    """Mutations of the function's body in the order in which they are tried."""
    rng = random.Random(derive_seed("humaneval", problem.number))
    function = next(found for found in functions(problem.module) if found.name == problem.entry)
    single = one_token(function)
    rng.shuffle(single)
    several = (several_tokens(function, rng) for _ in range(TRIES))
    yield from islice(chain(single, filter(None, several)), TRIES)
    yield from returned(problem)


def returned(problem: Problem) -> Iterator[tuple[Edit, ...]]:
    """Other values for each ``return`` of the function; never one of an inner function's alone."""
    text = problem.module
    starts, lines = line_starts(text), text.split("\n")

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    top = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == problem.entry)
    for node in ast.walk(top):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.expr):
            value = node.value
            first = place(value.lineno, value.col_offset)
            last = place(value.end_lineno or value.lineno, value.end_col_offset or 0)
            for before, after in SPOILT:
                yield Edit(first, first, before), Edit(last, last, after)


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
        for edits in candidates(problem):
            text = apply(problem.module, edits)
            if not parses(text) or text == problem.module:
                continue
            if outcome(bench, problem, edits) == outcome(bench, problem, edits) == "failed":
                return edits
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="keep the bugs of all others")
    only = parser.parse_args().only
    found = {} if only is None else {n: [[e.start, e.stop, e.new] for e in edits] for n, edits in bugs().items()}
    for problem in problems():
        if only is not None and problem.number not in only:
            continue
        edits = chosen(problem)
        if edits is None:
            print(f"no bug for {problem.number}", flush=True)
        else:
            found[problem.number] = [[edit.start, edit.stop, edit.new] for edit in edits]
    rows = ",\n".join(f'"{number}": {json.dumps(edits)}' for number, edits in sorted(found.items()))
    OUT.write_text(f'{{"sha256": "{WHEEL.sha256}", "bugs": {{\n{rows}\n}}}}\n', encoding="utf-8")
    print(f"{len(found)} of {len(problems())} problems have a bug")


if __name__ == "__main__":
    main()
