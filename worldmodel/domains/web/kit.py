"""What the web folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from collections.abc import Callable

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.web import DONE, WEB
from worldmodel.domains.web.dump import told
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.web.real import WebFactory

    return WebFactory()


def _generate(split: Split, count: int, seed: int) -> list[Task]:
    from worldmodel.domains.web.tasks import generate

    return generate(split, count, seed)


def _missing() -> str:
    from worldmodel.domains.web.install import missing

    return missing()


def _setup(say: Callable[[str], None]) -> None:
    from worldmodel.domains.web.install import setup

    setup(say)


def _held_out() -> tuple[str, ...]:
    from worldmodel.domains.web.tasks import HELD_OUT

    return HELD_OUT


def _miniwob(count: int) -> list[Task]:
    from worldmodel.domains.web.miniwob import first

    return first(count)


KIT = DomainKit(
    WEB, (DONE,), _real, _generate, _missing, _setup, sources={"miniwob": _miniwob}, held_out=_held_out, told=told
)
