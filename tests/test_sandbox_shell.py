"""One persistent shell: state carries over, output is exact, every end is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worldmodel.sandbox import Limits, Machine

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(60)]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine({"files": {"a.txt": "b\na\n", "d/x": "1"}, "dirs": ["logs"], "modes": {"a.txt": "640"}}) as made:
        yield made


@pytest.mark.parametrize(
    ("command", "text", "status"),
    [
        ("sort a.txt", "a\nb", 0),
        ("true", "", 0),
        ("nope", "bash: nope: command not found", 127),
        ("cat missing", "cat: missing: No such file or directory", 1),
        ("echo out; echo err >&2; echo out", "out\nerr\nout", 0),
        ("printf 'no newline'", "no newline", 0),
        ("echo 'it'\\''s' \"q\" `echo b` $((1+2))", "it's q b 3", 0),
        ("cat <<E\nfoo\nE", "foo", 0),
        ("for i in 1 2\ndo echo $i\ndone", "1\n2", 0),
        ("echo 'open", "bash: unexpected EOF while looking for matching `''", 2),
        ("# only a comment", "", 0),
        ("-n", "bash: -n: command not found", 127),
        ("echo ${none:?unset}; echo not reached", "bash: none: unset", 1),
        ("cat", "", 0),
        ("read x; echo \"$?\"", "1", 0),
        ("stat -c '%a %U %G' a.txt d d/x logs", "640 user user\n755 user user\n644 user user\n755 user user", 0),
        ("pwd; echo $HOME ~; id -un; hostname; umask", "/home/user\n/home/user /home/user\nuser\nbox\n0022", 0),
        ("echo $PS1 $LC_ALL $TZ; locale charmap", "$ C.UTF-8 UTC0\nUTF-8", 0),
        ("date; date -u +%F", "Wed Jan  1 12:00:00 UTC 2025\n2025-01-01", 0),
        ("date -d @0 +%Y; date -r a.txt +%T", "1970\n00:00:00", 0),
        ("ls -l a.txt", "-rw-r----- 1 user user 4 Jan  1 00:00 a.txt", 0),
        ("echo x > new; ls -l new", "-rw-r--r-- 1 user user 2 Jan  1 00:00 new", 0),
        ("echo !! !x; history", "!! !x", 0),
        ("bash -c 'kill -SEGV $$'", "", 139),
        ("printf 'caf\\u00e9\\n'", "café", 0),
    ],
)  # fmt: skip
def test_a_command_prints_what_it_prints(machine: Machine, command: str, text: str, status: int) -> None:
    screen = machine.run(command)
    assert (screen.text, screen.status, screen.end) == (text, status, "ok")


def test_state_carries_over_between_commands(machine: Machine) -> None:
    assert machine.run("cd d; x=5; f() { echo f=$1; }; alias hi='echo hi'; export E=1").text == ""
    assert machine.run("pwd; echo $x; f 2; hi; bash -c 'echo $E'").text == "/home/user/d\n5\nf=2\nhi\n1"
    for status in (0, 1, 3, 127):
        machine.run(f"(exit {status})")
        assert machine.run("echo $?").text == str(status)
    machine.run("sleep 100 &")
    assert machine.run("kill %1; wait; echo gone").text.endswith("gone")


@pytest.mark.parametrize(
    ("command", "end", "last"),
    [
        ("echo a; exit 3", "exit", "[shell exited]"),
        ("echo a; set -e; false", "exit", "[shell exited]"),
        ("echo a; kill -9 $$", "exit", "[shell exited]"),
        ("echo a; exec true", "exit", "[shell exited]"),
        ("echo a; sleep 60", "timeout", "[timed out]"),
        ("echo a; yes", "flood", "[too much output]"),
        ("echo a; kill -STOP $$", "timeout", "[timed out]"),
    ],
)
def test_a_lost_shell_is_told_and_replaced_on_the_same_files(
    machine: Machine, command: str, end: str, last: str
) -> None:
    machine.run("cd d; echo kept > f; x=5")
    screen = machine.run(command, 1.0 if end == "timeout" else 5.0)
    assert (screen.end, screen.status, screen.text.split("\n")[-1]) == (end, None, last)
    assert machine.run("pwd; cat d/f; echo x=$x; set -- /proc/[0-9]*; echo $#").text == "/home/user\nkept\nx=\n2"


def test_late_output_of_a_background_job_belongs_to_the_next_command(machine: Machine) -> None:
    assert machine.run("(sleep 0.2; echo late) & echo now").text.endswith("now")
    assert machine.run("sleep 0.5; echo end").text == "late\nend"


def test_large_output_within_the_limit_arrives_whole(machine: Machine) -> None:
    screen = machine.run("seq 100000; echo end")
    assert screen.end == "ok" and screen.cut and screen.text.endswith("100000\nend")
    assert machine.run("echo next").text == "next"


def test_a_deadline_of_one_command_is_its_own(machine: Machine) -> None:
    assert machine.run("sleep 0.4; echo a", 5.0).text == "a"
    assert machine.run("sleep 5", 0.2).end == "timeout"


def test_probes_see_the_final_state_from_home_with_a_clean_shell(machine: Machine) -> None:
    machine.run("cd d; x=1; echo new > y; chmod 600 y")
    listing, variable, status = machine.probe(["pwd; cat d/y; stat -c %a d/y", "echo x=$x", "cat missing"])
    assert listing.text == "/home/user\nnew\n600" and variable.text == "x="
    assert (status.text, status.status) == ("cat: missing: No such file or directory", 1)
    assert machine.run("echo again >> d/y; cat d/y").text == "new\nagain"


def test_keystrokes_drive_a_terminal() -> None:
    with Machine({"files": {"a.txt": "b\na\n"}}, keys=True) as machine:

        def press(*keys: str, wait: float = 0.4) -> list[str]:
            return machine.press([{"keystrokes": key, "duration": wait} for key in keys]).text.split("\n")

        assert press("sort a.txt\n") == ["$ sort a.txt", "a", "b", "$"]
        assert press("sleep 60\n")[-1] == "$ sleep 60"  # still running: only its echo
        assert press("C-c")[-2:] == ["^C", "$"]
        assert press("cat\n", "hello\n", "C-d")[-4:] == ["$ cat", "hello", "hello", "$"]
        assert press("C-l") == ["$"]
        assert press("stty size; echo done\n")[-3:] == ["40 80", "done", "$"]
        assert len(press("seq 100\n")) == 40
        assert machine.press([{"keystrokes": "", "duration": 0.1}]).text.endswith("100\n$")
        assert press("exit\n")[-1] == "[shell exited]"
        assert press("cat a.txt\n") == ["$ cat a.txt", "b", "a", "$"]
        (reply,) = machine.probe(["cat a.txt"])
        assert reply.text == "b\na"


def test_a_flooded_terminal_is_killed() -> None:
    with Machine({}, Limits(output=64 * 1024), keys=True) as machine:
        screen = machine.press([{"keystrokes": "yes\n", "duration": 10.0}])
        assert screen.end == "flood" and screen.text.endswith("[too much output]")
        assert len(screen.text.split("\n")) <= 40
