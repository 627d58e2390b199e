"""Mixtures of domains: how many of each, and in which order.

Owns: reading ``a,b``, ``all`` and ``a=2,b=1``, sharing a count out, and task lists in which the domains alternate.
Refuses: making tasks (each domain does). One domain alone is a mixture in the domain's own order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from rollout.errors import ConfigError
from rollout.types import Task
from worldmodel.domains import kit, names
from worldmodel.tasks import Split

ALL = "all"
Weights = Mapping[str, float]
T = TypeVar("T")


def parse(domains: str, mix: str = "") -> dict[str, float]:
    """Weights by domain. ``domains``: names with commas, or all; ``mix``: ``name=weight`` with commas, 1 where not
    named. Raises ConfigError, one line."""
    chosen = list(names()) if domains.strip() == ALL else [name.strip() for name in domains.split(",") if name.strip()]
    if not chosen:
        raise ConfigError(f"domain: name at least one of {', '.join(names())}, or {ALL}")
    found = {kit(name).domain.name: 1.0 for name in chosen}
    for item in filter(None, (item.strip() for item in mix.split(","))):
        name, _, weight = item.partition("=")
        if name not in found:
            raise ConfigError(f"mix: {name!r} is not among the domains asked for ({', '.join(found)})")
        try:
            found[name] = float(weight)
        except ValueError:
            raise ConfigError(f"mix: write {name}=2, not {item!r}") from None
        if not 0 < found[name] < float("inf"):
            raise ConfigError(f"mix: the weight of {name} must be above 0")
    return found


def of(tasks: Iterable[Task]) -> dict[str, float]:
    """The mixture that ``tasks`` are."""
    return {name: float(count) for name, count in Counter(task.domain for task in tasks).items()}


def shares(weights: Weights, count: int) -> dict[str, int]:
    """``count`` in whole numbers in proportion to ``weights`` (largest remainders; the first of equals)."""
    total = sum(weights.values())
    exact = {name: count * weight / total for name, weight in weights.items()}
    found = {name: int(value) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: found[name] - exact[name])[: count - sum(found.values())]
    return {name: number + (name in rest) for name, number in found.items()}


def generate(weights: Weights, split: Split, count: int, seed: int, left_out: Collection[str] = ()) -> list[Task]:
    """``count`` own tasks of the domains in ``weights``, spread evenly, without the families in ``left_out``, which may
    name their domain (``family``)."""
    parts = [_some(name, split, number, seed, left_out) for name, number in shares(weights, count).items() if number]
    return _unlike(alternating(parts))


def family(task: Task) -> str:
    """The name of a task's family among those of all domains."""
    return f"{task.domain}/{task.family}"


def _unlike(tasks: Sequence[Task]) -> list[Task]:
    """Two domains may give the same id: tasks are told apart by it, so the later one names its domain."""
    seen: set[str] = set()
    found = []
    for task in tasks:
        found.append(replace(task, id=f"{task.domain}-{task.id}") if task.id in seen else task)
        seen.add(task.id)
    return found


def alternating(parts: Sequence[Sequence[T]]) -> list[T]:
    """The items of all ``parts``, each part in its order and spread evenly over the whole."""
    placed = [((at + 0.5) / len(part), which, item) for which, part in enumerate(parts) for at, item in enumerate(part)]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def _some(domain: str, split: Split, count: int, seed: int, left_out: Collection[str]) -> list[Task]:
    found = kit(domain)
    tasks = found.generate(split, count, seed)
    if all(_wanted(task, left_out) for task in tasks):
        return tasks
    families = list(dict.fromkeys(task.family for task in tasks if _wanted(task, left_out)))
    if not families:
        return []
    if found.of_families is not None:
        return found.of_families(split, count, seed, families)
    drawn = count
    while len(kept := [task for task in tasks if _wanted(task, left_out)]) < count and drawn < 64 * count:
        drawn *= 2
        tasks = found.generate(split, drawn, seed)
    return kept[:count]


def _wanted(task: Task, left_out: Collection[str]) -> bool:
    return task.family not in left_out and family(task) not in left_out
