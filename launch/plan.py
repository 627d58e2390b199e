"""The sizes of a quickstart: the full one, and the one that only goes through every stage.

Owns: how much of everything. Refuses: doing any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from launch.warm import WarmRecipe
from launch.world import Round, WorldRecipe
from worldmodel.mixture import Weights


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of everything. ``mix``: the weights of the domains that it is about. ``config``: the file in ``configs/``
    that says the rest of policy RL and how the world model is asked."""

    mix: Weights = field(default_factory=lambda: {"terminal": 1.0})
    config: str = "quickstart.yaml"
    world: WorldRecipe = field(default_factory=WorldRecipe)
    warm: WarmRecipe = field(default_factory=WarmRecipe)
    measured_sessions: int = 400
    transitions: int = 2000
    free_sessions: int = 100
    verdict_tasks: int = 112
    train_tasks: int = 450
    validation_tasks: int = 120
    heldout_tasks: int = 240
    family_tasks: int = 60
    rl_batches: int = 24
    rl_groups: int = 16


FULL = Plan()
SMOKE = Plan(
    world=WorldRecipe(episodes=60, rounds=(Round(10.0, 1.5e-3),), vocabulary=600, compile=False),
    warm=WarmRecipe(demonstrations=60),
    measured_sessions=40,
    transitions=100,
    free_sessions=5,
    verdict_tasks=20,
    train_tasks=20,
    validation_tasks=10,
    heldout_tasks=20,
    family_tasks=4,
    rl_batches=2,
    rl_groups=4,
)
