"""Life and death of machines: nothing is left behind, faults are faults, siblings do not meet."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from worldmodel.sandbox import Limits, Machine, SandboxError, stop_keeper
from worldmodel.sandbox.link import keeper

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[1]
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root to look at or become another user")
WORKER = """
    import sys; sys.path.insert(0, {root!r})
    from worldmodel.sandbox import Limits, Machine
    from worldmodel.sandbox.link import keeper
    machines = [Machine({{"files": {{"a": "x"}}}}) for _ in range(3)]
    for machine in machines:
        machine.start()
        machine.run("setsid sleep 987 & trap '' TERM; sleep 986 & head -c 100000 /dev/zero > big")
    print(keeper().pid, flush=True)
    print(machines[0].run("echo ready").text, flush=True)
    machines[0].run("sleep 60", 60.0)
"""


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in children.read_text().split()] if children.exists() else []
    return direct + [below for child in direct for below in descendants(child)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def traces_on_host(boxkeeper: int) -> tuple[str, list[str], list[str]]:
    """Mounts, cgroups and folders that a leak would show up in."""
    groups = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"agentworld-box-{boxkeeper}" in folder]
    return (
        Path("/proc/self/mountinfo").read_text(),
        groups,
        sorted(os.listdir("/media") if Path("/media").exists() else []),
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_leaves_no_process_mount_or_cgroup(sign: int) -> None:
    stop_keeper()
    before = traces_on_host(0)
    code = textwrap.dedent(WORKER.format(root=str(ROOT)))
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    boxkeeper = int(worker.stdout.readline())
    assert worker.stdout.readline() == "ready\n"
    family = [boxkeeper, *descendants(boxkeeper)]
    assert len(family) >= 1 + 3 * 5  # bubblewrap twice, bash and two sleepers per machine
    worker.send_signal(sign)
    worker.wait(10)
    worker.stdout.close()
    assert eventually(lambda: not any(running(pid) for pid in family)), "a process of the box is still alive"
    assert eventually(lambda: traces_on_host(boxkeeper) == before), "a mount, cgroup or folder was left"


def test_a_killed_keeper_is_a_fault_of_the_world_and_the_next_machine_works() -> None:
    machine = Machine({"files": {"a": "x"}})
    machine.start()
    family = [keeper().pid, *descendants(keeper().pid)]
    threading.Timer(0.2, os.kill, (keeper().pid, signal.SIGKILL)).start()
    with pytest.raises(SandboxError, match="killed from outside"):
        machine.run("sleep 5")
    with pytest.raises(SandboxError, match="keeper"):
        machine.run("echo hi")
    machine.close()
    assert eventually(lambda: not any(running(pid) for pid in family))
    with Machine({"files": {"a": "x"}}) as fresh:
        assert fresh.run("cat a").text == "x"


def test_a_stopped_keeper_is_gone_at_once_and_the_next_machine_works() -> None:
    machine = Machine({"files": {"a": "x"}})
    machine.start()
    first, began = keeper().pid, time.monotonic()
    family = [first, *descendants(first)]
    os.kill(first, signal.SIGSTOP)
    assert eventually(lambda: psutil.Process(first).status() == psutil.STATUS_STOPPED)
    with pytest.raises(SandboxError, match="keeper process is gone"):
        machine.serve(("/bin/cat",))
    with Machine({"files": {"a": "y"}}) as fresh:
        assert fresh.run("cat a").text == "y" and keeper().pid != first
    machine.close()
    assert time.monotonic() - began < 15  # and not the half minute that an answer may take
    assert eventually(lambda: not any(running(pid) for pid in family))


def test_a_keeper_that_is_lost_while_a_machine_starts_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with Machine({}):
        first = keeper()
    asked = first.ask

    def dying(body: Mapping[str, Any], descriptors: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        os.kill(first.pid, signal.SIGKILL)
        return asked(body, descriptors)

    monkeypatch.setattr(first, "ask", dying)
    with Machine({"files": {"a": "x"}}) as machine:
        assert machine.run("cat a").text == "x" and keeper() is not first


def test_closing_leaves_nothing_after_many_episodes() -> None:
    with Machine({}) as machine:
        machine.run("true")
    boxkeeper, descriptors = keeper().pid, len(os.listdir("/proc/self/fd"))
    theirs = Path(f"/proc/{boxkeeper}/fd")
    count, mounts = len(os.listdir(theirs)), Path(f"/proc/{boxkeeper}/mountinfo").read_text()
    for _ in range(10):
        with Machine({"files": {"a": "x"}}) as machine:
            machine.run("setsid sleep 100 & echo hi")
            machine.probe(["cat a"])
    with pytest.raises(RuntimeError), Machine({}):
        raise RuntimeError
    assert eventually(lambda: descendants(boxkeeper) == [])
    assert len(os.listdir("/proc/self/fd")) == descriptors and len(os.listdir(theirs)) == count
    assert Path(f"/proc/{boxkeeper}/mountinfo").read_text() == mounts


def test_a_box_that_is_killed_while_it_starts_leaves_no_half_of_it() -> None:
    with Machine({}) as machine:
        machine.run("true")
    for _ in range(10):
        with pytest.raises(SandboxError, match="no shell"):
            Machine({}, Limits(start_deadline=0.0)).start()
    assert eventually(lambda: descendants(keeper().pid) == [])


@AS_ROOT
def test_what_a_killed_keeper_was_just_starting_is_ended_by_the_next_one() -> None:
    killed = []
    for number in range(12):
        machine, victim = Machine({}), keeper()
        if not victim.facts["cgroup"]:
            pytest.skip("no memory cgroup can be written here")
        killed.append(victim.pid)
        threading.Timer(0.0005 * number, os.kill, (victim.pid, signal.SIGKILL)).start()
        with contextlib.suppress(SandboxError):
            machine.start()
        eventually(lambda victim=victim: not victim.alive)  # type: ignore[misc]
        machine.close()

    def left() -> list[int]:
        users = {0x40000000 + pid % (1 << 22) * 250 for pid in killed}  # as keeper.first_uid has them, for slot 0
        there = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [int(path.name) for path in there if path.exists() and path.stat().st_uid in users]

    assert keeper().pid not in killed
    assert eventually(lambda: not any(running(pid) for pid in left()))


def test_what_a_killed_keeper_left_of_a_starting_box_is_ended_without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bubblewrap's first process inside does not die with the keeper while it waits for the one outside."""

    def start() -> None:
        with contextlib.suppress(SandboxError):
            Machine({}).start()

    stop_keeper()
    victim = keeper()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # for the user of the box
        stand_in, started = folder / "bwrap", folder / "pid"
        stand_in.write_text(f"#!/bin/sh\nsleep 300 &\necho $! >{name}/new\nmv {name}/new {started}\nwait\n")
        stand_in.chmod(0o755)
        monkeypatch.setattr(victim, "bubblewrap", str(stand_in))
        monkeypatch.setattr("worldmodel.sandbox.machine.keeper", lambda: victim)  # no other one, which would clean up
        starting = threading.Thread(target=start)
        starting.start()
        assert eventually(started.exists)
        left = int(started.read_text())
    os.kill(victim.pid, signal.SIGKILL)
    starting.join(40)
    victim.kill()
    assert not starting.is_alive() and not running(left)


