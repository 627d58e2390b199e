"""Launching without Ray: settings, the attempt loop, what a user reads when ranks fail, the watchdog."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import ABANDONED, ClusterSettings, RankFailure, Ranks, _failure, _fit, connected, zero_stage
from launch.supervisor import supervise
from launch.watchdog import EXIT_STUCK
from rollout.errors import AgentworldError, BudgetSpent, CheckpointError, ConfigError
from rollout.ray_address import check_reachable
from rollout.types import Version
from tests.distributed_case import ROOT
from trainer.checkpoint import Layout, seal

ONE = ClusterSettings(num_processes=1)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_shipped_deepspeed_configs_say_their_stage(stage: int) -> None:
    path = ROOT / f"configs/deepspeed_zero{stage}.json"
    assert zero_stage(str(path)) == stage
    assert all(value == "auto" for key, value in json.loads(path.read_text()).items() if key.startswith("train_"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "valid JSON"),
        ("[]", "valid JSON"),
        ('{"zero_optimization": {"stage": 0}}', "use 1, 2 or 3"),
    ],
)
def test_a_bad_deepspeed_config_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "ds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        zero_stage(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_one_process_runs_here_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def train(ranks: Ranks, payload: Any) -> dict[str, Any]:
        assert (ranks.rank, ranks.layout, ranks.deepspeed) == (0, Layout(1, 0), None)
        assert ranks.run_dir == tmp_path / "run" and ranks.log_dir.is_dir()
        return {"payload": payload}

    assert supervise(train, 7, "run", ONE, say=said.append) == {"payload": 7}
    assert said == ["attempt 1 starts from the beginning"]
    assert (tmp_path / "run/logs/attempt_1/start.txt").read_text() == "attempt 1 starts from the beginning\n"


def test_lost_ranks_are_restarted_within_the_budget(tmp_path: Path) -> None:
    attempts: list[int] = []

    def train(ranks: Ranks, fails: int) -> dict[str, Any]:
        attempts.append(ranks.start.attempt)
        if len(attempts) <= fails:
            raise RankFailure("rank 1 was killed or lost")
        return {}

    supervise(train, 2, tmp_path / "a", ONE, max_restarts=2, say=str)
    assert attempts == [1, 2, 3]
    attempts.clear()
    with pytest.raises(BudgetSpent, match="gave up after 1 restarts; last: rank 1 was killed"):
        supervise(train, 9, tmp_path / "b", ONE, max_restarts=1, say=str)
    assert attempts == [1, 2]


def test_what_a_restart_cannot_mend_is_not_retried(tmp_path: Path) -> None:
    attempts: list[int] = []

    def train(ranks: Ranks, error: Exception) -> dict[str, Any]:
        attempts.append(ranks.start.attempt)
        raise error

    for error in (BudgetSpent("world faults"), ConfigError("no such key"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            supervise(train, error, tmp_path, ONE, say=str)
    assert attempts == [1, 2, 3], "one attempt per call"


def test_a_run_of_two_processes_is_not_resumed_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    seal(folder, step=3, version=Version(1, 3), layout=Layout(2, 2), rollout_state={})
    with pytest.raises(CheckpointError, match="this run has 1 process without ZeRO"):
        supervise(lambda ranks, payload: {}, None, tmp_path, ONE)


class _Lost(Exception):
    worker_failures = {0: None, 1: None}  # noqa: RUF012


def _record(folder: Path, rank: int, *, user: bool, kind: str, message: str) -> None:
    record = {"user": user, "kind": kind, "message": message}
    (folder / f"rank_{rank}.failure.json").write_text(json.dumps(record))


def test_the_cause_is_named_not_its_echo(tmp_path: Path) -> None:
    """A killed rank breaks its sibling's collective: only the killed one is the cause."""
    _record(tmp_path, 0, user=False, kind="RuntimeError", message="Connection closed by peer")
    failure = _failure(tmp_path, _Lost())
    assert isinstance(failure, RankFailure) and str(failure).startswith("rank 1 was killed or lost; see ")

    _record(tmp_path, 1, user=False, kind="ValueError", message="a\nb")
    assert "rank 0 failed with RuntimeError" in str(_failure(tmp_path, _Lost()))

    _record(tmp_path, 1, user=True, kind="ConfigError", message="trl.beta is wrong")
    failure = _failure(tmp_path, _Lost())
    assert str(failure) == "trl.beta is wrong" and not isinstance(failure, RankFailure)


def test_ranks_that_do_not_come_up_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "rank_0.pid").touch()
    with pytest.raises(RankFailure, match="1 of 2 ranks came up within 1 s"):
        _fit(lambda: time.sleep(20), tmp_path, 2, 1.0)
    assert (tmp_path / ABANDONED).exists(), "a rank that comes up late must not train"


def test_the_deadline_is_for_coming_up_only_and_errors_cross_the_thread(tmp_path: Path) -> None:
    (tmp_path / "rank_0.pid").touch()
    assert _fit(lambda: time.sleep(1.0) or 7, tmp_path, 1, 0.2) == 7
    with pytest.raises(ZeroDivisionError):
        _fit(lambda: 1 / 0, tmp_path, 1, 5.0)


def test_a_launch_of_lonely_processes_is_refused() -> None:
    from trainer.saving import assert_world_size

    assert_world_size(1, trainer_says=1)
    with pytest.raises(ConfigError, match="2 processes were asked for, but the process group has 1"):
        assert_world_size(2, trainer_says=1)


@pytest.mark.parametrize(("beats", "status"), [(12, 0), (0, EXIT_STUCK)])
def test_the_watchdog_ends_a_rank_that_stopped_moving(beats: int, status: int) -> None:
    code = (
        "import time; from launch.watchdog import Watchdog\n"
        "with Watchdog(2.0) as dog:\n"
        f"    for _ in range({beats}): time.sleep(0.25); dog.beat()\n"
        f"    time.sleep({0.0 if beats else 30.0})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == status
    assert ("no training progress" in done.stderr) == (status != 0)


def test_an_address_where_nobody_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto", "local", ""):
            check_reachable(address)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(AgentworldError, match=r"Ray at .* could not be reached"):
            check_reachable(address, 2.0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(AgentworldError, match="could not be reached"), connected(None):
        pass
