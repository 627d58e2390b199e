"""Recorded transitions as a world model.

Owns: exact look-up of (world, history, action). Refuses: guessing; what was not recorded is a ``WorldFault``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from rollout.errors import WorldFault
from rollout.types import Finish, Usage, World
from worldmodel.types import Episode, Exchange, Prediction, PredictRequest, WorldSpec, split_probes


class ReplayWorldModel:
    """Implements ``WorldModel``. Where the same step was recorded with different results, the request's seed
    chooses among them, so repeated calls with one seed agree."""

    def __init__(self, episodes: Iterable[Episode], spec: Callable[[World], WorldSpec], model_id: str = "replay"):
        self.model_id = model_id
        self._observations: dict[bytes, list[str]] = {}
        for episode in episodes:
            self._record(episode, spec(episode.world))

    async def predict(self, request: PredictRequest) -> Prediction:
        found = self._observations.get(_key(request.spec, request.history, request.action))
        if found is None:
            raise WorldFault(
                f"world model {self.model_id}: no recording of {request.action!r} after {len(request.history)} steps"
            )
        text = found[request.seed % len(found)]
        return Prediction(text, text, Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None:
        self._observations.clear()

    def _record(self, episode: Episode, spec: WorldSpec) -> None:
        steps, probes = split_probes(episode.transitions)
        exchanges = [Exchange(step.action, step.observation) for step in steps]
        keyed = [(_key(spec, exchanges[:i], step.action), step.observation) for i, step in enumerate(steps)]
        keyed += [(_key(spec, exchanges, probe.action), probe.observation) for probe in probes]
        for key, observation in keyed:
            known = self._observations.setdefault(key, [])
            if observation not in known:
                known.append(observation)


def _key(spec: WorldSpec, history: Sequence[Exchange], action: str) -> bytes:
    return hashlib.sha256(repr((spec, tuple(history), action)).encode()).digest()
