"""The command line: every bad input is one line on stderr, status 2, and leaves nothing half-written."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.collect import collect
from launch.errors import UserError
from launch.evaluate import SLOTS, Evaluand, evaluate_policy, load_tasks, replayed, room
from launch.train import check_same_experiment, num_batches
from launch.worlds import check_model_folder, world_model_config
from rollout.errors import CheckpointError, ConfigError, TaskError
from rollout.types import CheckResult, Stop
from rollout.worker import ReplayOutcome
from tests.fakes import make_task, save_policy
from worldmodel import domains
from worldmodel.domains import kit
from worldmodel.domains.terminal.tasks import generate
from worldmodel.tasks import save

ROOT = Path(__file__).resolve().parent.parent


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of ``agentworld arguments``."""
    monkeypatch.setattr(sys, "argv", ["agentworld", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "p")


def check_one_line(result: tuple[int, str, str], *words: str) -> None:
    status, _, err = result
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err


# ---------------------------------------------------------------- bad input


def write_config(folder: Path, text: str = "") -> Path:
    path = folder / "c.yaml"
    path.write_text(f"run_dir: {folder}/run\npolicy: {folder}/nowhere\n{text}")
    return path


def test_unknown_key_and_missing_config(cli, tmp_path: Path) -> None:
    check_one_line(cli("train", write_config(tmp_path, "sed: 1\n")), "c.yaml", "'sed'", "did you mean 'seed'")
    check_one_line(cli("train", tmp_path / "absent.yaml"), "absent.yaml", "no such config file")
    check_one_line(cli("train", write_config(tmp_path)), "nowhere", "no such model folder")
    assert not (tmp_path / "run").exists()


def damage(policy: Path, folder: Path, name: str, content: bytes | None) -> Path:
    """A copy of ``policy`` with one file replaced, or removed."""
    folder.mkdir()
    for file in policy.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("config.json", None, "config.json is missing"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("model.safetensors", None, "weights are missing"),
        ("config.json", b"{", "not readable"),
        ("model.safetensors", b"", "unreadable weights"),
        ("model.safetensors", b"\xff" * 64, "unreadable weights"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]", "unreadable weights"),
    ],
)
def test_unreadable_checkpoint(cli, tmp_path: Path, policy: Path, name: str, content: bytes | None, word: str) -> None:
    folder = damage(policy, tmp_path / "damaged", name, content)
    out = tmp_path / "result.json"
    check_one_line(cli("eval", "--policy", folder, "--tasks", 1, "--out", out), "damaged", word)
    assert not out.exists()


def test_truncated_weights(tmp_path: Path, policy: Path) -> None:
    whole = (policy / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="the header says"):
        check_model_folder(damage(policy, tmp_path / "short", "model.safetensors", whole[:-1]))
    check_model_folder(policy)


def broken_tasks(folder: Path, change) -> Path:
    path = folder / "tasks.jsonl"
    save(generate("heldout", 3, 0), path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda row: row["checks"][0]["predicate"].update(kind="like"), "checks[0].predicate.kind"),
        (lambda row: row["checks"][0]["predicate"].update(kind="regex", value="("), "regular expression"),
        (lambda row: row["checks"][0].update(probes=[]), "checks[0].probes"),
        (lambda row: row.update(checks=[]), "at least one check"),
        (lambda row: row.pop("instruction"), "instruction"),
    ],
)
def test_task_file_with_a_broken_check(cli, tmp_path: Path, change, word: str) -> None:
    path = broken_tasks(tmp_path, change)
    check_one_line(cli("eval", "--policy", "gold", "--task-file", path), "tasks.jsonl:2", word)


def test_missing_files(cli, tmp_path: Path) -> None:
    check_one_line(cli("eval", "--policy", "gold", "--task-file", "absent.jsonl"), "absent.jsonl")
    check_one_line(cli("fidelity", "--world-model", "absent", "--episodes", tmp_path), "manifest.json", "collect")
    check_one_line(cli("report", tmp_path), "report.json")
    check_one_line(cli("eval", "--policy", "gold", "--world", "sim"), "--world-model")
    check_one_line(cli("eval", "--policy", "gold", "--world", "sim", "--world-model", "http://x"), "--served-model")
    check_one_line(cli("vet", "--world-model", "absent", "--tasks", 1), "no such model folder")


def test_server_that_is_down(cli, tmp_path: Path, policy: Path) -> None:
    with socket.socket() as held:  # a port that nobody listens on
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        config = write_config(tmp_path, f"world_model: {{kind: server, url: '{url}', model: m}}\n")
        shutil.copytree(policy, tmp_path / "nowhere")
        arguments = ("--policy", "gold", "--world", "sim", "--world-model", url, "--served-model", "m", "--tasks", 1)
        check_one_line(cli("eval", *arguments), url, "does not answer")
        check_one_line(cli("train", config), url, "does not answer")
    assert not (tmp_path / "run").exists()


