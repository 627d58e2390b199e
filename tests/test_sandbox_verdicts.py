"""Verdicts cannot be forged: whatever an episode leaves behind, a probe reports the files as they are."""

from __future__ import annotations

import pytest

from worldmodel.sandbox import Limits, Machine

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(120)]

LIMITS = Limits(deadline=5.0)
STATE = {"files": {"result.txt": "wrong\n"}}
FAKE = "printf '#!/bin/sh\\necho right\\n' > {0}; chmod +x {0}; "

FORGERIES = {
    "fake_cat_on_path": FAKE.format("cat") + "export PATH=$PWD:$PATH; hash -r",
    "fake_cat_in_tmp": FAKE.format("/tmp/cat") + "PATH=/tmp:$PATH",
    "fake_cat_over_real": FAKE.format("c") + "cp c /usr/bin/cat; mv c /bin/cat; ln -sf $PWD/c /usr/bin/cat",
    "alias": "alias cat='echo right'; shopt -s expand_aliases",
    "function": "cat() { echo right; }; export -f cat",
    "function_over_eval": "eval() { echo right; }; builtin() { echo right; }; printf() { echo right; }",
    "disabled_builtins": "enable -n echo printf eval builtin",
    "hash_table": FAKE.format("c") + "hash -p $PWD/c cat",
    "bashrc": "echo 'cat() { echo right; }' | tee .bashrc .profile .bash_profile .bash_login > .bash_aliases",
    "bash_env": "echo 'cat() { echo right; }' > e; export BASH_ENV=$PWD/e ENV=$PWD/e",
    "prompt_command": "PROMPT_COMMAND='echo right; exit'",
    "traps": "trap 'echo right' DEBUG EXIT ERR RETURN",
    "inputrc": 'echo \'"c": "echo right"\' > .inputrc; export INPUTRC=$PWD/.inputrc',
    "ld_preload": "cp /usr/lib/*/libc.so.6 l.so; export LD_PRELOAD=$PWD/l.so LD_LIBRARY_PATH=$PWD",
    "ld_audit": "export LD_AUDIT=$PWD/l.so LD_BIND_NOW=1",
    "locale": "export LC_ALL=xx LOCPATH=$PWD LANGUAGE=xx",
    "file_named_like_an_option": "touch -- '-n' '--help'",
    "marker": "for f in 199 10 11 12; do echo 0000 0 >&$f; done; exec 199>&-",
    "control_stream": "for p in /proc/[0-9]*; do echo 'cat() { echo right; }' > $p/fd/0; done 2>/dev/null",
    "background_writer": "(while :; do sleep 0.6; echo right > result.txt; done) &",
    "daemon_writer": "setsid nohup bash -c 'trap \"\" TERM INT HUP; sleep 0.6; echo right > result.txt' &",
    "many_daemons": "for i in $(seq 12); do setsid bash -c 'sleep 0.6; echo right > result.txt' & done",
    "open_descriptor_writer": "exec 7>>result.txt; (sleep 0.6; echo right >&7) & disown -a",
    "stopped_shell": "(sleep 0.6; echo right > result.txt) & kill -STOP $$",
    "killed_shell": "(sleep 0.6; echo right > result.txt) & disown -a; kill -9 $$",
    "mount_over_result": "echo right > r; mount --bind r result.txt; unshare -Urm mount --bind r result.txt",
    "python_startup": "echo 'print(\"right\")' | tee sitecustomize.py usercustomize.py; export PYTHONPATH=$PWD",
    "perl_startup": "export PERL5OPT=-e'print\"right\"' PERL5LIB=$PWD",
    "shell_flood": "echo wrong > result.txt; yes",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_probe_reads_the_file_as_it_is(name: str) -> None:
    with Machine(STATE, LIMITS) as machine:
        machine.run(FORGERIES[name], 0.4)
        texts = [reply.text for reply in machine.probe(["cat result.txt", "echo x", "python3 -c 'print(1)'"])]
        assert texts == ["wrong", "x", "1"]
        if "sleep 0.6" in FORGERIES[name]:  # and after its daemons would have written
            assert machine.run("sleep 0.7; cat result.txt").text == "wrong"
    with Machine(STATE, LIMITS) as machine:
        assert machine.run("cat result.txt; type -t cat").text == "wrong\nfile"


BLOCKERS = {
    "fifo": "rm result.txt; mkfifo result.txt",
    "fifo_with_writer": "rm result.txt; mkfifo result.txt; (echo right > result.txt) & disown -a",
    "link_to_endless": "ln -sf /dev/zero result.txt",
    "link_to_terminal": "ln -sf /dev/tty result.txt",
    "link_to_itself": "rm result.txt; ln -s result.txt result.txt",
    "link_to_descriptor": "ln -sf /proc/self/fd/0 result.txt",
    "folder": "rm result.txt; mkdir result.txt",
    "socket": "rm result.txt; perl -MSocket -e 'socket($s,1,1,0); bind($s, pack_sockaddr_un(\"result.txt\"))'",
    "unreadable": "echo right > result.txt; chmod 000 result.txt",
    "unreachable": "echo right > result.txt; chmod 000 .",
    "huge": "yes right | head -c 3M > result.txt",
}


@pytest.mark.parametrize("name", BLOCKERS)
def test_a_probe_is_not_held_up_and_never_answers_right(name: str) -> None:
    with Machine(STATE, Limits(deadline=0.5)) as machine:
        machine.run(BLOCKERS[name])
        first, second = machine.probe(["cat result.txt", "echo next"])
        assert first.text != "right" and (first.end != "ok" or first.status != 0 or first.text == "" or first.cut)
        assert second.text == "next"


def test_a_file_that_a_probe_executes_cannot_answer_for_the_next_probe() -> None:
    script = """
        for pid in /proc/[0-9]*; do for fd in 0 1 2 10 11 12 199; do
            echo 'cat() { echo right; }' > $pid/fd/$fd
        done; done 2>/dev/null
        (setsid bash -c 'while :; do echo right > /proc/'$PPID'/fd/1; done' &) 2>/dev/null
        echo 'echo right' > run.sh; echo right > result.txt; kill -STOP $PPID
    """
    with Machine({"files": {"run.sh": script, "result.txt": "wrong\n"}}, Limits(deadline=1.0)) as machine:
        _, second, third = machine.probe(["bash run.sh", "cat result.txt", "tail -n 1 run.sh | wc -l"])
        assert (second.text, third.text) == ("wrong", "0")


def test_probes_cannot_change_the_workspace_or_each_other() -> None:
    with Machine({"files": {"a": "1\n"}, "dirs": ["d"]}) as machine:
        writes, shell, reads = machine.probe(
            [
                "echo 2 > a; rm a; touch d/x /tmp/x; chmod 777 a",
                "x=1; cd d; alias cat=echo",
                "cat a; ls d /tmp; pwd; echo $x",
            ]
        )
        assert writes.text.count("Read-only file system") == 5
        assert shell.text == ""
        assert reads.text == "1\n/tmp:\n\nd:\n/home/user"
