"""A new domain is one folder: the worked example of docs/domains.md, beside an untouched copy of the packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rollout", "worldmodel", "trainer", "launch")
SKIPPED = shutil.ignore_patterns("__pycache__", "weights")


def example() -> dict[str, str]:
    """The files of the worked example, by path."""
    text = (ROOT / "docs" / "domains.md").read_text(encoding="utf-8")
    found = re.findall(r"^`(worldmodel/domains/tally/[\w.]+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=SKIPPED)
    (root / "tests").mkdir()
    for name in ("tests/test_domains.py", "tests/conftest.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, root / name)
    files = example()
    assert {Path(file).name for file in files} == {"__init__.py", "simulator.txt", "real.py", "tasks.py", "kit.py"}
    for file, text in files.items():
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(text, encoding="utf-8")
    return root


def run(place: Path, *command: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(600)
def test_the_contract_holds(place: Path) -> None:
    said = run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_domains.py", "-k", "tally")
    passed = re.search(r"(\d+) passed", said)
    assert passed and int(passed[1]) >= 10 and "failed" not in said


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(600)
def test_it_is_collected_measured_and_mixed(place: Path) -> None:
    cli = ("-m", "launch.cli")
    run(place, *cli, "collect", "--domain", "tally", "--out", "t", "--episodes", 60, "--workers", 1, "--twice")
    manifest = json.loads((place / "t" / "manifest.json").read_text())
    assert manifest["n_episodes"] == 60 and manifest["by_domain"]["tally"]["failing_share"] >= 0.4
    assert {"add", "drop", "list", "error"} <= set(manifest["by_command_class"])
    assert "100.0%" in run(place, *cli, "eval", "--domain", "tally", "--policy", "gold", "--tasks", 30)
    assert "0.0%" in run(place, *cli, "eval", "--domain", "tally", "--policy", "empty", "--tasks", 30)
    mixed = ("tasks", "--domain", "tally,terminal", "--mix", "tally=3", "--count", 8, "--split", "train")
    run(place, *cli, *mixed, "--out", "m.jsonl")
    rows = [json.loads(line) for line in (place / "m.jsonl").read_text().splitlines()]
    assert [row["domain"] for row in rows].count("tally") == 6


def test_the_example_is_formatted_like_the_project(tmp_path: Path) -> None:
    """Lines fit, and every module says what it owns."""
    for file, text in example().items():
        assert max(map(len, text.splitlines())) <= 120, file
        if file.endswith(".py"):
            assert text.startswith('"""'), file
            compile(text, file, "exec")
