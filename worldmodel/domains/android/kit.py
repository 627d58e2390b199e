"""What the android folder offers (``worldmodel.domains``)."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.android import ANDROID, DONE
from worldmodel.domains.android.dump import told
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.android.real import AndroidFactory

    return AndroidFactory()


def _generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    from worldmodel.domains.android.tasks import generate

    return generate(split, count, seed, families)


def _missing() -> str:
    """The reference device is plain Python."""
    return ""


def _held_out() -> tuple[str, ...]:
    from worldmodel.domains.android.families_more import HELD_OUT

    return HELD_OUT


KIT = DomainKit(
    ANDROID, (DONE,), _real, _generate, _missing, of_families=_generate, held_out=_held_out, told=told, boxed=False
)
