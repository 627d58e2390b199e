"""A long-running program in a box: lines in, lines out, and its end in every case."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from worldmodel.sandbox import Limits, Machine, SandboxError, stop_keeper

pytestmark = pytest.mark.sandbox

ECHO = ("/usr/bin/python3", "-c", "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)")


def test_lines_go_in_and_come_out_while_the_shell_runs_on_the_same_files() -> None:
    with Machine({"files": {"a.txt": "one\n"}}) as machine:
        service = machine.serve(ECHO)
        assert service.ask(b"hello") == b"HELLO"
        reader = machine.serve(("/bin/sh", "-c", "while read name; do cat $name; done"))
        assert machine.run("echo two > b.txt").text == ""
        assert reader.ask(b"b.txt") == b"two" and reader.ask(b"a.txt") == b"one"
        assert service.ask(b"again") == b"AGAIN"


def test_a_probe_ends_the_services_first() -> None:
    writer = ("/bin/sh", "-c", "read x; while :; do date +%N > /home/user/now; done")
    with Machine({}) as machine:
        service = machine.serve(writer)
        service.send(b"go")
        first, second = machine.probe(["cat now; sleep 0.1", "cat now"])
        assert first.text == second.text and not service.running
        with pytest.raises(SandboxError, match="not running"):
            service.ask(b"x")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sleep 60", "did not answer in time"),
        ("exit 3", "ended"),
        ("read x; yes | tr -d '\\n'", "a line of more than 4096 bytes"),
        ("kill -9 $$", "ended"),
    ],
)
def test_no_answer_is_a_typed_fault_and_the_box_is_gone(program: str, message: str) -> None:
    with Machine({}, Limits(output=4096)) as machine:
        service = machine.serve(("/bin/sh", "-c", program))
        with pytest.raises(SandboxError, match=message):
            service.ask(b"hello", 0.5)
        assert not service.running
        assert machine.run("echo fine").text == "fine"


def test_a_service_killed_from_outside_is_no_longer_running_though_nobody_asked_it() -> None:
    with Machine({}) as machine:
        service = machine.serve(ECHO)
        assert service.ask(b"hello") == b"HELLO" and service.running
        signal.pidfd_send_signal(service.pidfds[0], signal.SIGKILL)
        until = time.monotonic() + 10
        while service.running and time.monotonic() < until:
            time.sleep(0.01)
        assert not service.running
        with pytest.raises(SandboxError, match="ended"):
            service.ask(b"again")
        assert machine.serve(ECHO).ask(b"again") == b"AGAIN"


def test_a_program_that_does_not_read_is_noticed() -> None:
    with Machine({}) as machine:
        service = machine.serve(("/bin/sleep", "60"))
        began = time.monotonic()
        with pytest.raises(SandboxError, match="did not read in time"):
            for _ in range(100):
                service.send(b"x" * 10_000, 0.3)
        assert time.monotonic() - began < 5


def test_a_folder_of_the_host_is_shown_read_only_even_below_a_closed_one(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    shown = closed / "shown"
    shown.mkdir(parents=True)
    (shown / "tool.txt").write_text("here\n")
    closed.chmod(0o700)
    with Machine({}, shows={"tools": shown}) as machine:
        assert machine.run("cat /opt/tools/tool.txt").text == "here"
        assert "Read-only file system" in machine.run("echo x > /opt/tools/new").text
        assert machine.run("ls /opt").text == "tools"
        assert machine.serve(("/bin/cat", "/opt/tools/tool.txt")).receive() == b"here"
        assert machine.probe(["cat /opt/tools/tool.txt"])[0].text == "here"
    with Machine({}) as machine:
        assert "No such file" in machine.run("ls /opt/tools").text
    stop_keeper()
    assert os.listdir(shown) == ["tool.txt"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "A"])
def test_a_shown_folder_must_have_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="must be lower-case"):
        Machine({}, shows={name: tmp_path})


def test_a_shown_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="a folder that is there"):
        Machine({}, shows={"tools": tmp_path / "none"})


def test_a_program_that_ended_before_it_was_held_has_ended_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with Machine({}) as machine:

        def gone(pid: int) -> int:
            raise ProcessLookupError(3, "No such process")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", gone)
            service = machine.serve(("/bin/true",))
        with pytest.raises(SandboxError, match="ended"):
            service.ask(b"hello", 5.0)
        service.kill()
        assert machine.run("echo fine").text == "fine"
