"""AgentBench's operating-system tasks: records of the same form, written for these tests, in the real sandbox."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from rollout.errors import ConfigError, WorldFault
from rollout.spot import replay_actions, success
from rollout.types import Check, Predicate
from worldmodel.domains.terminal import agentbench
from worldmodel.domains.terminal.agentbench import ANSWER_FILE, DATA, FILES, LEFT_OUT, WHEEL, exercises, here, task
from worldmodel.domains.terminal.agentbench_real import AgentBenchEnvironment
from worldmodel.domains.terminal.kit import KIT

ROOT = "/" + "root"  # their home
SAME = {"language": "python", "file": "check/same.py"}
RECORDS = {
    "test": [
        {"id": 0, "description": "How many .tep files are below /home/agent?",
         "create": {"init": {"code": "mkdir d; touch /home/agent/a.tep ~/d/b.tep c.txt"}},
         "evaluation": {"check": [None, SAME], "example": {"code": "find . -name '*.tep' | wc -l"}}},
        {"id": 1, "description": "Count what a script makes.", "create": {"init": {"file": "init/absent.sh"}},
         "evaluation": {"check": [None, SAME], "example": "ls | wc -l"}},
        {"id": 2, "description": f"Implement shout in {ROOT}.", "create": {"local": "default"},
         "evaluation": {"check": {"file": "checking/shout.sh"}, "example": {"file": "example/shout.sh"}}},
        {"id": 37, "description": "Count processes.",
         "evaluation": {"check": [None, SAME], "example": "ps | wc -l"}},
        {"id": 89, "description": "Make two folders in ~/made and count them with it.",
         "create": {"init": "mkdir ~/made"},
         "evaluation": {"check": [None, SAME], "example": "mkdir -p ~/made/{a,b} && find ~/made -type d | wc -l"}},
    ],
    "dev": [
        {"id": 0, "description": f"Which file below {ROOT} grows?",
         "create": {"init": {"code": f"touch {ROOT}/one {ROOT}/two"}},
         "start": f"python3 -c 'import time\nwhile 1:\n\tprint(file=open(\"{ROOT}/two\", \"a\"))\n\ttime.sleep(0.1)' &",
         "evaluation": {"match": "two"}},
        {"id": 1, "description": "Its reference says nothing.",
         "evaluation": {"check": [None, SAME], "example": "true"}},
    ],
}  # fmt: skip
SCRIPTS = {
    "check/same.py": "import sys\nsys.exit(int(sys.argv[1]) != int(sys.argv[2]))\n",
    "checking/shout.sh": '[ "$(shout abc)" = ABC ] || exit 1\n',
    "example/shout.sh": "cd /usr/local/bin\nprintf '#!/bin/bash\\necho \"${1^^}\"\\n' > shout\nchmod +x shout\n",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds the records above in place of the wheel's."""
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    data = WHEEL.path / DATA
    for name, text in SCRIPTS.items():
        (data / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        (data / "scripts" / name).write_text(text, encoding="utf-8")
    for split, records in RECORDS.items():
        (data / FILES[split]).write_text(json.dumps(records), encoding="utf-8")


def act(key: str, *actions: str) -> bool | None:
    made = task(exercises()[key])
    environment = KIT.real()(made, 0)
    assert isinstance(environment, AgentBenchEnvironment)
    results, _ = asyncio.run(replay_actions(environment, made, actions, time.monotonic() + 60))
    return success(results)


def test_paths_of_a_container_become_those_of_a_box() -> None:
    assert here(f"ls /home/agent {ROOT}/.x /home /home/user/a") == "ls /home/user /home/user/.x /home/user /home/user/a"
    assert here(f"find ~ -path {ROOT}s -o -path /homes") == f"find ~ -path {ROOT}s -o -path /homes"


def test_before_set_up_the_source_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="agentworld setup terminal"):
        KIT.sources["agentbench-os"](1)
    assert not KIT.missing() or "bwrap" in KIT.missing(), "the terminal itself needs no set-up"


