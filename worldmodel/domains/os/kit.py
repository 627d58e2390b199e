"""What the os folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.os import OS
from worldmodel.domains.os.grammar import DONE
from worldmodel.installed import Say
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.os.real import OsFactory

    return OsFactory()


def _generate(split: Split, count: int, seed: int) -> list[Task]:
    from worldmodel.domains.os.tasks import generate

    return generate(split, count, seed)


def _missing() -> str:
    from worldmodel.domains.os.install import missing

    return missing()


def _setup(say: Say) -> None:
    from worldmodel.domains.os.install import setup

    setup(say)


def _held_out() -> tuple[str, ...]:
    from worldmodel.domains.os.families import HELD_OUT

    return tuple(HELD_OUT)


KIT = DomainKit(OS, (DONE,), _real, _generate, _missing, _setup, held_out=_held_out, slots=3)  # each is a desktop
