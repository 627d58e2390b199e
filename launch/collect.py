"""``agentworld collect``: recorded sessions of real worlds, from Ray workers to one folder.

Owns: sharing a collection out, its manifest's facts, progress. Refuses: what a session does (``worldmodel.traces``).
The result does not depend on the number of workers: every session is a function of (domain, split, seed, index).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launch.errors import UserError
from worldmodel.episodes import MANIFEST, EpisodeWriter, read_manifest
from worldmodel.mixture import Weights, shares
from worldmodel.tasks import Split
from worldmodel.traces import Share, record_share

DISTRIBUTION = "agentworld-trainer"


Span = tuple[str, int, int]  # domain, start, count


def collect(
    out: Path,
    split: Split,
    episodes: int,
    seed: int,
    workers: int,
    say: Callable[[str], None] = print,
    mix: Weights | None = None,
    twice: bool = False,
) -> dict[str, Any]:
    """Record ``episodes`` sessions into ``out``, of the domains in ``mix`` (the terminal's without one), each executed
    again where ``twice`` asks for it; returns the manifest. Raises UserError where ``out`` is taken and WorldFault
    where a world fails too often; in both cases, and on any other failure, no episodes are left there."""
    if (out / MANIFEST).exists():
        raise UserError(f"{out}: holds finished traces already; choose another --out or delete it")
    counts = shares(mix or {"terminal": 1.0}, episodes)
    began, done, lost = time.monotonic(), 0, Counter[str]()
    with EpisodeWriter(out, {**_facts(split, episodes, seed, mix, twice), "versions": versions()}) as writer:
        spans = _spans(counts, workers)
        for (domain, _, count), share in zip(spans, _shares(split, seed, spans, workers, twice), strict=True):
            for episode in share.episodes:
                writer.write(episode)
            for reason in share.lost:
                say(f"{domain}: a session was lost: {reason}")
            lost[domain] += len(share.lost)
            done += count
            say(f"collected {done} of {episodes} sessions in {time.monotonic() - began:.0f} s")
        writer.facts["lost"] = {domain: lost[domain] for domain in counts}
    manifest = read_manifest(out)
    seconds = time.monotonic() - began
    say(f"{manifest['n_transitions']} transitions, {manifest['n_transitions'] / seconds:.0f} a second, in {out}")
    return manifest


def _facts(split: Split, episodes: int, seed: int, mix: Weights | None, twice: bool) -> dict[str, Any]:
    words = [f"agentworld collect --split {split} --episodes {episodes} --seed {seed}"]
    if mix:
        words += [f"--domain {','.join(mix)}", f"--mix {','.join(f'{name}={w:g}' for name, w in mix.items())}"]
    words += ["--twice"] if twice else []
    return {"command": " ".join(words), "seed": seed, "split": split}


def versions() -> dict[str, str]:
    """What produced a file: our version and code, and the interpreter's."""
    import platform

    from rollout.worker import code_fingerprint

    try:
        ours = version(DISTRIBUTION)
    except PackageNotFoundError:
        ours = "not installed"
    return {DISTRIBUTION: ours, "code": code_fingerprint(), "python": platform.python_version()}


def _spans(counts: Mapping[str, int], workers: int) -> list[Span]:
    """Contiguous shares of each domain, in order."""
    found = []
    for domain, episodes in counts.items():
        size = max(25, math.ceil(episodes / (8 * workers)))
        found += [(domain, start, min(size, episodes - start)) for start in range(0, episodes, size)]
    return found


def _shares(split: Split, seed: int, spans: Sequence[Span], workers: int, twice: bool) -> Iterator[Share]:
    """The recorded ``spans`` in order. One worker: this process."""
    if workers == 1:
        for domain, start, count in spans:
            yield record_share(split, seed, start, count, domain, twice)
        return
    yield from _on_ray(split, seed, spans, workers, twice)


def _on_ray(split: Split, seed: int, spans: Sequence[Span], workers: int, twice: bool) -> Iterator[Share]:
    """At most ``workers`` shares run at once; a share whose process is lost is run again."""
    import ray
    from ray.exceptions import RayTaskError

    from launch.cluster import connected

    with connected(None):
        run = ray.remote(num_cpus=0, max_retries=2)(record_share)
        waiting = list(spans)
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < workers + 1:  # one more than workers, so that none of them pauses
                domain, start, count = waiting.pop(0)
                running.append(run.remote(split, seed, start, count, domain, twice))
            try:
                yield ray.get(running.pop(0))
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
