"""``agentworld eval --suite``: many benchmarks, one run directory, gone on with where it stopped."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cli import main
from launch.suite import episodes
from launch.suite.command import read_prices
from launch.suite.config import SuiteConfig, folder, load_suite
from rollout import chat_client
from rollout.errors import AgentworldError, ConfigError
from rollout.store import read_trajectories, write_trajectories
from rollout.types import Prompt, Score, Stop, Task, Trajectory
from tests.fake_chat import FakeServer, ok
from tests.fakes import save_policy
from worldmodel.domains import kit

SEED = 3
TASKS = kit("android").generate("heldout", 4, SEED)
PHONE = "{name: phone, domain: android, source: own, split: heldout, tasks: 4, slots: 2}"
FAMILIES = "{name: families, domain: android, source: own, split: family, tasks: 2, slots: 2}"
ABSENT = "{name: moon, domain: moonbase, source: own, split: heldout, tasks: 4, slots: 2}"
OTHER = "{name: other, domain: android, source: bfcl, split: null, tasks: 4, slots: 2}"


def suite_file(path: Path, *benchmarks: str) -> str:
    head = f"seed: {SEED}\ntemperature: 0.0\ncall_timeout: 20.0\nturn_timeout: 30.0\nepisode_timeout: 60.0\n"
    path.write_text(head + "benchmarks:\n" + "".join(f"  - {item}\n" for item in benchmarks))
    return str(path)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentworld", "eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def result(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "result.json").read_text())


# ---------------------------------------------------------------- the YAML file


@pytest.mark.parametrize("path", sorted(folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_that_are_shipped_are_complete(path: Path) -> None:
    name, config = load_suite(path.stem)
    assert name == path.stem and config == load_suite(str(path))[1]
    assert yaml.safe_load(path.read_text()) == config.model_dump(mode="json")


def test_the_seven_are_there() -> None:
    domains = [benchmark.domain for benchmark in load_suite("real-seven")[1].benchmarks]
    assert sorted(domains) == ["android", "mcp", "os", "search", "swe", "terminal", "web"]


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        (PHONE.replace("slots", "slot"), "did you mean"),
        (PHONE.replace("heldout", "train"), "benchmarks.0.split"),
        (PHONE.replace("heldout", "null"), "split belongs to own tasks"),
        (f"{PHONE}\n  - {PHONE}", "same name"),
        (PHONE.replace("phone", "../phone"), "benchmarks.0.name"),
    ],
)
def test_a_bad_suite_is_one_line(tmp_path: Path, benchmark: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_suite(suite_file(tmp_path / "s.yaml", benchmark))
    assert "s.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_suite_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean real-seven"):
        load_suite("real-sevn")
    assert SuiteConfig.model_config["extra"] == "forbid"


# ---------------------------------------------------------------- running it


def test_gold_random_and_empty(cli, tmp_path: Path) -> None:
    suite = suite_file(tmp_path / "two.yaml", PHONE, FAMILIES)
    for policy, success in (("gold", 1.0), ("random", 0.0), ("empty", 0.0)):
        status, out, err = cli("--suite", suite, "--policy", policy)
        assert (status, err) == (0, "") and "phone" in out
        found = result(tmp_path / "runs" / "eval" / f"two-{policy}")
        assert [b["name"] for b in found["benchmarks"]] == ["phone", "families"]
        for entry in found["benchmarks"]:
            rates = entry["evaluation"]["success"]
            assert entry["status"] == "run" and rates["mean"] == success and rates["low"] <= success <= rates["high"]
            assert entry["evaluation"]["coverage"] == 1.0 and entry["tokens"] is None and entry["wall_seconds"] > 0
        assert "| phone | 4 |" in (tmp_path / "runs" / "eval" / f"two-{policy}" / "result.md").read_text()
    spoken = [t.action.text for one in read_trajectories(random_file(tmp_path)) for t in one.turns]
    known = {text for task in kit("android").generate("train", 20, SEED) for text in task.reference.gold}
    assert known & set(spoken) and set(spoken) - known


def random_file(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "eval" / "two-random" / "trajectories" / "phone.jsonl"


def test_what_cannot_run_is_counted_and_fails_unless_allowed(cli, tmp_path: Path) -> None:
    suite = suite_file(tmp_path / "s.yaml", ABSENT, PHONE, OTHER)
    status, out, err = cli("--suite", suite, "--policy", "gold", "--run-dir", "r", "--tasks", 2)
    assert status == 2 and "2 of 3 benchmarks not run: moon, other" in err
    assert "moon: not run: there is no domain moonbase" in out and "android has no source bfcl" in out
    found = result(tmp_path / "r")
    assert found["not_run"] == 2 and [b["status"] for b in found["benchmarks"]] == ["not run", "run", "not run"]
    assert found["benchmarks"][1]["evaluation"]["success"]["count"] == 2
    assert cli("--suite", suite, "--policy", "gold", "--run-dir", "r", "--tasks", 2, "--allow-missing")[0] == 0


def test_a_domain_that_lacks_something_says_its_own_line(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.domains.search.facts.missing", lambda: "bm25s: pip install it")
    search = PHONE.replace("android", "search").replace("phone", "pages")
    status, out, _ = cli("--suite", suite_file(tmp_path / "s.yaml", search), "--policy", "gold", "--run-dir", "r")
    assert status == 2 and "pages: not run: missing bm25s: pip install it" in out


def test_finished_episodes_are_never_run_twice(cli, tmp_path: Path) -> None:
    """Stopped in the middle of a line after two episodes: those stay byte for byte, the others are added."""
    suite, file = suite_file(tmp_path / "s.yaml", PHONE), tmp_path / "r" / "trajectories" / "phone.jsonl"
    arguments = ("--suite", suite, "--policy", "gold", "--run-dir", "r")
    assert cli(*arguments)[0] == 0
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:100])
    (tmp_path / "r" / "result.json").unlink()
    assert cli(*arguments)[0] == 0
    again = file.read_bytes().splitlines(keepends=True)
    assert again[:2] == lines[:2] and len(again) == 4 and again[2] != lines[2]
    assert {one.task.id for one in read_trajectories(file)} == {task.id for task in TASKS}
    assert cli(*arguments)[0] == 0 and file.read_bytes() == b"".join(again)
    found = result(tmp_path / "r")["benchmarks"][0]
    times = [json.loads(line)["seconds"] for line in (tmp_path / "r" / "times.jsonl").read_text().splitlines()]
    assert found["evaluation"]["success"]["mean"] == 1.0 and len(times) == 3
    assert found["wall_seconds"] == pytest.approx(sum(times), abs=1e-3)


def test_an_episode_of_another_task_with_the_same_id_is_no_finished_one(tmp_path: Path) -> None:
    """Read back from disk it is the same task, lists for tuples or not; with another instruction it is not."""
    file = tmp_path / "phone.jsonl"
    for task in (kit("terminal").generate("heldout", 1, 0)[0], TASKS[0]):
        write_trajectories(file, [lost(task)])
        found = list(read_trajectories(file))
        listed = dataclasses.replace(task, checks=list(task.checks))
        assert set(episodes.finished(found, [listed], file)) == {task.id}
        with pytest.raises(AgentworldError, match=r"phone\.jsonl.*--run-dir"):
            episodes.finished(found, [dataclasses.replace(task, instruction="Something else.")], file)


def lost(task: Task) -> Trajectory:
    return Trajectory(task, "eval", 0, Prompt(()), (), Stop.TIMEOUT, Score(None))


def test_a_run_directory_is_one_evaluations(cli, tmp_path: Path) -> None:
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    assert cli("--suite", suite, "--policy", "gold", "--run-dir", "r", "--tasks", 1)[0] == 0
    for changed, key in ((("--tasks", 2), "tasks"), (("--tasks", 1, "--seed", 9), "config")):
        status, _, err = cli("--suite", suite, "--policy", "gold", "--run-dir", "r", *changed)
        assert status == 2 and f"another {key}" in err and "--run-dir" in err
    status, _, err = cli("--suite", suite, "--policy", "empty", "--run-dir", "r", "--tasks", 1)
    assert status == 2 and "another policy" in err


def test_a_person_can_be_the_policy_of_a_suite(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "".join(f"{action}\n.\n" for action in TASKS[0].reference.gold)
    arguments = ("--suite", suite_file(tmp_path / "s.yaml", PHONE), "--policy", "human", "--run-dir", "r", "--tasks", 2)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    status, out, err = cli(*arguments)
    assert status == 2 and "the input ended" in err and TASKS[0].instruction in out
    (kept,) = read_trajectories(tmp_path / "r" / "trajectories" / "phone.jsonl")
    assert kept.task == TASKS[0] and kept.score.reward == 1.0
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TASKS[1].reference.gold[-1]}\n\n"))
    status, out, _ = cli(*arguments)
    assert status == 0 and TASKS[0].instruction not in out
    assert result(tmp_path / "r")["benchmarks"][0]["evaluation"]["success"]["mean"] == 0.5


def test_options_that_do_not_go_together(cli, tmp_path: Path) -> None:
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    for arguments, words in (
        (("--suite", suite, "--policy", "gold", "--domain", "android"), "leave out"),
        (("--suite", suite, "--policy", "gold", "--out", "x.json"), "--run-dir, not --out"),
        (("--policy", "gold", "--allow-missing"), "belong to --suite"),
        (("--suite", suite, "--policy", "gould"), "a folder, a URL, or one of gold"),
        (("--suite", suite, "--policy", "gold", "--vllm", "http://h"), "--vllm samples for a model folder"),
        (("--suite", suite, "--policy", "gold", "--prices", "1"), "IN,OUT"),
        (("--suite", suite, "--policy", "http://127.0.0.1:9"), "policy server http://127.0.0.1:9/v1 does not answer"),
    ):
        status, _, err = cli(*arguments)
        assert status == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_model_folder_is_a_policy_and_counts_its_own_tokens(cli, tmp_path: Path) -> None:
    policy = save_policy(tmp_path / "tiny")
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    arguments = ("--suite", suite, "--policy", policy, "--tasks", 1, "--max-tokens", 4, "--max-context", 4000)
    assert cli(*arguments, "--prices", "1,1000000")[0] == 0
    (entry,) = result(tmp_path / "runs" / "eval" / "s-tiny")["benchmarks"]
    (episode,) = read_trajectories(tmp_path / "runs" / "eval" / "s-tiny" / "trajectories" / "phone.jsonl")
    written = [len(turn.completion.ids) for turn in episode.turns]
    assert max(written) <= 4 and entry["tokens"]["generated"] == sum(written)
    assert entry["tokens"]["prompt"] >= len(episode.turns) * len(episode.turns[0].context_ids)
    assert entry["cost_dollars"] == pytest.approx(sum(written) + entry["tokens"]["prompt"] / 1e6)


# ---------------------------------------------------------------- a served policy, over real HTTP


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(chat_client, "BACKOFF_SECONDS", 0.01)
    fake = FakeServer()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


def knows_gold(body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
    """Thinks aloud, then does what the task's reference does; the task is found by its instruction."""
    told = body["messages"][1]["content"]
    task = next(task for task in TASKS if told.startswith(task.instruction))
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    return ok(f"<think>turn {turn}</think>\n\n{task.reference.gold[turn]}")


