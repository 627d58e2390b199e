"""The terminal's grammars, prompts and specs."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.types import Action, Check, Predicate, Reference, Task, World
from worldmodel.domains.terminal import TERMINAL, TERMINAL_KEYS, inspection, transcript
from worldmodel.prompt import compact, static_parts
from worldmodel.sandbox import Machine

STATE = {
    "files": {"b c.txt": "one\ntwo\n", "a.txt": "x", "empty": "", "d/deep.sh": "#!/bin/sh\necho 'hi'\n\n"},
    "dirs": ["out", "logs/"],
    "modes": {"d/deep.sh": "755", "a.txt": "0600"},
}
TASK = Task(
    id="t", domain="terminal", family="f", split="train", instruction="INSTRUCTION", world=World(STATE, secret=""),
    checks=(Check("CHECKNAME", ("PROBE",), Predicate("equals", "VALUE")),),
    reference=Reference(("GOLD",), (("WRONG",),)), max_turns=3, seed=0,
)  # fmt: skip


@pytest.mark.parametrize("text", ["done", " done\n", "\tdone "])
def test_done_alone_ends_the_episode(text: str) -> None:
    for domain in (TERMINAL, TERMINAL_KEYS):
        action = domain.parse(text)
        assert action.final and action.error is None and action.text == text


def test_a_command_is_the_whole_stripped_text() -> None:
    action = TERMINAL.parse("  grep -c done a.txt\nls \n")
    assert action == Action("  grep -c done a.txt\nls \n", "run", {"command": "grep -c done a.txt\nls"})
    assert TERMINAL.show(action) == "grep -c done a.txt\nls"
    assert not TERMINAL.parse("done now").final and not TERMINAL.parse("Done").final


@pytest.mark.parametrize("text", ["", " \n", "a\0b", "x" * 20_000, "é" * 10_000])
def test_what_is_no_command_is_an_action_with_an_error(text: str) -> None:
    action = TERMINAL.parse(text)
    assert action.error and "\n" not in action.error and not action.final


@given(st.text(max_size=300))
def test_parsing_never_raises_and_keeps_the_text(text: str) -> None:
    for domain in (TERMINAL, TERMINAL_KEYS):
        action = domain.parse(text)
        assert action.text == text
        assert (action.error is None) == (action.name != "")
        assert isinstance(domain.show(action), str)


def test_keystrokes_are_a_json_array() -> None:
    text = json.dumps([{"keystrokes": "ls\n", "duration": 0.1}, {"keystrokes": "C-c"}])
    action = TERMINAL_KEYS.parse(text)
    assert action.arguments["keys"] == [
        {"keystrokes": "ls\n", "duration": 0.1},
        {"keystrokes": "C-c", "duration": 1.0},
    ]
    assert TERMINAL_KEYS.show(action) == text
    assert TERMINAL_KEYS.parse("[]").name == "confirm"


@pytest.mark.parametrize(
    "text",
    [
        "ls", "{}", "[1]", '[{"keystrokes": 1}]', '[{"keystrokes": "a", "duration": "1"}]', '[{"duration": 1}]',
        '[{"keystrokes": "a", "duration": -1}]', '[{"keystrokes": "a", "duration": 61}]',
        '[{"keystrokes": "a", "duration": true}]', '[{"keystrokes": "a", "duration": NaN}]', "[" * 5000,
        json.dumps([{"keystrokes": "a"}] * 33),
    ],
)  # fmt: skip
def test_other_json_is_an_error(text: str) -> None:
    assert TERMINAL_KEYS.parse(text).error


def test_the_policy_reads_one_short_line_and_the_instruction() -> None:
    system, user = TERMINAL.prompt(TASK).messages
    assert (system.role, user.role, user.content) == ("system", "user", "INSTRUCTION")
    assert system.content == "Terminal. Reply with one shell command, or done."


def test_the_simulator_reads_the_state_and_nothing_of_the_task() -> None:
    for domain in (TERMINAL, TERMINAL_KEYS):
        text = compact(domain.spec(TASK.world))
        assert "one\ntwo\n" in text
        assert not re.search("INSTRUCTION|CHECKNAME|PROBE|VALUE|GOLD|WRONG", text)
        spec = domain.spec(TASK.world)
        parts = (spec.task_description, spec.action_space, spec.initial_state, spec.demonstrations)
        assert all(parts) and spec.simulation_instruction


def test_static_text_is_brief_and_all_five_parts_exist() -> None:
    parts = static_parts("worldmodel.domains.terminal")
    assert set(parts) == {"task_description", "action_space", "demonstrations", "simulation_instruction"}
    assert sum(len(part.split()) for part in parts.values()) <= 40
    assert TERMINAL.spec(World()).initial_state == "$ ls\n"


def test_domains_are_picklable_values() -> None:
    assert pickle.loads(pickle.dumps(TERMINAL)) == TERMINAL != TERMINAL_KEYS


@pytest.mark.sandbox
@pytest.mark.parametrize("state", [STATE, {"files": {"z": "1\n"}}, {"dirs": ["x y"]}, {}])
def test_the_initial_state_is_what_a_real_machine_prints(state: dict[str, dict[str, str]]) -> None:
    """Command by command: the transcript is a session that could have been recorded."""
    with Machine(state) as machine:
        session = ""
        for command in inspection(state) or ["ls"]:
            printed = machine.run(f"{command}; echo .").text.removesuffix(".")
            session += f"$ {command}\n" + (printed if not printed or printed.endswith("\n") else printed + "\n")
    assert transcript(state) == session
