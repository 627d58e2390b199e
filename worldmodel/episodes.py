"""Recorded episodes on disk: one JSON line per episode, and a manifest written last.

Owns: the folder's format (``episodes.jsonl``, ``manifest.json``), its counts and its checksum.
Refuses: half-written folders (no manifest, no episodes) and unknown fields.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from rollout.errors import ConfigError
from rollout.types import World
from worldmodel.types import Episode, Transition

EPISODES = "episodes.jsonl"
MANIFEST = "manifest.json"
FORMAT = 1


def to_json(episode: Episode) -> dict[str, Any]:
    return asdict(episode)


def from_json(data: Mapping[str, Any], where: str = "episode") -> Episode:
    """Raises ``ConfigError``, naming ``where`` and the field, on missing or unknown fields."""
    plain = _strict(Episode, data, where)
    plain["world"] = World(**_strict(World, plain["world"], f"{where}: world"))
    plain["transitions"] = tuple(
        Transition(**_strict(Transition, item, f"{where}: transition {i}"))
        for i, item in enumerate(plain["transitions"])
    )
    return Episode(**plain)


class EpisodeWriter:
    """Writes a folder as a stream. The folder is complete only after a clean exit of the ``with`` block: an
    exception inside removes what was written. ``facts`` (seed, versions, command) go into the manifest as they are at
    the end of the block.
    """

    def __init__(self, folder: str | Path, facts: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.facts = dict(facts)
        self._partial = self.folder / f"{EPISODES}.partial"
        self._file = self._partial.open("w", encoding="utf-8")
        self._digest = hashlib.sha256()
        self._counts = _Counts()

    def write(self, episode: Episode) -> None:
        line = json.dumps(to_json(episode)) + "\n"
        self._file.write(line)
        self._digest.update(line.encode())
        self._counts.add(episode)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        os.replace(self._partial, self.folder / EPISODES)
        manifest = {"format": FORMAT, **self.facts, **self._counts.summary(), "sha256": self._digest.hexdigest()}
        temporary = self.folder / f"{MANIFEST}.partial"
        temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / MANIFEST)


def write_episodes(folder: str | Path, episodes: Iterable[Episode], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write all ``episodes``; returns the manifest."""
    with EpisodeWriter(folder, facts) as writer:
        for episode in episodes:
            writer.write(episode)
    return read_manifest(folder)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Raises ``ConfigError`` where there is none: the folder is missing or was not finished."""
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no finished traces here; run `agentworld collect` first") from error
    except ValueError as error:
        raise ConfigError(f"{path}: unreadable manifest ({error}); collect the traces again") from error
    if manifest.get("format") != FORMAT:
        raise ConfigError(f"{path}: format {manifest.get('format')!r} is not {FORMAT}; collect the traces again")
    return manifest


def read_episodes(folder: str | Path) -> Iterator[Episode]:
    """Episodes in written order. Raises ``ConfigError`` on a damaged line, or at the end when the file's checksum
    is not the manifest's."""
    expected = read_manifest(folder)["sha256"]
    path = Path(folder) / EPISODES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            where = f"{path}:{number}"
            try:
                data = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: not JSON ({error}); collect the traces again") from error
            yield from_json(data, where)
    if digest.hexdigest() != expected:
        raise ConfigError(f"{path}: does not match its manifest (sha256); collect the traces again")


class _Counts:
    """Running counts of a folder, for the manifest: of the whole, and of each domain."""

    def __init__(self) -> None:
        self.whole = _Tally()
        self.domains: dict[str, _Tally] = {}

    def add(self, episode: Episode) -> None:
        self.whole.add(episode)
        self.domains.setdefault(episode.domain, _Tally()).add(episode)

    def summary(self) -> dict[str, Any]:
        by_domain = {name: tally.summary() for name, tally in sorted(self.domains.items())}
        return {**self.whole.summary(), "by_domain": by_domain}


class _Tally:
    def __init__(self) -> None:
        self.tables: dict[str, Counter[str]] = {key: Counter() for key in ("command_class", "behaviour", "family")}
        self.totals: Counter[str] = Counter()

    def add(self, episode: Episode) -> None:
        self.tables["behaviour"][episode.behaviour] += 1
        self.tables["family"][episode.family] += 1
        self.totals["episodes"] += 1
        self.totals["judged"] += episode.success is not None
        self.totals["failing"] += episode.success is False
        for transition in episode.transitions:
            self.tables["command_class"][transition.command_class] += 1
            self.totals["transitions"] += 1
            self.totals["probes"] += transition.probe
            self.totals["silent"] += not transition.observation

    def summary(self) -> dict[str, Any]:
        judged = self.totals["judged"]
        return {
            **{f"n_{key}": self.totals[key] for key in ("episodes", "transitions", "probes", "silent")},
            "failing_share": self.totals["failing"] / judged if judged else None,
            **{f"by_{key}": dict(sorted(table.items())) for key, table in self.tables.items()},
        }


def _strict(cls: type[Any], data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object, found {type(data).__name__}")
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; collect the traces again with this version")
    plain = dict(data)
    try:
        cls(**plain)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).split('()', 1)[-1].strip()}") from error
    return plain
