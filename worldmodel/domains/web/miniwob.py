"""MiniWoB++ for evaluation: its pages in our browser, with the reward of the page as the verdict.

Owns: which pages are used, their tasks. Refuses: training data, simulators (``real.PAGE_REWARD`` is no action), and the
pages themselves, which set-up installs. The page states the goal: an instruction is complete once it has started.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.web.inside.session import MINIWOB
from worldmodel.domains.web.install import folder
from worldmodel.domains.web.real import PAGE_REWARD

SPLIT = "benchmark"  # none of the splits that training reads
MAX_TURNS = 20
INSTRUCTION = "Do what the page asks, then tell the user that you are done."
HTML = "miniwob/html"
# Nothing on these pages can be told apart without pixels, or they move while they are looked at.
PIXELS = frozenset(
    "ascending-numbers chase-circle click-color daily-calendar drag-items drag-items-grid grid-coordinate hot-cold "
    "hover-shape moving-items tic-tac-toe".split()
)


def pages() -> list[str]:
    """The names of the pages that are installed and can be used; [] before set-up."""
    found = sorted(path.stem for path in (folder() / HTML / "miniwob").glob("*.html"))
    return [name for name in found if name not in PIXELS]


def tasks(seeds: Sequence[int], names: Sequence[str] | None = None) -> list[Task]:
    """One task per page and seed. They have no known solution here: see ``miniwob_solver``."""
    return [make(name, seed) for name in (pages() if names is None else names) for seed in seeds]


def first(count: int) -> list[Task]:
    """At most ``count`` tasks, always the same first ones: every page once, then every page with the next seed."""
    names = pages()
    rounds = -(-count // len(names)) if names else 0
    return [make(name, seed) for seed in range(1, rounds + 1) for name in names][:count]


def make(page: str, seed: int) -> Task:
    state = {"site": MINIWOB, "folder": f"/opt/tools/{HTML}", "start": f"/miniwob/{page}.html", "seed": seed}
    return Task(
        id=f"miniwob/{page}-{seed}", domain="web", family=f"miniwob/{page}", split=SPLIT,
        instruction=INSTRUCTION, world=World(state),
        checks=(Check("reward", (PAGE_REWARD,), Predicate("equals", "1")),), reference=Reference(),
        max_turns=MAX_TURNS, seed=seed,
    )  # fmt: skip
