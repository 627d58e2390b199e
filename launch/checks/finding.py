"""What a check says.

Owns: ``Finding``, ``Problem`` and turning one into the other. Refuses: checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rollout.errors import AgentworldError


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``needed`` False: only some features miss it."""

    name: str
    ok: bool
    detail: str
    needed: bool = True


class Problem(Exception):
    """A check's negative result; the message says what to do."""


def found(name: str, check: Callable[[], str], needed: bool = True) -> Finding:
    """The result of ``check``. Anything but a Problem, a user-facing error or a package that is not installed is a bug
    and propagates."""
    try:
        return Finding(name, True, check(), needed)
    except (Problem, AgentworldError) as error:
        return Finding(name, False, str(error), needed)
    except ModuleNotFoundError as error:
        return Finding(name, False, f"{error.name} is not installed", needed)
