"""What the search folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.behaviours import Behaviours
from worldmodel.domains import DomainKit
from worldmodel.domains.search import SEARCH
from worldmodel.domains.search.grammar import FINAL, call
from worldmodel.domains.search.scores import told
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.search.real import SearchFactory

    return SearchFactory()


def _generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    from worldmodel.domains.search.tasks import generate

    return generate(split, count, seed, families)


def _missing() -> str:
    from worldmodel.domains.search.facts import missing

    return missing()


def _behaviours() -> Behaviours:
    from worldmodel.domains.search.behaviours import search_behaviours

    return search_behaviours(EMPTY)


def _held_out() -> list[str]:
    from worldmodel.domains.search.families import HELD_OUT

    return [family.__name__ for family in HELD_OUT]


EMPTY = (call(FINAL, text="unknown"),)
KIT = DomainKit(
    SEARCH,
    EMPTY,
    _real,
    _generate,
    _missing,
    behaviours=_behaviours,
    of_families=_generate,
    held_out=_held_out,
    told=told,
    boxed=False,
)
