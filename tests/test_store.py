"""Trajectories and ledger on disk: exact round trips, torn tails, lineage."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest
from fakes import make_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout import types
from rollout.errors import CheckpointError
from rollout.events import EVENTS, Fate, FaultKind, GroupClosed, GroupIssued, MemberFault, Restored
from rollout.store import (
    RolloutStore,
    decode,
    encode,
    fates,
    lineage,
    read_ledger,
    read_trajectories,
    write_trajectories,
)
from rollout.types import Completion, Finish, Prompt, Score, Stop, Trajectory, Turn, Version

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
VERSION = st.builds(Version, st.integers(), st.integers())
NOUNS = [noun for noun in vars(types).values() if dataclasses.is_dataclass(noun) and noun.__module__ == types.__name__]


def few(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


def strategies() -> dict[type, st.SearchStrategy]:
    """Per noun; hand-made where a noun holds free-form values or many others."""
    st.register_type_strategy(str, TEXT)
    st.register_type_strategy(float, st.floats(allow_nan=False))
    free = st.dictionaries(TEXT, JSONISH, max_size=2)
    seconds = st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=2)
    made: dict[type, st.SearchStrategy] = {noun: st.from_type(noun) for noun in [*NOUNS, *EVENTS]}
    made[types.World] = st.builds(types.World, state=free)
    made[types.Action] = st.builds(types.Action, arguments=free)
    completion = st.builds(
        Completion, few(st.integers()), few(st.floats(allow_nan=False)), TEXT, st.sampled_from(Finish), few(VERSION)
    )
    made[Completion] = completion
    made[Turn] = st.builds(Turn, few(st.integers()), completion, made[types.Action], made[types.Observation])
    checks = few(st.builds(types.Check, probes=few(TEXT)))
    reference = st.builds(types.Reference, few(TEXT), few(few(TEXT)))
    made[types.Task] = st.builds(types.Task, world=made[types.World], checks=checks, reference=reference)
    results = few(st.builds(types.CheckResult, replies=few(TEXT)))
    parts = st.dictionaries(TEXT, st.none() | st.floats(allow_nan=False), max_size=2)
    made[Score] = st.builds(Score, parts=parts)
    made[Trajectory] = st.builds(
        Trajectory,
        score=made[Score],
        task=made[types.Task],
        prompt=st.builds(Prompt, few(st.from_type(types.Message))),
        turns=few(made[Turn]),
        results=results,
        timings=seconds,
        controls=few(TEXT),
    )
    made[types.Group] = st.builds(types.Group, TEXT, TEXT, few(made[Trajectory]))
    made[types.Batch] = st.builds(types.Batch, st.integers(), few(made[types.Group]), VERSION, seconds)
    return made


@pytest.mark.parametrize("noun", [*NOUNS, *EVENTS], ids=lambda noun: noun.__name__)
def test_every_noun_round_trips(noun):
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies()[noun])
    def check(value):
        line = json.dumps(encode(value))
        back = decode(noun, json.loads(line))
        assert back == value
        assert json.dumps(encode(back)) == line
        same_types(value, back)

    check()


def same_types(value, back) -> None:
    """Equal is not enough: ``Stop.DONE == "done"`` and ``(1, 2) == Version(1, 2)``."""
    assert type(value) is type(back)
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in ("state", "arguments"):
                same_types(getattr(value, field.name), getattr(back, field.name))
    elif isinstance(value, tuple):
        for one, other in zip(value, back, strict=True):
            same_types(one, other)


def trajectory(number: int = 0, **kwargs) -> Trajectory:
    completion = Completion((7, 8), (-0.1, -math.inf), "é\ud800 \x1b[0m\n", Finish.STOP, (Version(1, 2),) * 2)
    turn = Turn((1, 2, number), completion, types.Action("x"), types.Observation("y"))
    options = {"group": "g000000", "member": number, "prompt": Prompt(()), "turns": (turn,), "stop": Stop.DONE}
    return Trajectory(task=make_task(), score=Score(1.0), **{**options, **kwargs})


def test_references_survive_sealing(tmp_path: Path):
    store = RolloutStore(tmp_path, 1)
    made = [trajectory(n) for n in range(5)]
    refs = [store.add(n // 3, one) for n, one in enumerate(made)]
    assert refs[3] == "attempt_001/step_000001.jsonl#0"
    assert list(store.load(refs).values()) == made
    store.seal(before=1)
    assert not (tmp_path / "attempt_001/step_000000.jsonl").exists()
    assert list(read_trajectories(tmp_path / "attempt_001/step_000000.jsonl.gz")) == made[:3]
    assert RolloutStore(tmp_path, 2).load([refs[4], refs[1]]) == {refs[1]: made[1], refs[4]: made[4]}


def test_a_file_is_readable_while_it_is_written_and_after_a_crash(tmp_path: Path):
    store = RolloutStore(tmp_path, 1)
    store.add(0, trajectory(0))
    path = tmp_path / "attempt_001/step_000000.jsonl"
    assert len(list(read_trajectories(path))) == 1
    with path.open("a") as file:
        file.write('{"task": {"id": "to')  # torn by a crash
    assert list(read_trajectories(path)) == [trajectory(0)]


def test_missing_references_are_named(tmp_path: Path):
    store = RolloutStore(tmp_path, 1)
    store.add(0, trajectory())
    with pytest.raises(CheckpointError, match=r"step_000000\.jsonl#3"):
        store.load(["attempt_001/step_000000.jsonl#3"])
    with pytest.raises(CheckpointError, match=r"step_000009\.jsonl: missing"):
        store.load(["attempt_001/step_000009.jsonl#0"])


def test_an_attempt_is_written_once(tmp_path: Path):
    RolloutStore(tmp_path, 1).close()
    with pytest.raises(CheckpointError, match="count attempts up"):
        RolloutStore(tmp_path, 1)


def test_write_trajectories_is_atomic(tmp_path: Path):
    path = tmp_path / "eval" / "step_3.jsonl.gz"

    def broken():
        yield trajectory(0)
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError):
        write_trajectories(path, broken())
    assert not path.exists()
    write_trajectories(path, [trajectory(1)])
    assert list(read_trajectories(path)) == [trajectory(1)]
    with gzip.open(path, "rt") as file:
        assert json.loads(file.readline())["stop"] == "done"


def test_lineage_leaves_out_what_the_checkpoint_had_not_seen(tmp_path: Path):
    first = RolloutStore(tmp_path, 1)
    first.record([GroupIssued("a", "t", Version(1, 0)), GroupClosed("a", Fate.TRAINED, "", 0)])
    saved = first.ledger_lines
    first.record([GroupIssued("b", "t", Version(1, 1)), GroupClosed("b", Fate.TRAINED, "", 1)])  # void
    second = RolloutStore(tmp_path, 2)
    second.record([Restored(1, saved, 0, 0), GroupIssued("b", "t", Version(2, 1))])
    saved = second.ledger_lines
    second.record([GroupClosed("b", Fate.FAILED, "x")])  # void
    third = RolloutStore(tmp_path, 3)
    third.record([Restored(2, saved, 0, 1), MemberFault("b", 0, 0, FaultKind.WORLD, "é", True)])
    third.record([GroupClosed("b", Fate.FILTERED, "all rewards 0")])
    assert fates(lineage(tmp_path, 3)) == {"a": ["trained"], "b": ["filtered"]}
    assert isinstance(read_ledger(tmp_path, 3)[1], MemberFault)
