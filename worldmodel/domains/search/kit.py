"""What the search folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.search import SEARCH
from worldmodel.domains.search.grammar import FINAL, call
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.search.real import SearchFactory

    return SearchFactory()


def _generate(split: Split, count: int, seed: int) -> list[Task]:
    from worldmodel.domains.search.tasks import generate

    return generate(split, count, seed)


def _missing() -> str:
    from worldmodel.domains.search.facts import missing

    return missing()


def _held_out() -> list[str]:
    from worldmodel.domains.search.families import HELD_OUT

    return [family.__name__ for family in HELD_OUT]


KIT = DomainKit(SEARCH, (call(FINAL, text="unknown"),), _real, _generate, _missing, held_out=_held_out, boxed=False)
