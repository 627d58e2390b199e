"""``bench/soak.py``: its plan and its judgement, a leak that it must see, and twenty of its episodes."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from bench.leaks import Watch, leaks, traces
from bench.soak import DEATHS, Plan, Row, judge, plans, soak
from rollout.errors import ConfigError
from worldmodel.sandbox import stop_keeper


def test_a_plan_is_repeatable_and_each_death_is_followed_by_gold_in_the_same_domain() -> None:
    made = plans(300, ["a", "b", "c"], 1)
    assert made == plans(300, ["a", "b", "c"], 1) and made[:50] == plans(50, ["a", "b", "c"], 1)
    assert made != plans(300, ["a", "b", "c"], 2)
    assert {plan.death for plan in made} == {"", *DEATHS} and 0.2 < sum(bool(p.death) for p in made) / 300 < 0.5
    for plan, after in itertools.pairwise(made):
        assert not plan.death or (after.domain, after.behaviour, after.death) == (plan.domain, "gold", "")


@pytest.mark.parametrize(
    ("behaviour", "death", "outcome", "error", "problem"),
    [
        ("gold", "", "success", "", ""),
        ("gold", "", "failure", "", "gold ended in failure"),
        ("gold", "", "fault", "lost", "gold ended in fault lost"),
        ("wrong", "", "failure", "", ""),
        ("wrong", "", "success", "", "a wrong solution passed"),
        ("wrong", "kill", "success", "", "a wrong solution passed"),
        ("random", "", "failure", "", ""),
        ("random", "", "undecided", "", "random ended in undecided"),
        ("gold", "kill", "failure", "", ""),
        ("gold", "keeper", "fault", "sandbox: lost", ""),
        ("gold", "keeper", "fault", "two\nlines", "its fault is more than one line"),
        ("gold", "keeper-stop", "failure", "", "its keeper was lost, and that is called a failure"),
        ("gold", "stop", "late", "", "it did not end in time"),
    ],
)
def test_what_is_wrong_is_named(behaviour: str, death: str, outcome: str, error: str, problem: str) -> None:
    row = Row(Plan(0, "a", 0, behaviour, death), "bash" if death else "", outcome, error)
    assert judge(row) == problem


def test_a_process_a_file_and_a_port_that_are_left_are_seen() -> None:
    stop_keeper()  # of the tests before
    watch, before = Watch(), traces()
    listens = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen(["python3", "-c", listens], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        watch.family()
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "left").touch()
            found = leaks(before, watch, Path(name), alone=False, patience=0.2)
        assert f"process {child.pid}" in found and "temporary file left" in found
        assert any(line.startswith("port ") for line in found)
        assert watch.strike("keeper", random.Random(0)) == ""
        assert watch.strike("stop", random.Random(0)).startswith("python")
        until = time.monotonic() + 20
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED and time.monotonic() < until:
            time.sleep(0.02)
        assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(900)
def test_twenty_episodes_with_deaths_leave_nothing_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    out = tmp_path / "soak.jsonl"
    assert soak(8, 13, out, False, ["terminal", "android"]) == 0
    assert soak(20, 13, out, False, ["terminal", "android"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["plan"]["episode"] for row in rows if "plan" in row] == list(range(20))
    assert [row["leaks"] for row in rows if "leaks" in row] == [[], []]
    planned = sum(bool(row["plan"]["death"]) for row in rows if row.get("plan", {}).get("domain") == "terminal")
    assert planned == 5  # android has no processes, and a victim may end before it is struck
    assert sum(bool(row.get("struck")) for row in rows) >= 1
    with pytest.raises(ConfigError, match="its rows are of other domains or another seed"):
        soak(20, 4, out, False, ["terminal", "android"])