def test_a_served_policy_is_asked_over_http(cli, tmp_path: Path, server: FakeServer) -> None:
    server.replies = [knows_gold]
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    arguments = ("--suite", suite, "--policy", server.url, "--policy-model", "m", "--run-dir", "r", "--max-tokens", 77)
    status, out, err = cli(*arguments, "--prices", "2,10")
    assert (status, err) == (0, "") and "100.0%" in out
    turns = sum(len(task.reference.gold) for task in TASKS)
    (entry,) = result(tmp_path / "r")["benchmarks"]
    assert len(server.bodies) == turns and entry["tokens"] == {"prompt": 11 * turns, "generated": 3 * turns}
    assert entry["cost_dollars"] == pytest.approx(turns * (11 * 2 + 3 * 10) / 1e6)
    body = server.bodies[-1]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 77, 0.0) and body["seed"] < 2**31
    assert not any("<think>" in m["content"] for m in body["messages"])
    assert [m["role"] for m in body["messages"][:4]] == ["system", "user", "assistant", "user"]


def test_the_only_served_model_needs_no_name(cli, tmp_path: Path, server: FakeServer) -> None:
    server.replies, server.models = [knows_gold], ["solo"]
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    assert cli("--suite", suite, "--policy", server.url, "--tasks", 1)[0] == 0
    assert server.bodies[0]["model"] == "solo" and (tmp_path / "runs" / "eval" / "s-solo" / "result.json").is_file()
    server.models = ["a", "b"]
    status, _, err = cli("--suite", suite, "--policy", server.url)
    assert status == 2 and "serves a, b: choose with --policy-model" in err


def test_a_server_that_breaks_stops_the_suite_and_the_same_command_goes_on(
    cli, tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "FAULTS_IN_A_ROW", 2)
    server.replies = [(401, {}, "bad key")]
    suite = suite_file(tmp_path / "s.yaml", PHONE)
    arguments = ("--suite", suite, "--policy", server.url, "--policy-model", "m", "--run-dir", "r")
    status, _, err = cli(*arguments)
    assert status == 2 and "2 episodes in a row ended in a fault" in err and "bad key" in err
    assert not (tmp_path / "r" / "result.json").exists()
    server.replies = [knows_gold]
    assert cli(*arguments)[0] == 0
    (entry,) = result(tmp_path / "r")["benchmarks"]
    assert entry["evaluation"]["success"]["mean"] == 1.0 and entry["evaluation"]["success"]["count"] == 4


def test_prices() -> None:
    found = read_prices("0.5,2")
    assert (
        found is not None and found.of({"prompt": 1_000_000, "generated": 500_000}) == 1.5 and read_prices("") is None
    )
