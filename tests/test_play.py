"""A person in the place of the policy, or of the world, over piped standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.person import read_text
from rollout.store import read_trajectories
from tests.fake_chat import FakeServer, ok
from worldmodel.domains import kit

ANDROID = kit("android").generate("heldout", 1, 5)[0]
TERMINAL = kit("terminal").generate("heldout", 1, 0)[0]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def run(typed: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setattr(sys, "argv", ["agentworld", "play", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.parametrize("end", ["\n\n", "\n.\n"])
def test_a_person_solves_a_task_and_keeps_the_trajectory(play, tmp_path: Path, end: str) -> None:
    typed = "".join(action + end for action in ANDROID.reference.gold)
    status, out, err = play(typed, "android", "--task-seed", "5", "--out", "t.jsonl")
    assert (status, err) == (0, "")
    assert ANDROID.instruction in out and out.count("--- observation") == len(ANDROID.reference.gold) - 1
    assert f"--- success after {len(ANDROID.reference.gold)} turns (done)" in out
    assert all(f"passed  {check.name}" in out for check in ANDROID.checks)
    (trajectory,) = read_trajectories(tmp_path / "t.jsonl")
    assert trajectory.task == ANDROID and trajectory.score.reward == 1.0
    assert [turn.action.text for turn in trajectory.turns] == list(ANDROID.reference.gold)
    status, _, err = play(typed, "android", "--out", "t.jsonl")
    assert status == 2 and "t.jsonl: exists already" in err


def test_a_failed_check_says_what_was_there(play) -> None:
    status, out, _ = play(f"{ANDROID.reference.gold[-1]}\n.\n", "android", "--task-seed", "5")
    assert status == 0 and "--- failure after 1 turns" in out
    assert any(line.startswith("FAILED  ") and ": " in line for line in out.splitlines())


def test_input_that_ends_early_is_one_line(play, tmp_path: Path) -> None:
    status, _, err = play('{"action_type": "navigate_home"}\n\n', "android", "--out", "t.jsonl")
    assert status == 2 and err == "error: the input ended before the episode did: there is no verdict\n"
    assert not (tmp_path / "t.jsonl").exists()


def test_a_person_is_the_world_and_is_asked_the_probes(play) -> None:
    """The gold policy acts; the person answers its steps, then what each check asks, truthfully."""
    answers = ["drwxr-xr-x \x1b[31mok"] * (len(TERMINAL.reference.gold) - 1)
    probed = [TERMINAL.checks[0].predicate.value] * len(TERMINAL.checks[0].probes)
    typed = "".join(f"{text.rstrip()}\n.\n" for text in [*answers, *probed])
    status, out, err = play(typed, "terminal", "--as", "world")
    assert (status, err) == (0, "") and "--- success after" in out
    assert "You are a Linux terminal." in out and TERMINAL.reference.gold[0] in out
    assert TERMINAL.instruction not in out and "\x1b" not in out


def test_a_person_acts_in_a_served_simulator(play) -> None:
    server = FakeServer()
    server.replies = [ok("nothing to see")]
    try:
        arguments = ("--world-model", server.url, "--served-model", "m", "--dialect", "transcript")
        status, out, err = play("ls\n\ndone\n\n", "terminal", "--world", "sim", *arguments)
    finally:
        server.http.shutdown()
        server.http.server_close()
    assert (status, err) == (0, "")
    assert out.count("nothing to see") >= 1 and "--- failure after 2 turns (done)" in out


def test_what_does_not_go_together_is_refused(play) -> None:
    for arguments, words in (
        (("terminal", "--world", "sim"), "--world-model"),
        (("terminal", "--world-model", "x"), "--world sim"),
        (("terminal", "--as", "world", "--world", "sim"), "you are the world"),
        (("terminla",), "did you mean terminal"),
    ):
        status, _, err = play("", *arguments)
        assert status == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize(("typed", "text"), [("a\nb\n\nc\n", "a\nb"), ("\n", ""), (".\n", ""), ("a\r\n", "a")])
async def test_a_text_ends_with_an_empty_line_a_dot_or_the_input(
    monkeypatch: pytest.MonkeyPatch, typed: str, text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert await read_text() == text
