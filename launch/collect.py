"""``agentworld collect``: recorded sessions of the real terminal, from Ray workers to one folder.

Owns: sharing a collection out, its manifest's facts, progress. Refuses: what a session does (``worldmodel.traces``).
The result does not depend on the number of workers: every session is a function of (split, seed, index).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launch.errors import UserError
from worldmodel.episodes import MANIFEST, EpisodeWriter, read_manifest
from worldmodel.tasks import Split
from worldmodel.traces import collect_share
from worldmodel.types import Episode

DISTRIBUTION = "agentworld-trainer"


def collect(
    out: Path, split: Split, episodes: int, seed: int, workers: int, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Record ``episodes`` sessions into ``out``; returns the manifest. Raises UserError where ``out`` is taken and
    SandboxError where no machine can be had; in both cases, and on any other failure, no episodes are left there."""
    if (out / MANIFEST).exists():
        raise UserError(f"{out}: holds finished traces already; choose another --out or delete it")
    facts = {"command": f"agentworld collect --split {split} --episodes {episodes} --seed {seed}"}
    began = time.monotonic()
    done = 0
    with EpisodeWriter(out, {**facts, "seed": seed, "split": split, "versions": versions()}) as writer:
        for share in _shares(split, seed, episodes, workers):
            for episode in share:
                writer.write(episode)
            done += len(share)
            say(f"collected {done} of {episodes} sessions in {time.monotonic() - began:.0f} s")
    manifest = read_manifest(out)
    seconds = time.monotonic() - began
    say(f"{manifest['n_transitions']} transitions, {manifest['n_transitions'] / seconds:.0f} a second, in {out}")
    return manifest


def versions() -> dict[str, str]:
    """What produced a file: our version and code, and the interpreter's."""
    import platform

    from rollout.worker import code_fingerprint

    try:
        ours = version(DISTRIBUTION)
    except PackageNotFoundError:
        ours = "not installed"
    return {DISTRIBUTION: ours, "code": code_fingerprint(), "python": platform.python_version()}


def _shares(split: Split, seed: int, episodes: int, workers: int) -> Iterator[list[Episode]]:
    """Contiguous shares in order. One worker: this process."""
    size = max(25, math.ceil(episodes / (8 * workers)))
    spans = [(start, min(size, episodes - start)) for start in range(0, episodes, size)]
    if workers == 1:
        for start, count in spans:
            yield collect_share(split, seed, start, count)
        return
    yield from _on_ray(split, seed, spans, workers)


def _on_ray(split: Split, seed: int, spans: list[tuple[int, int]], workers: int) -> Iterator[list[Episode]]:
    """At most ``workers`` shares run at once; a share whose process is lost is run again."""
    import ray
    from ray.exceptions import RayTaskError

    from launch.cluster import connected

    with connected(None):
        run = ray.remote(num_cpus=0, max_retries=2)(collect_share)
        waiting = list(spans)
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < workers + 1:  # one more than workers, so that none of them pauses
                running.append(run.remote(split, seed, *waiting.pop(0)))
            try:
                yield ray.get(running.pop(0))
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
