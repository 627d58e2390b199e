"""Two processes under DeepSpeed, started through Ray Train: the same curve as one, also after a SIGKILL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import ClusterSettings, connected
from launch.supervisor import supervise
from rollout.events import Restored
from rollout.store import fates, lineage
from rollout.types import Version
from tests.distributed_case import ROOT, Case, Kill, Recorded, Scripted, recorded_batches, save_model, train
from trainer.attempts import in_lineage, read_attempts, read_versions
from trainer.checkpoint import Layout, latest, read_rollout_state, survey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ONE = ClusterSettings(num_processes=1)
ZERO2 = ClusterSettings(num_processes=2, deepspeed=str(ROOT / "configs/deepspeed_zero2.json"))
ZERO3 = ClusterSettings(num_processes=2, deepspeed=str(ROOT / "configs/deepspeed_zero3.json"))
BATCHES = recorded_batches(6)
RELATIVE = 1e-4


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with connected(None):
        yield


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each batch is used for two optimiser steps, so that ratios leave 1 and the loss depends on the weights."""
    model = save_model(tmp_path_factory.mktemp("model"))
    return Case(model=model, rollouts=Recorded(BATCHES), steps=12, save_steps=4, trl={"num_iterations": 2})


@pytest.fixture(scope="module")
def alone(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process, in-process, without DeepSpeed."""
    return supervise(train, case, tmp_path_factory.mktemp("alone"), ONE)


@pytest.fixture(scope="module")
def pair(case: Case, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Two processes, ZeRO-2, uninterrupted."""
    run_dir = tmp_path_factory.mktemp("pair")
    return supervise(train, case, run_dir, ZERO2, max_restarts=0), run_dir


def assert_same_curve(left: Any, right: Any) -> None:
    assert [row["step"] for row in left["curve"]] == [row["step"] for row in right["curve"]]
    for a, b in zip(left["curve"], right["curve"], strict=True):
        assert b == pytest.approx(a, rel=RELATIVE)


def digests(run_dir: Path, attempt: int, rank: int) -> dict[tuple[str, int], dict[str, str]]:
    lines = (run_dir / "logs" / f"attempt_{attempt}" / f"digests_{rank}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row.pop("event"), row.pop("step")): row for row in rows}


def test_zero2_gives_the_curve_of_one_process(alone: Any, pair: tuple[Any, Path]) -> None:
    result, run_dir = pair
    assert (alone["world_size"], result["world_size"]) == (1, 2)
    assert len(alone["curve"]) == 12
    assert len({row["loss"] for row in alone["curve"]}) == 12, "a constant loss would prove nothing"
    assert_same_curve(alone, result)
    newest = latest(run_dir)
    assert newest and newest.manifest.layout == Layout(2, 2)
    assert read_rollout_state(newest.path)["trained"] == [group.id for batch in BATCHES for group in batch.groups]


def test_a_checkpoint_is_an_ordinary_model(pair: tuple[Any, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    newest = latest(pair[1])
    assert newest and newest.manifest.step == 12
    model = AutoModelForCausalLM.from_pretrained(newest.path)
    assert model.config.vocab_size >= len(AutoTokenizer.from_pretrained(newest.path))


def test_a_run_killed_while_saving_ends_like_one_that_was_not(
    case: Case, pair: tuple[Any, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    killed = replace(case, kill=Kill(rank=0, step=8, while_saving=True))
    result = supervise(train, killed, tmp_path, ZERO2, max_restarts=1, say=said.append)
    assert "rank 0 was killed or lost" in said[1]
    assert (
        "resumes from checkpoint-4" in said[2]
        and "torn checkpoint-8" in said[2]
        and "published up to step 8" in said[2]
    )

    assert result == pair[0], "bit for bit the uninterrupted run"
    for rank in (0, 1):
        before, after = digests(tmp_path, 1, rank), digests(tmp_path, 2, rank)
        assert before["save", 4] == after["begin", 4], "weights, optimiser and scheduler are those that were saved"
        assert after["save", 12] == digests(pair[1], 1, rank)["save", 12]

    newest, intact = latest(tmp_path), latest(pair[1])
    assert newest and intact and read_rollout_state(newest.path) == read_rollout_state(intact.path)
    assert [found.manifest.step for found in survey(tmp_path).valid] == [8, 12]
    assert survey(tmp_path).torn == ()
    lineage = in_lineage(read_versions(tmp_path), read_attempts(tmp_path))
    assert [version for version in lineage if version.step == 8] == [Version(2, 8)], "version (1, 8) is void"


def test_scripted_rollouts_killed_and_resumed_give_the_uninterrupted_curve(
    case: Case, ray_cluster: None, tmp_path: Path
) -> None:
    """The whole loop: rank 0's pool of Ray actors, scheduler, ledger. One process, uninterrupted, is the measure."""
    local = replace(case, rollouts=Scripted(case.model, "local", 6))
    expected = supervise(train, local, tmp_path / "alone", ONE)
    killed = replace(case, rollouts=Scripted(case.model, "ray", 6), kill=Kill(rank=1, step=7))
    said: list[str] = []
    result = supervise(train, killed, tmp_path / "pair", ZERO2, max_restarts=1, say=said.append)
    assert "rank 1 was killed or lost" in said[1] and "resumes from checkpoint-4" in said[2]
    assert_same_curve(expected, result)

    uninterrupted = lineage(tmp_path / "alone" / "rollouts", 1)
    resumed = lineage(tmp_path / "pair" / "rollouts", 2)
    found = fates(resumed)
    assert all(len(fate) == 1 for fate in found.values()), "each issued group has exactly one fate"
    assert found == fates(uninterrupted)
    assert sum(fate == ["trained"] for fate in found.values()) == 12
    assert any(fate == ["filtered"] for fate in found.values())
    attempts = {event.attempt for event in resumed if isinstance(event, Restored)}
    assert attempts == {1}


def test_zero3_saves_whole_weights_and_trains_the_same(
    case: Case, alone: Any, ray_cluster: None, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    result = supervise(train, case, tmp_path / "run", ZERO3, max_restarts=0)
    assert_same_curve(alone, result)
    newest = latest(tmp_path / "run")
    assert newest
    model = AutoModelForCausalLM.from_pretrained(newest.path)
    start = AutoModelForCausalLM.from_pretrained(case.model)
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert all(moved), "every tensor in the file is a trained one"


@pytest.mark.parametrize("zero", [ZERO2, ZERO3], ids=["zero2", "zero3"])
def test_an_adapter_with_credit_per_turn_and_kl_trains_as_in_one_process(
    case: Case, ray_cluster: None, tmp_path: Path, zero: ClusterSettings
) -> None:
    """The merged model of all ranks' shards is the one of one process, and was trained."""
    import torch
    from transformers import AutoModelForCausalLM

    lora = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "beta": 0.05}
    adapted = replace(case, credit="turn", trl={**case.trl, **lora})
    expected = supervise(train, adapted, tmp_path / "alone", ONE)
    result = supervise(train, adapted, tmp_path / "pair", zero, max_restarts=0)
    assert_same_curve(expected, result)
    folders = (tmp_path / "alone" / "final", tmp_path / "pair" / "final", case.model)
    alone, pair, start = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    assert alone.keys() == pair.keys() == start.keys()
    assert all(torch.allclose(pair[name], alone[name], rtol=1e-3, atol=1e-5) for name in alone)
    assert any(not torch.allclose(pair[name], start[name], atol=1e-4) for name in start)
