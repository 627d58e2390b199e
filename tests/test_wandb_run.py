"""One W&B run for a run directory: continued under one id, never shared with the next, never left open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch.wandb_run import wandb_run


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_directory_keeps_its_id_and_the_environment_is_given_back(tmp_path: Path) -> None:
    seen = []
    for name in ("a", "a", "b"):
        with wandb_run(tmp_path / name):
            seen.append((os.environ["WANDB_RUN_ID"], os.environ["WANDB_DIR"], os.environ["WANDB_RESUME"]))
        assert "WANDB_RUN_ID" not in os.environ and "WANDB_DIR" not in os.environ
    assert seen[0] == seen[1] != seen[2] and seen[2][1] == str(tmp_path / "b")


def test_the_users_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    with wandb_run(tmp_path / "a"):
        assert os.environ["WANDB_RUN_ID"] == "mine" and "WANDB_NAME" not in os.environ
    assert os.environ["WANDB_RUN_ID"] == "mine" and not (tmp_path / "a" / "wandb_run_id").exists()


@pytest.mark.slow
def test_runs_of_one_process_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for name in ("a", "b"):
        with wandb_run(tmp_path / name):
            ids.append(wandb.init().id)
        assert wandb.run is None
    assert len(set(ids)) == 2 and all(list((tmp_path / name).glob("wandb/offline-run-*")) for name in "ab")