def test_what_cannot_be_done_here_is_left_out(installed: None) -> None:
    offered = [made.id for made in KIT.sources["agentbench-os"](100)]
    assert offered == [f"agentbench-os/{key}" for key in ("test-0", "test-2", "test-89", "dev-0", "dev-1")]
    assert exercises()["test-1"].lacking == "init/absent.sh" and "test-37" in sum(LEFT_OUT.values(), ())


def test_a_task_holds_nothing_of_check_and_reference_but_the_reference(installed: None) -> None:
    made = task(exercises()["test-0"])
    assert "*.tep" not in json.dumps([made.instruction, made.world.state, [list(c.probes) for c in made.checks]])
    assert made.world.state == {} and "/home/agent" not in made.instruction and ANSWER_FILE in made.instruction


@pytest.mark.sandbox
@pytest.mark.parametrize("key", ["test-0", "test-2", "test-89", "dev-0"])
def test_its_own_solution_passes_and_nothing_fails(installed: None, key: str) -> None:
    assert act(key, exercises()[key].solution, "done") is True
    assert act(key, "done") is False


@pytest.mark.sandbox
@pytest.mark.parametrize(
    "said",
    [
        f"echo 3 > {ANSWER_FILE}",
        f"echo many > {ANSWER_FILE}",
        f"mkfifo {ANSWER_FILE}",
        f"mkdir {ANSWER_FILE}",
        f"head -c 3000 /dev/zero > {ANSWER_FILE}",
        f"rm -r ~/*; echo 0 > {ANSWER_FILE}",  # the world made to fit the answer
        f"printf '2; exit 0' > {ANSWER_FILE}",
        f"printf 'print(2)' > sys.py; printf 'int=lambda x:0' > sitecustomize.py; echo 7 > {ANSWER_FILE}",
    ],
)
def test_an_answer_that_is_not_the_expected_one_fails(installed: None, said: str) -> None:
    assert act("test-0", said, "done") is False


@pytest.mark.sandbox
def test_the_right_answer_counts_whatever_was_done_to_the_world(installed: None) -> None:
    assert act("test-0", f"rm -r ~/*; printf ' 2\\n\\n' > {ANSWER_FILE}; find(){{ exit 9; }}", "done") is True


@pytest.mark.sandbox
def test_scripts_and_expected_answer_are_not_in_the_machine(installed: None) -> None:
    async def seen() -> str:
        environment = AgentBenchEnvironment(task(exercises()["test-0"]))
        try:
            await environment.start()
            look = (
                "ls -A ~ /tmp /opt 2>&1; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; grep -rl 'wc -l' ~ /tmp || echo none"
            )
            return (await environment.step(environment.parse(look))).text
        finally:
            await environment.close()

    text = asyncio.run(seen())
    assert "a.tep" in text and "same.py" not in text and "-name" not in text and text.endswith("none")


@pytest.mark.sandbox
def test_a_reference_that_says_nothing_is_a_fault_and_no_failure(installed: None) -> None:
    with pytest.raises(WorldFault, match="dev-1: its reference printed nothing"):
        act("dev-1", "done")


@pytest.mark.sandbox
def test_another_probe_gets_no_verdict(installed: None) -> None:
    async def verdict() -> bool | None:
        environment = AgentBenchEnvironment(task(exercises()["test-0"]))
        try:
            await environment.start()
            return success(await environment.verify([Check("x", ("ls",), Predicate("contains", "a.tep"))]))
        finally:
            await environment.close()

    assert asyncio.run(verdict()) is None


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
def test_the_installed_tasks() -> None:
    """The first and last of them; bench/agentbench_audit.py tries all."""
    try:
        offered = agentbench.usable()
    except ConfigError as error:
        pytest.skip(str(error))
    assert len(offered) == 117 and len(exercises()) == 145
    assert not {key for keys in LEFT_OUT.values() for key in keys} - set(exercises()), (
        "LEFT_OUT names what is not there"
    )
    for exercise in [*offered[:4], *offered[-4:], exercises()["test-92"], exercises()["test-31"]]:
        assert act(exercise.key, exercise.solution, "done") is True, exercise.key
        assert act(exercise.key, "done") is False, exercise.key