def test_sandbox_that_cannot_start(tmp_path: Path) -> None:
    """Without bubblewrap on the PATH; in a process of its own, since machines share one keeper per process."""
    out = tmp_path / "traces"
    environment = {**os.environ, "PATH": str(tmp_path)}
    for arguments in (["collect", "--out", str(out), "--episodes", "2"], ["eval", "--policy", "gold", "--tasks", "1"]):
        command = [sys.executable, "-m", "launch.cli", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        check_one_line((done.returncode, done.stdout, done.stderr), "sandbox")
    assert not out.exists()


def test_a_domain_without_a_box_needs_no_sandbox(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "launch.cli", "eval", "--policy", "gold", "--domain", "android", "--tasks", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "") and "100.0%" in done.stdout


def test_what_a_policy_may_write_is_the_domains_to_say(policy: Path) -> None:
    assert room(str(policy), ["terminal"]) == (64, 1024)
    assert room(str(policy), ["android"]) == (kit("android").max_tokens, 2048)  # what the model was made for
    assert room(str(policy), ["terminal", "android"], 100, 300) == (100, 300)
    with pytest.raises(UserError, match="--max-tokens 300 leaves no room"):
        room(str(policy), ["terminal"], 300, 300)


def test_terminal_text_of_errors_is_stripped(cli, tmp_path: Path) -> None:
    status, _, err = cli("train", "absent\x1b[31m.yaml")
    assert status == 2 and "\x1b" not in err


# ---------------------------------------------------------------- commands


def test_help_needs_no_framework() -> None:
    code = "import sys; sys.argv = ['agentworld', '--help']\nfrom launch.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print([m for m in ('torch', 'ray', 'trl', 'matplotlib', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("[]")
    for name in ("quickstart", "collect", "fidelity", "eval", "play", "vet", "train", "doctor", "report"):
        assert name in done.stdout


def test_tasks_writes_a_file_that_loads(cli, tmp_path: Path) -> None:
    assert cli("tasks", "--out", "t.jsonl", "--count", 4, "--seed", 3)[0] == 0
    assert load_tasks(tmp_path / "t.jsonl", "train", 1, 0) == generate("heldout", 4, 3)
    check_one_line(cli("tasks", "--out", "t.jsonl"), "exists already")
    check_one_line(cli("tasks", "--out", "u.jsonl", "--family", "sort_line"), "sort_line", "known")
    assert cli("tasks", "--out", "v.jsonl", "--count", 2, "--family", "sort_lines")[0] == 0
    assert {task.family for task in load_tasks(tmp_path / "v.jsonl", "train", 1, 0)} == {"sort_lines"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl", "v.jsonl"]


def test_dry_run_prints_the_whole_config(cli, tmp_path: Path) -> None:
    status, out, _ = cli("train", write_config(tmp_path), "--dry-run", "seed=9")
    assert status == 0 and "seed: 9" in out and "spot_limit" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.sandbox
def test_references_in_the_real_world(cli, tmp_path: Path) -> None:
    status, out, _ = cli("eval", "--policy", "gold", "--tasks", 3, "--out", "gold.json")
    assert status == 0 and "100.0%" in out
    assert json.loads((tmp_path / "gold.json").read_text())["worlds"]["real"]["success"]["mean"] == 1.0
    status, out, _ = cli("eval", "--policy", "empty", "--tasks", 3)
    assert status == 0 and "0.0%" in out


@pytest.mark.sandbox
def test_policy_in_both_worlds_is_paired(policy: Path) -> None:
    found = evaluate_policy(Evaluand(str(policy), str(policy)), generate("heldout", 2, 0), ("real", "sim"))
    assert found.transfer is not None and found.transfer.gap.count == 2
    assert [row[0] for row in found.rows()][:3] == ["", "real", "sim"]
    assert found.to_json()["gap"]["count"] == 2


def test_an_evaluation_holds_no_more_desktops_than_a_machine_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def pool(worlds: object, workers: int, slots: int) -> None:
        raise Asked(slots)

    monkeypatch.setattr("launch.evaluate.replay_pool", pool)
    monkeypatch.setattr("launch.evaluate.real", lambda domains: None)  # its desktop need not be set up
    for domain, slots in (("android", SLOTS), ("os", kit("os").slots), ("android,os", kit("os").slots)):
        with pytest.raises(Asked) as asked:
            evaluate_policy(Evaluand("gold"), load_tasks(None, "heldout", 2, 0, domain), ("real",))
        assert asked.value.args == (slots,), domain
    assert kit("os").slots < SLOTS


@pytest.mark.sandbox
def test_collect_is_reproducible_and_refuses_to_overwrite(tmp_path: Path) -> None:
    said: list[str] = []
    first = collect(tmp_path / "a", "train", 4, 0, 1, said.append)
    second = collect(tmp_path / "b", "train", 4, 0, 1, said.append)
    assert first["sha256"] == second["sha256"] and first["n_episodes"] == 4
    assert first["seed"] == 0 and first["versions"]["python"] and sum(first["by_command_class"].values()) > 0
    with pytest.raises(UserError, match="holds finished traces"):
        collect(tmp_path / "a", "train", 4, 0, 1, said.append)


@pytest.mark.slow
@pytest.mark.sandbox
def test_collect_on_workers_equals_one_process(tmp_path: Path) -> None:
    one = collect(tmp_path / "one", "train", 60, 5, 1, lambda _: None)
    two = collect(tmp_path / "two", "train", 60, 5, 2, lambda _: None)
    assert one["sha256"] == two["sha256"]


@pytest.mark.sandbox
def test_doctor_says_what_is_there(cli, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "names", lambda: ("terminal",))
    status, out, err = cli("doctor", "--run-dir", "runs", "--model", policy)
    assert status == 0, err
    assert "sandbox" in out and "chat template" in out and "ok    terminal" in out


def test_doctor_names_what_is_missing(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is done with the rest: a domain that lacks something is a warning, unless it is the terminal."""
    monkeypatch.setattr(domains, "names", lambda: ("web",))
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    status, out, err = cli("doctor", "--run-dir", tmp_path / "file" / "runs", "--model", "absent")
    assert status == 2 and "FAIL  run directory" in out and "chat template" in err and "warn  web" in out


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
def test_doctor_tries_every_domain(cli) -> None:
    _, out, _ = cli("doctor", "--run-dir", "runs")
    assert all(f"  {name} " in out for name in domains.names())


# ---------------------------------------------------------------- parts


def test_replayed_outcomes_score_like_episodes() -> None:
    task = make_task()
    passed, failed, open_ = (CheckResult("c", verdict) for verdict in (True, False, None))
    assert replayed(task, "real", ReplayOutcome("t0", (passed,))).score.reward == 1.0
    assert replayed(task, "real", ReplayOutcome("t0", (passed, failed))).score.reward == 0.0
    assert replayed(task, "sim", ReplayOutcome("t0", (passed, open_))).score.reward is None
    lost = replayed(task, "sim", ReplayOutcome("t0", fault="server gone"))
    assert lost.score.reward is None and lost.stop is Stop.WORLD_ERROR and lost.error == "server gone"


def test_world_model_config_of_a_path_and_a_url(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert world_model_config("wm").path == str(tmp_path / "wm")
    served = world_model_config("http://h:1", "name", "reference")
    assert (served.kind, served.model, served.dialect) == ("server", "name", "reference")
    said = tmp_path / "wm" / "world_model.json"
    said.parent.mkdir()
    said.write_text('{"dialect": "brief", "max_tokens": 1024}')
    assert (world_model_config("wm").dialect, world_model_config("wm").max_tokens) == ("brief", 1024)
    assert world_model_config("wm", "", "transcript").dialect == "transcript"
    for text in ("{", "[1]"):
        said.write_text(text)
        with pytest.raises(UserError, match=r"world_model.json: .*write keys of world_model"):
            world_model_config("wm")


def test_a_run_directory_keeps_its_experiment(tmp_path: Path) -> None:
    from launch.config import load, save_resolved

    path = write_config(tmp_path, "trainer: {trl: {max_steps: 8}}\n")
    check_same_experiment(load(path))
    save_resolved(load(path), load(path).run_dir)
    check_same_experiment(load(path, ["trainer.trl.max_steps=16", "rollout.workers=2"]))
    for override in ("seed=1", "tasks.train=5", "rollout.group_size=4", "world=real"):
        with pytest.raises(ConfigError, match=override.split("=")[0].removesuffix(".train")):
            check_same_experiment(load(path, [override]))


def test_number_of_batches(tmp_path: Path) -> None:
    from launch.config import load

    path = write_config(tmp_path)
    base = ["rollout.group_size=4", "rollout.groups_per_batch=4", "trainer.trl.max_steps=12"]
    assert num_batches(load(path, [*base, "trainer.trl.per_device_train_batch_size=16"])) == 12
    assert num_batches(load(path, [*base, "trainer.trl.per_device_train_batch_size=4"])) == 3
    two = [*base, "trainer.trl.per_device_train_batch_size=4", "trainer.trl.gradient_accumulation_steps=4"]
    assert num_batches(load(path, two)) == 12
    assert num_batches(load(path, [*base, "processes=2", "trainer.trl.per_device_train_batch_size=4"])) == 6
    assert num_batches(load(path)) is None


def test_unknown_family_is_named() -> None:
    with pytest.raises(TaskError, match="known"):
        generate("train", 1, 0, ["nonsense"])
