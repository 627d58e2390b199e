"""Installed versions against those this distribution asks for.

Owns: reading both from the packages' own metadata. Refuses: importing what it checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from launch.checks.finding import Problem

DISTRIBUTION = "agentworld-trainer"
STACK = ("torch", "transformers", "trl", "accelerate", "deepspeed", "ray", "datasets", "wandb")


def stack() -> str:
    """The training stack's versions. Raises Problem where one is missing or outside its declared range."""
    try:
        declared = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        declared = []  # a source tree on PYTHONPATH: nothing to compare with
    installed = {name: _version(name) for name in STACK}
    missing = [name for name, value in installed.items() if value is None]
    if missing:
        raise Problem(f"missing {', '.join(missing)}: pip install '{DISTRIBUTION}[train]'")
    wrong = outside(declared, {name: value for name, value in installed.items() if value is not None})
    if wrong:
        raise Problem(f"{'; '.join(wrong)}: pip install '{DISTRIBUTION}[train]'")
    return ", ".join(f"{name} {value}" for name, value in installed.items())


def outside(declared: Iterable[str], installed: dict[str, str]) -> list[str]:
    """``name version, asked for RANGE`` for each installed package outside the range that ``declared`` gives."""
    found = []
    for text in declared:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        have = installed.get(name)
        if have is not None and not requirement.specifier.contains(have, prereleases=True):
            found.append(f"{name} {have}, asked for {requirement.specifier}")
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
