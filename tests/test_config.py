"""The experiment's config: shipped files parse, mistakes are one line with the nearest key."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch.config import ExperimentConfig, dump, load, save_resolved
from launch.errors import leaf_keys, nearest, one_line, strip_controls
from launch.train import num_batches
from rollout.errors import AgentworldError, ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MINIMAL = "run_dir: runs/x\npolicy: models/p\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configs_parse_and_are_complete(path: Path) -> None:
    config = load(path)
    written = yaml.safe_load(path.read_text())
    assert set(written) == set(ExperimentConfig.model_fields), "a shipped file states every section"
    assert config.trainer.trl["max_steps"] > 0
    assert num_batches(config) is not None
    if config.deepspeed:
        assert json.loads(Path(config.deepspeed).read_text())["zero_optimization"]["stage"] in (1, 2, 3)


def test_both_shipped_files_are_there() -> None:
    assert {p.name for p in CONFIGS} >= {"quickstart.yaml", "train_two_processes.yaml"}


def test_at_most_sixty_keys_and_each_is_reachable() -> None:
    keys = leaf_keys(ExperimentConfig)
    assert len(keys) == len(set(keys)) <= 60
    assert {"seed", "tasks.train", "rollout.budgets.world", "world_model.path", "trainer.trl"} <= set(keys)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("polcy: a\n" + MINIMAL, [], ["experiment.yaml", "'polcy'", "did you mean 'policy'"]),
        (MINIMAL + "rollout: {group_sise: 4}\n", [], ["'rollout.group_sise'", "'rollout.group_size'"]),
        (MINIMAL + "group_size: 4\n", [], ["'group_size'", "'rollout.group_size'"]),
        (MINIMAL + "rollout: {budgets: {wrld: 4}}\n", [], ["'rollout.budgets.wrld'", "'rollout.budgets.world'"]),
        (MINIMAL + "trainer: {trl: {lerning_rate: 1}}\n", [], ["experiment.yaml", "learning_rate"]),
        (MINIMAL + "trainer: {trl: {top_p: 0.5}}\n", [], ["top_p", "refused"]),
        (MINIMAL + "zzzz: 4\n", [], ["'zzzz'", "valid keys here", "run_dir"]),
        ("run_dir: x\n", [], ["experiment.yaml", "'policy' is missing"]),
        (MINIMAL, ["seed=-1"], ["override 'seed=-1'", "'seed'"]),
        (MINIMAL, ["rollout.workers=many"], ["override 'rollout.workers=many'", "many"]),
        (MINIMAL, ["rollout.wrkers=2"], ["override", "'rollout.workers'"]),
        (MINIMAL, ["seed"], ["override 'seed'", "key=value"]),
        (MINIMAL, ["seed=[1"], ["seed=[1"]),
        (MINIMAL, ["world_model.kind=server"], ["world_model.url"]),
        (MINIMAL, ["rollout.max_tokens=9999"], ["max_context"]),
        (MINIMAL + "tasks: {file: '${seed}'}\n", [], ["interpolation"]),
        ("- a\n- b\n", [], ["experiment.yaml", "mapping"]),
        ("a: [1\n", [], ["experiment.yaml", "YAML"]),
        (MINIMAL + "seed: 1\nseed: 2\n", [], ["experiment.yaml", "seed"]),
        ("", [], ["experiment.yaml"]),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(AgentworldError) as caught:
        load(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(AgentworldError, match="no such config file"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load(tmp_path / "binary.yaml")


def test_overrides_win_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", MINIMAL + "deepspeed: ds.json\nworld_model: {path: wm}\ntasks: {file: t.jsonl}\n")
    config = load(path, ["seed=5", "trainer.trl.learning_rate=1e-5"])
    assert config.seed == 5 and config.trainer.trl["learning_rate"] == 1e-5
    assert config.run_dir == str(tmp_path / "runs/x") and config.policy == str(tmp_path / "models/p")
    assert config.world_model.path == str(tmp_path / "wm") and config.tasks.file == str(tmp_path / "t.jsonl")
    assert config.deepspeed == str(tmp_path / "sub" / "ds.json")


def test_resolved_config_reads_back_unchanged(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL), ["seed=3", "trainer.trl={max_steps: 4, loss_type: dapo}"])
    saved = save_resolved(config, tmp_path / "run")
    assert saved.name == "config.resolved.yaml" and load(saved) == config
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert yaml.safe_load(dump(config))["rollout"]["budgets"]["world"] == config.rollout.budgets.world


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line == line.strip() and len(line.splitlines()) <= 1
    assert strip_controls(line) == line


def test_nearest() -> None:
    assert nearest("grup_size", ["group_size", "slots"]) == "group_size"
    assert nearest("zzz", ["group_size", "slots"]) is None
