"""The domains: one folder is one domain, found by being there.

Owns: what a folder must offer (``DomainKit``, as ``KIT`` in its ``kit.py``), finding it, and the one factory that
starts the real world of whatever domain a task names. Refuses: knowing any of them.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from rollout.errors import ConfigError
from rollout.protocols import EnvFactory, Environment
from rollout.types import Task
from worldmodel.behaviours import Behaviours, default
from worldmodel.tasks import Split
from worldmodel.types import Domain, Told, tells_nothing


@dataclass(frozen=True, slots=True)
class DomainKit:
    """What a domain's folder offers. The three functions import what they need when they are called, so that a folder
    loads in milliseconds without its extra.

    ``empty``: what a policy that does nothing says. ``real``: the factory of its real environment.
    ``generate(split, count, seed)``: own tasks; equal arguments give equal tasks. ``missing``: '', or one line that
    says what the real environment lacks on this machine and how to get it. ``setup``: gets what only this domain needs
    (system packages, servers, corpora), or None where its extra is all; raises ConfigError. ``behaviours``: how traces
    are collected, where the default ones (``worldmodel.behaviours``) are not enough. ``of_families``: ``generate`` for
    the families named, where they can be chosen. ``told``: the replies to probes that read the policy's own words
    alone, such as its answer, equal to those of ``real``.

    ``sources``: third-party benchmarks by name; each gives at most so many tasks, always the same first ones, of split
    ``benchmark`` with ids that begin with ``NAME/``. They are evaluation data (``worldmodel.trainable``), as are the
    families that ``held_out`` names, which are those of the split ``family``. ``boxed``: episodes run in the sandbox.
    ``max_tokens``, ``max_context``: what an evaluated policy may write in a turn and read in an episode, in tokens.
    ``slots``: episodes that a worker may have in its real environment at once, where each is a heavy thing to hold.
    """

    domain: Domain
    empty: tuple[str, ...]
    real: Callable[[], EnvFactory]
    generate: Callable[[Split, int, int], list[Task]]
    missing: Callable[[], str]
    setup: Callable[[Callable[[str], None]], None] | None = None
    behaviours: Callable[[], Behaviours] | None = None
    of_families: Callable[[Split, int, int, Sequence[str]], list[Task]] | None = None
    sources: Mapping[str, Callable[[int], list[Task]]] = field(default_factory=dict)
    held_out: Callable[[], Collection[str]] = tuple
    told: Told = tells_nothing
    boxed: bool = True
    max_tokens: int = 256
    max_context: int = 16384
    slots: int = 64


def names() -> tuple[str, ...]:
    """Every domain that has a folder, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def kit(name: str) -> DomainKit:
    """The kit of domain ``name``. Raises ConfigError with the nearest name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names())}"
        raise ConfigError(f"domain: no domain is called {name!r}{hint}")
    found: DomainKit = import_module(f"{__name__}.{name}.kit").KIT
    return found


def behaviours(name: str) -> Behaviours:
    """How traces of domain ``name`` are collected: its own way, or the default one. Raises ConfigError."""
    found = kit(name)
    return found.behaviours() if found.behaviours else default(found.domain, found.empty)


@dataclass
class RealWorlds:
    """Picklable ``EnvFactory`` over the real environments of all domains: the task says which. Each domain's factory
    is made at its first task in a process, and left out of the pickle."""

    _made: dict[str, EnvFactory] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, task: Task, seed: int) -> Environment:
        if task.domain not in self._made:
            self._made[task.domain] = kit(task.domain).real()
        return self._made[task.domain](task, seed)

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}
