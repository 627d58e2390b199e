"""Escapes, denials, leaks: each attempt is contained, and the next episode is clean."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from worldmodel.sandbox import Limits, Machine, Screen, stop_keeper
from worldmodel.sandbox.seccomp import DENIED

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(120)]

CANARY = "canary-7f3a91"
LIMITS = Limits(deadline=5.0, workspace=4 << 20, inodes=256, processes=24, memory=128 << 20)
COLUMN = 0 if platform.machine() == "x86_64" else 1
REFUSED = r"denied|not permitted|Read-only|No such|not found|cannot|annot|failed|Invalid|in use"


@dataclass(frozen=True)
class Host:
    """What an attacker would like to reach: a file, a process, a listener, the project, a kernel setting."""

    secret: Path
    victim: int
    port: int
    abstract: str
    project: Path

    def aim(self, command: str) -> str:
        """``command`` with @secret@, @port@ ... replaced by what they are here."""
        return re.sub(r"@(\w+)@", lambda match: str(getattr(self, match[1])), command)

    def fingerprint(self) -> tuple[str, str, str]:
        return (
            Path("/proc/sys/kernel/core_pattern").read_text(),
            Path("/proc/self/mountinfo").read_text(),
            self.secret.read_text(),
        )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o755)
    secret = folder / "secret.txt"
    secret.write_text(CANARY)
    os.environ["SANDBOX_CANARY"] = CANARY
    stop_keeper()  # so that the next keeper is started with the canary in its parent's environment
    victim = subprocess.Popen(["sleep", "600"])
    abstract = f"agentworld-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0" + abstract)
        local.listen()
        port = server.getsockname()[1]
        yield Host(secret, victim.pid, port, abstract, Path(__file__).resolve().parents[1])
    assert victim.poll() is None, "a process of the host was killed from a box"
    victim.kill()
    victim.wait()
    del os.environ["SANDBOX_CANARY"]
    stop_keeper()


@dataclass(frozen=True)
class Attack:
    """``command`` runs in a box; its screen must match ``shows`` and never ``hides``; a second command must answer."""

    name: str
    command: str
    shows: str = ""
    hides: str = CANARY
    ends: tuple[str, ...] = ("ok",)


def denied_call(name: str, arguments: str = "0, 0, 0, 0, 0") -> Attack:
    number = DENIED[name][COLUMN]
    code = f'$r = syscall({number}, {arguments}); print "r=$r $!\\n"'
    return Attack(f"syscall_{name}", f"perl -e '{code}'", shows=r"r=-1 Operation not permitted")


def open_socket(family: int) -> str:
    return f"""perl -e 'socket($s, {family}, 1, 0) ? print "open\\n" : print "$!\\n"'"""


IDENTITY = [
    Attack("is_not_root", "id -u; id -G; echo $EUID", shows=r"\A1000\n1000\n1000\Z"),
    Attack("no_capabilities", "grep Cap /proc/self/status", hides=r"[1-9a-f]\s*$"),
    Attack(
        "no_new_privileges", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", shows=r"NoNewPrivs:\s*1\nSeccomp:\s*2"
    ),
    Attack("setuid_shell", "cp /usr/bin/bash b; chmod 4755 b; ./b -p -c 'id -u'", shows=r"\A1000\Z"),
    Attack("su", "su -c 'id -u'", hides=r"uid=0|^0$", ends=("ok", "timeout")),
    Attack("become_another_user", "setpriv --reuid 0 id -u; setpriv --reuid 1234 id -u", hides=r"^(0|1234)$"),
    Attack("change_owner", "touch f; chown root f; stat -c %U f", shows=r"user\Z"),
    Attack("shadow_file", "cat /etc/shadow", shows=r"No such file"),
    Attack("write_passwd", "echo 'x::0:0::/:/bin/bash' >> /etc/passwd", shows=REFUSED),
    Attack("core_pattern", "echo '|/bin/false' > /proc/sys/kernel/core_pattern", shows=REFUSED),
    Attack("sysrq", "echo h > /proc/sysrq-trigger", shows=REFUSED),
    Attack("preload_file", "echo /tmp/x.so > /etc/ld.so.preload", shows=REFUSED),
    Attack("raw_disk", "head -c 1 /dev/vda /dev/sda /dev/mem /dev/kmsg | xxd", hides=r"[0-9a-f]{8}: "),
    Attack("make_device", "mknod d b 254 0 && head -c 1 d", shows=REFUSED),
    Attack(
        "oom_score",
        "cat /proc/self/oom_score_adj; echo 0 > /proc/self/oom_score_adj",
        shows=r"\A1000\n.*(Read-only|denied)",
    ),
    Attack("hostname", "hostname other; hostname", shows=r"box\Z"),
]

NAMESPACES = [
    Attack("mount_tmpfs", "mount -t tmpfs x /tmp && echo mounted", hides="^mounted"),
    Attack("mount_bind", "mkdir d; mount --bind /usr d && echo mounted", hides="^mounted"),
    Attack("remount_writable", "mount -o remount,rw /usr && touch /usr/x && echo mounted", hides="^mounted"),
    Attack("unmount_mask", "umount /usr/local && echo done; ls -A /usr/local", shows=REFUSED, hides="lib|share|^done"),
    Attack("nested_user_namespace", "unshare -Ur id -u", hides=r"^0$", shows=REFUSED),
    Attack("nested_everything", "for n in m u i n p C T; do unshare -U$n true && echo made; done", hides="^made"),
    Attack("enter_init", "nsenter -t 1 -a id && echo entered", hides="^entered"),
    Attack("chroot", "chroot / id && echo entered", hides="^entered"),
    Attack("namespace_count", "echo 5 > /proc/sys/user/max_user_namespaces", shows=REFUSED),
]

CALLS = [
    denied_call("keyctl"),
    denied_call("add_key"),
    denied_call("ptrace"),
    denied_call("bpf"),
    denied_call("io_uring_setup"),
    denied_call("userfaultfd"),
    denied_call("perf_event_open"),
    denied_call("process_vm_readv"),
    denied_call("memfd_create"),
    denied_call("shmget", "0, 1048576, 950"),
    denied_call("open_by_handle_at"),
    denied_call("kexec_load"),
    denied_call("setns"),
    Attack("trace_a_process", "strace -f true; gdb -p 1 -batch", hides=r"execve\("),
    Attack("vsock", open_socket(40), shows="not supported", hides="open"),
    Attack("netlink", open_socket(16), shows="not supported", hides="open"),
    Attack("crypto_socket", open_socket(38), shows="not supported", hides="open"),
    Attack("raw_socket", "perl -e 'print socket($s, 2, 3, 1) ? 1 : \"$!\"'", shows="not permitted"),
]

NETWORK = [
    Attack(
        "loopback_of_host", "(echo hi > /dev/tcp/127.0.0.1/@port@) && echo reached", hides="^reached", shows="refused"
    ),
    Attack("outside", "(echo hi > /dev/tcp/1.1.1.1/53) && echo reached", hides="^reached", shows="unreachable"),
    Attack("interfaces", "tail -n +3 /proc/net/dev | cut -d: -f1", shows=r"\A\s*lo\Z"),
    Attack(
        "abstract_socket",
        "perl -MSocket -e 'socket($s,1,1,0); "
        'print connect($s, pack_sockaddr_un("\\0@abstract@")) ? "reached" : "$!"\'',
        shows="refused",
        hides="reached",
    ),
]

SECRETS = [
    Attack("environment", "env; cat /proc/*/environ | tr '\\0' '\\n'"),
    Attack("command_lines", "cat /proc/*/cmdline | tr '\\0' ' '; ps auxww", hides=r"--bind|--ro-bind|pytest|python"),
    Attack("host_file", "cat @secret@", shows="No such file"),
    Attack(
        "project", "ls @project@ /root /work /srv /media /mnt /var /run /boot", hides=r"(?m)^(rollout|pyproject.*|log)$"
    ),
    Attack("root_listing", "ls /", hides=r"(?m)^(root|work|var|run|sys|boot|srv|media|mnt|opt)$"),
    Attack("init_root", "ls /proc/1/root/ /proc/1/cwd/; cat /proc/1/root@secret@"),
    Attack("parent_folders", "cat ../../../../../..@secret@; cd /proc/self/cwd/../../..; cat .@secret@"),
    Attack("symlink", "ln -s @secret@ s; cat s; ln -s / r; cat r@secret@"),
    Attack("hard_link", "ln @secret@ h; ln /usr/bin/bash h", shows=REFUSED),
    Attack("descriptors", "ls -l /proc/*/fd/ | grep -v -E 'null|pipe|/proc|total|^$|fd:|eventfd|-> /usr'", hides=r"->"),
    Attack(
        "kernel_facts",
        "cat /proc/cmdline /proc/keys /proc/kallsyms /proc/kcore /proc/version | wc -c",
        shows=r"(\A|\n)0\Z",
    ),
    Attack("masked_tools", "find /usr/local -type f", shows=r"\A/usr/local/bin/date\Z"),
    Attack("etc_is_made", "cat /etc/passwd | wc -l; ls /etc/ssh /etc/ssl /etc/hosts.allow", shows=r"\A3\n"),
    Attack(
        "write_system",
        "for d in / /usr /usr/bin /bin /etc /proc /dev /dev/shm /home; do touch $d/x && echo wrote; done",
        hides="^wrote",
    ),
    Attack("other_processes", "ls -d /proc/[0-9]* | wc -l", shows=r"\A[1-6]\Z"),
    Attack("kill_host_process", "kill -9 @victim@; kill -9 -@victim@", shows="No such process"),
]

RESOURCES = [
    Attack("fork_bomb", ":(){ :|:& }; :", ends=("ok", "timeout", "exit", "flood")),
    Attack(
        "process_limit",
        "for i in $(seq 60); do sleep 9 & done; jobs | wc -l",
        shows="Resource temporarily unavailable",
        ends=("ok", "timeout"),
    ),
    Attack("disk_full", "head -c 9M /dev/zero > big; wc -c < big", shows="No space left"),
    Attack("disk_full_tmp", "head -c 9M /dev/zero > /tmp/big; head -c 9M /dev/zero > big", shows="No space left"),
    Attack("inodes_full", "for i in $(seq 400); do : > f$i; done 2>&1 | tail -n 1", shows="No space left"),
    Attack("large_file", "truncate -s 10G big; stat -c %s big", shows=r"\A0\Z|too large"),
    Attack("device_fill", "head -c 9M /dev/zero > /dev/x; head -c 9M /dev/zero > /dev/shm/x", shows=REFUSED),
    Attack(
        "memory_of_one",
        "perl -e '$x = \"a\" x 600000000; print length $x'",
        shows="Out of memory|Killed|llocat",
        hides=r"^6000",
    ),
    Attack(
        "memory_of_many",
        "for i in 1 2 3 4 5 6; do perl -e '$x = \"a\" x 90000000; sleep 1' & done; wait; echo end",
        ends=("ok", "timeout", "exit"),
    ),
    Attack(
        "open_files",
        "for i in $(seq 300); do exec {f}<a.txt; done; echo $f",
        shows="Too many open files",
        ends=("ok", "timeout"),
    ),
    Attack("endless_lines", "yes", ends=("flood",)),
    Attack("endless_bytes", "cat /dev/zero", ends=("flood",)),
    Attack("endless_errors", "while :; do echo no >&2; done", ends=("flood", "timeout")),
    Attack("endless_loop", "while :; do :; done", ends=("timeout",)),
    Attack("waits_for_ever", "sleep 1000", ends=("timeout",)),
    Attack(
        "ignores_signals", "trap '' TERM INT HUP QUIT; bash -c \"trap '' TERM INT HUP; sleep 1000\"", ends=("timeout",)
    ),
    Attack(
        "daemon",
        "setsid sleep 1000 >/dev/null 2>&1 & nohup sleep 1000 >/dev/null 2>&1 & disown -a; echo left",
        shows="left",
    ),
    Attack("background_flood", "(sleep 0.2; yes) & echo now", shows="now"),
    Attack("stops_its_shell", "kill -STOP $$", ends=("timeout",)),
    Attack("kills_its_shell", "kill -9 $$", ends=("exit",)),
    Attack("kills_everything", "kill -9 -1", ends=("ok", "exit")),
    Attack("kills_init", "kill -9 1; kill -TERM 1", ends=("ok", "exit")),
    Attack(
        "closes_descriptors",
        'exec 0<&- 1>&- 2>&- 199>&-; for f in /proc/$$/fd/*; do eval "exec ${f##*/}>&-"; done',
        ends=("ok", "timeout", "exit"),
    ),
    Attack("reads_control_stream", "cat <&10; read -u 10 x", ends=("ok", "timeout", "exit")),
    Attack("reads_terminal", 'cat; read x; echo "got=$x"', shows="got=$"),
    Attack("waits_on_fifo", "mkfifo p; cat p", ends=("timeout",)),
    Attack("long_command", ": " + "x" * 15000),
    Attack(
        "escape_sequences",
        "printf '\\033]0;owned\\007\\033[2J\\033[31mred\\x9b31m\\b\\a'",
        shows=r"\A[re]*d?\S*\Z",
        hides="\x1b|\x9b|\x07",
    ),
]

ATTACKS = IDENTITY + NAMESPACES + CALLS + NETWORK + SECRETS + RESOURCES


def check_clean(machine: Machine) -> None:
    """A fresh machine shows its own file and nothing else, and runs few processes."""
    seen = machine.run("ls -A . /tmp; cat a.txt; type cat; alias; declare -F; ls -d /proc/[0-9]* | wc -l").text
    assert re.fullmatch(r"\.:\na\.txt\n\n/tmp:\nfresh\ncat is hashed \(/usr/bin/cat\)\n[1-6]", seen), seen


def test_there_are_at_least_forty_attempts_with_distinct_names() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 40


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attempt_is_contained_and_comes_upon_a_clean_machine(attack: Attack, host: Host) -> None:
    """Each attempt is the episode after the one before it: what that left behind would be seen here, at the start."""
    before = host.fingerprint()
    command = host.aim(attack.command)
    with Machine({"files": {"a.txt": "fresh\n"}}, LIMITS) as machine:
        check_clean(machine)
        screen = machine.run(command, 0.6 if "timeout" in attack.ends else 5.0)
        assert screen.end in attack.ends, screen
        assert re.search(attack.shows, screen.text), screen.text
        assert not re.search(attack.hides, screen.text, re.MULTILINE), screen.text
        assert len(screen.text.splitlines()) <= 40
        (reply,) = machine.probe(["id -u"])
        assert reply.text == "1000"
    assert host.fingerprint() == before


def test_after_all_attempts_a_machine_is_clean_and_its_verdict_honest(host: Host) -> None:
    with Machine({"files": {"a.txt": "fresh\n"}}, LIMITS) as machine:
        check_clean(machine)
        (reply,) = machine.probe(["cat a.txt"])
        assert reply == Screen("fresh", 0)
