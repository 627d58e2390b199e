"""The JSONL task file of every domain, and the three splits.

Owns: the form of a task on disk and its validation. Refuses: making tasks (each domain does).
``train`` and ``heldout`` draw from disjoint seeds over the same families; ``family`` draws from families that no
training data of the policy or of the world model contains. Tasks of third-party benchmarks say ``benchmark``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rollout.errors import TaskError
from rollout.types import Check, Predicate, Reference, Task, World

Split = Literal["train", "heldout", "family"]
BENCHMARK = "benchmark"
PREDICATES = ("equals", "same_lines", "contains", "lacks", "regex")


def save(tasks: Iterable[Task], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(dataclasses.asdict(task)) + "\n" for task in tasks), encoding="utf-8")


def load(path: Path) -> list[Task]:
    """Tasks of a JSONL file. Raises TaskError naming file, line and field."""
    if not path.is_file():
        raise TaskError(f"{path}: no such task file")
    tasks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            tasks.append(from_dict(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            reason = f"missing field {error}" if isinstance(error, KeyError) else str(error)
            raise TaskError(f"{path}:{number}: {reason}") from error
    return tasks


def from_dict(row: dict[str, Any]) -> Task:
    """A task from its JSON form. Raises KeyError, TypeError or ValueError on a malformed one."""
    checks = tuple(_check(index, item) for index, item in enumerate(row["checks"]))
    if not checks:
        raise ValueError("checks: at least one check is needed")
    gold = tuple(row["reference"]["gold"])
    wrong = tuple(tuple(item) for item in row["reference"]["wrong"])
    world = World(state=row["world"]["state"], secret=row["world"].get("secret", ""))
    fields = {k: row[k] for k in ("id", "domain", "family", "split", "instruction", "max_turns", "seed")}
    return Task(**fields, world=world, checks=checks, reference=Reference(gold, wrong))


def _check(index: int, item: dict[str, Any]) -> Check:
    predicate = Predicate(item["predicate"]["kind"], item["predicate"]["value"])
    if predicate.kind not in PREDICATES:
        raise ValueError(f"checks[{index}].predicate.kind '{predicate.kind}' is not one of {', '.join(PREDICATES)}")
    if predicate.kind == "regex":
        try:
            re.compile(predicate.value)
        except re.error as error:
            raise ValueError(f"checks[{index}].predicate.value is not a regular expression: {error}") from error
    probes = tuple(item["probes"])
    if not probes or not all(isinstance(p, str) and p.strip() for p in probes):
        raise ValueError(f"checks[{index}].probes must be non-empty command texts")
    return Check(item["name"], probes, predicate)