def test_siblings_do_not_meet() -> None:
    with Machine({"files": {"mine": "secret-of-one"}}) as one, Machine({}) as two:
        one.run("sleep 100 & cp mine /tmp/mine")
        seen = two.run(
            "cat /proc/*/cmdline | tr '\\0' ' '; ls -A / /tmp /home /home/user; grep -r secret-of /tmp /home"
        ).text
        assert "sleep" not in seen and "secret-of-one" not in seen and "mine" not in seen
        two.run("kill -9 -1")
        assert one.run("cat mine; jobs | wc -l").text == "secret-of-one1"


@AS_ROOT
def test_every_machine_has_its_own_unprivileged_user_on_the_host() -> None:
    with Machine({}) as one, Machine({}) as two:
        users = []
        for machine in (one, two):
            machine.run("sleep 100 &")
        for pid in descendants(keeper().pid):
            status = Path(f"/proc/{pid}/status").read_text()
            users += [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
            assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert all(len(set(ids)) == 1 and int(ids[0]) > 10000 for ids in users)
        assert len({ids[0] for ids in users}) == 2


@AS_ROOT
@pytest.mark.skipif(not shutil.which("python3", path="/usr/bin"), reason="needs a Python that every user may run")
def test_works_without_root() -> None:
    code = f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        from worldmodel.sandbox import Machine
        with Machine({{"files": {{"a": "x\\n"}}, "modes": {{"a": "640"}}}}) as machine:
            print(machine.run("id -u; stat -c %a a; head -c 30M /dev/zero > big; unshare -Ur true; id -u").text)
            print(machine.probe(["cat a; cat /etc/shadow"])[0].text)
    """
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-B", "-c"]
    done = subprocess.run([*command, textwrap.dedent(code)], capture_output=True, text=True, timeout=60, cwd="/")
    if "Permission denied" in done.stderr or "No module" in done.stderr:
        pytest.skip("the checkout is not readable by other users")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1000", "640"], done.stderr
    assert "File too large" in done.stdout or "No space left" in done.stdout or lines[2] != ""
    assert "unshare: " in done.stdout and lines[-2:] == ["x", "cat: /etc/shadow: No such file or directory"]


def test_interrupt_ends_a_blocked_command_at_once_and_is_no_verdict() -> None:
    with Machine({}) as machine:
        threading.Timer(0.2, machine.interrupt).start()
        begun = time.monotonic()
        with pytest.raises(SandboxError, match="killed from outside"):
            machine.run("sleep 60", 60.0)
        assert time.monotonic() - begun < 5
        with pytest.raises(SandboxError, match="interrupted"):
            machine.run("echo hi")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"files": {"../x": ""}}, "relative"),
        ({"files": {"/etc/x": ""}}, "relative"),
        ({"files": {"a/./b": ""}}, "relative"),
        ({"files": {"": ""}}, "relative"),
        ({"dirs": ["a/../../b"]}, "relative"),
        ({"files": {"a": b"x"}}, "must be text"),
        ({"modes": {"a": "9"}}, "octal"),
        ({"file": {}}, "unknown state key 'file'"),
        ({"files": {"a": "", "a/b": ""}}, "workspace"),
        ({"modes": {"missing": "644"}}, "workspace"),
        ({"files": {"a": "x" * (17 << 20)}}, "No space left"),
    ],
)
def test_a_bad_state_is_one_clear_line_and_leaves_nothing(state: dict[str, object], message: str) -> None:
    with Machine({}):
        pass
    mounts = Path(f"/proc/{keeper().pid}/mountinfo").read_text()
    with pytest.raises(SandboxError, match=message) as raised:
        Machine(state).start()
    assert "\n" not in str(raised.value)
    assert Path(f"/proc/{keeper().pid}/mountinfo").read_text() == mounts


@pytest.fixture
def fake_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """PATH is one empty folder that every user may enter."""
    stop_keeper()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setenv("PATH", name)
        yield folder
        stop_keeper()


def test_a_sandbox_that_cannot_start_says_why_in_one_line(fake_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"\Asandbox: bubblewrap \(bwrap\) not found; install it.*\Z"):
        Machine({}).start()
    fake = fake_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(SandboxError, match=r"\Asandbox: cannot start: bwrap: No permissions to create new namespace\Z"):
        Machine({}).start()


def test_a_start_has_a_deadline() -> None:
    with pytest.raises(SandboxError, match="no shell within 0 s"):
        Machine({}, Limits(start_deadline=0.0)).start()
    with Machine({}) as machine:
        assert machine.run("echo hi").text == "hi"
