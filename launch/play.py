"""``agentworld play``: a person acts in a world, or is the world for a known policy, in a terminal.

Owns: one episode with a person in it, and printing its verdict. Refuses: reading texts (``launch.person``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.agents import scripted
from launch.console import say
from launch.errors import UserError
from launch.person import Person, PersonWorld, heading
from launch.worlds import real, simulated, world_model_config
from rollout.episode import EpisodeSettings, run_episode
from rollout.protocols import EnvFactory
from rollout.reward.checks import ChecksReward
from rollout.samplers.text import MAX_MESSAGES, Speaker, TextSampler
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.store import write_trajectories
from rollout.types import Sampling, Task, Trajectory
from worldmodel.domains import kit
from worldmodel.environment import SimulatedFactory, SimulationSettings
from worldmodel.tasks import Split

PATIENCE = 86_400.0  # seconds that a person may think
VERIFY = 600.0  # seconds for the probes of any other world
REPLY = 200  # characters shown of what a failed check saw


@dataclass(frozen=True, slots=True)
class Game:
    """``role``: what the person is. ``world``: where a person who is the policy acts; ``world_model`` (folder or URL),
    ``served_model``, ``dialect``: the simulator."""

    domain: str
    task_seed: int = 0
    split: Split = "heldout"
    role: Literal["policy", "world"] = "policy"
    world: Literal["real", "sim"] = "real"
    world_model: str = ""
    served_model: str = ""
    dialect: str | None = None


def play(game: Game, out: Path | None = None) -> Trajectory:
    """One episode, its verdict printed, the trajectory written to ``out``. Raises AgentworldError, one line: also where
    the input ends before the episode does."""
    if out is not None and out.exists():
        raise UserError(f"{out}: exists already")
    if game.role == "world" and (game.world == "sim" or game.world_model):
        raise UserError("--as world: you are the world; leave out --world and --world-model")
    if game.role == "policy" and (game.world == "sim") != bool(game.world_model):
        raise UserError("--world sim and --world-model belong together")
    task = kit(game.domain).generate(game.split, 1, game.task_seed)[0]
    heading(f"task {task.id}, at most {task.max_turns} turns")
    world = _world(game, task)
    trajectory = asyncio.run(_episode(game, task, world))
    _verdict(trajectory)
    if out is not None:
        write_trajectories(out, [trajectory])
        say(f"trajectory in {out}")
    return trajectory


def _world(game: Game, task: Task) -> EnvFactory:
    """Raises AgentworldError, one line, where it cannot be there."""
    if game.role == "world":
        settings = SimulationSettings(verdict_samples=1, deadline_seconds=PATIENCE)
        return SimulatedFactory(None, PersonWorld, settings)
    if game.world == "sim":
        return simulated(world_model_config(game.world_model, game.served_model, game.dialect))
    return real([task.domain])


async def _episode(game: Game, task: Task, world: EnvFactory) -> Trajectory:
    speaker: Speaker = Person() if game.role == "policy" else scripted("gold", [task], game.task_seed)()
    sampler = TextSampler(speaker)
    settings = EpisodeSettings(
        max_context=MAX_MESSAGES,
        call_timeout=PATIENCE,
        turn_timeout=PATIENCE,
        episode_timeout=PATIENCE,
        verify_timeout=PATIENCE if game.role == "world" else VERIFY,
    )
    try:
        return await run_episode(
            task,
            world(task, derive_seed(game.task_seed, "play", task.id)),
            sampler,
            sampler,
            ChecksReward(),
            settings,
            group="play",
            member=0,
            seed=game.task_seed,
            sampling=Sampling(0.0),
        )
    finally:
        if isinstance(world, SimulatedFactory):
            await world.close()


def _verdict(trajectory: Trajectory) -> None:
    """What was seen last, how it ended, and what each check found."""
    if trajectory.turns and (last := trajectory.turns[-1].observation.text):
        heading("observation")
        say(last)
    verdict = None if trajectory.stop.failed else success(trajectory.results)
    words = {True: "success", False: "failure", None: "no verdict"}
    why = f": {trajectory.error}" if trajectory.error else ""
    heading(f"{words[verdict]} after {len(trajectory.turns)} turns ({trajectory.stop.value}{why})")
    marks = {True: "passed", False: "FAILED", None: "open  "}
    for result in trajectory.results:
        seen = "" if result.passed else result.reason or " | ".join(" ".join(reply.split()) for reply in result.replies)
        say(f"{marks[result.passed]}  {result.name}" + (f": {seen[:REPLY]}" if seen else ""))
